"""The samplers: one row each, which options, help, page and tests read; nothing heavy is imported."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Sampler(NamedTuple):
    """One of diffusers' schedulers as we use it.

    Attributes:
        scheduler: name of its class in diffusers.
        steps: number of steps that is usually enough.
        options: constructor options beside the model's noise levels.
        karras: whether it takes Karras et al.'s spacing of the noise levels.
        eta: whether its share of fresh noise can be chosen.
    """

    scheduler: str
    steps: int
    options: Mapping[str, Any] = MappingProxyType({})
    karras: bool = False
    eta: bool = False


# Alpha at the last step is the first training step's in PLMS and DDIM, not 1, as in the original; the others
# end at no noise. PLMS is diffusers' PNDM without its Runge-Kutta start.
SAMPLERS: dict[str, Sampler] = {
    "plms": Sampler("PNDMScheduler", 50, {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "ddim": Sampler("DDIMScheduler", 50, {"clip_sample": False, "set_alpha_to_one": False}, eta=True),
    "dpm++": Sampler(
        "DPMSolverMultistepScheduler",
        20,
        {"algorithm_type": "dpmsolver++", "solver_order": 2},
        karras=True,
    ),
    "unipc": Sampler("UniPCMultistepScheduler", 20, karras=True),
    "euler": Sampler("EulerDiscreteScheduler", 40, karras=True),
    "euler-ancestral": Sampler("EulerAncestralDiscreteScheduler", 40),
    "heun": Sampler("HeunDiscreteScheduler", 25, karras=True),  # asks the model twice in each step
    "ddpm": Sampler("DDPMScheduler", 250, {"clip_sample": False}),
}
