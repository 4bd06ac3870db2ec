"""The table of samplers for options, help, page and tests, without heavy imports."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Sampler(NamedTuple):
    """One of diffusers' schedulers with our options.

    Attributes:
        scheduler: class name in diffusers.
        steps: number of steps that is usually enough.
        options: constructor options in addition to the model's noise levels.
        karras: whether it supports Karras et al.'s spacing of the noise levels.
        eta: whether its share of fresh noise can be set.
        repeats: whether a step may be repeated, because it depends on no earlier one.
    """

    scheduler: str
    steps: int
    options: Mapping[str, Any] = MappingProxyType({})
    karras: bool = False
    eta: bool = False
    repeats: bool = False


# As in the original code, PLMS and DDIM end at the alpha of the first training step, not at 1; the others end
# at no noise. PLMS is diffusers' PNDM without its Runge-Kutta start.
SAMPLERS: dict[str, Sampler] = {
    "plms": Sampler("PNDMScheduler", 50, {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "ddim": Sampler(
        "DDIMScheduler", 50, {"clip_sample": False, "set_alpha_to_one": False}, eta=True, repeats=True
    ),
    "dpm++": Sampler(
        "DPMSolverMultistepScheduler",
        20,
        {"algorithm_type": "dpmsolver++", "solver_order": 2},
        karras=True,
    ),
    "unipc": Sampler("UniPCMultistepScheduler", 20, karras=True),
    "euler": Sampler("EulerDiscreteScheduler", 40, karras=True),
    "euler-ancestral": Sampler("EulerAncestralDiscreteScheduler", 40),
    "heun": Sampler("HeunDiscreteScheduler", 25, karras=True),  # two model calls per step
    "ddpm": Sampler("DDPMScheduler", 250, {"clip_sample": False}, repeats=True),
}
