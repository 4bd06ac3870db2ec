"""The settings of edits as plain typed values, without torch, so that a wrong option is refused at once."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from pydantic import Field, PositiveInt, field_validator, model_validator

from intarsia.config import Config
from sampling.samplers import SAMPLERS

if TYPE_CHECKING:
    SchedulerName: TypeAlias = str
else:
    SchedulerName = Literal[tuple(SAMPLERS)]
Fit = Literal["auto", "resize", "crop", "pad"]
KnownRegion = Literal["model", "replace", "both"]
MatchColour = Literal["none", "mean", "deviation"]
Dtype = Literal["float32", "bfloat16", "float16"]


class BackgroundRow(NamedTuple):
    """What takes the place of the surroundings of an exemplar's object, and what is shown of it.

    Attributes:
        colour: red, green and blue.
        crop: whether the exemplar is cropped to the box of the object.
        margin: pixels around this box that stay, or those that there are.
        grow: factor of the box's sides; more than 1 also makes a square of it, on the same colour.
        needs_outline: whether an exemplar without an outline of its object is refused.
    """

    colour: tuple[int, int, int]
    crop: bool = True
    margin: int = 0
    grow: float = 1.0
    needs_outline: bool = True


NEUTRAL = (123, 117, 104)  # CLIP's mean colour, which becomes zero at the exemplar encoder's input
# The last three are what data prep's recipes train on (configs/recipes): white is AnyDoor's, whose square is
# 1.1 to 1.4 times the object; black is ObjectStitch's, and grey that of `--exemplar-background grey`.
EXEMPLAR_BACKGROUNDS = {
    "crop": BackgroundRow(NEUTRAL, needs_outline=False),
    "neutral": BackgroundRow(NEUTRAL, crop=False, needs_outline=False),
    "white": BackgroundRow((255, 255, 255), grow=1.25),
    "black": BackgroundRow((0, 0, 0), margin=10),
    "grey": BackgroundRow((128, 128, 128), margin=10),
}
if TYPE_CHECKING:
    ExemplarBackground: TypeAlias = str
else:
    ExemplarBackground = Literal[tuple(EXEMPLAR_BACKGROUNDS)]
# Couplings by name: the module with each one's COUPLING (`sampling.couplings.coupling.CouplingRow`).
COUPLINGS = {
    "background": "sampling.couplings.background",
    "context": "sampling.couplings.context",
    "masactrl": "sampling.couplings.masactrl",
    "masactrl-masks": "sampling.couplings.masactrl_masks",
    "pnp": "sampling.couplings.plug_and_play",
    "p2p": "sampling.couplings.prompt_to_prompt",
    "pix2pix-zero": "sampling.couplings.pix2pix_zero",
}
InversionMethod = Literal["ddim", "direct", "null-condition", "negative-condition", "ddpm"]
LearnedMethod = Literal["style"]  # trains a network for each picture
PROMPT_METHODS: dict[str, InversionMethod] = {  # the names that two methods have for a prompt
    "null-text": "null-condition",
    "negative-prompt": "negative-condition",
}
PromptMethod = Literal["null-text", "negative-prompt"]
AlignmentName = Literal["refine", "replace", "same", "similar"]


_LATER = ("text_guidance_scale", "clip_guidance", "resample", "low_res_noise")


class EditSettings(Config):
    """All settings of an edit except the pictures and the seed."""

    # With more than half of the 1000 training steps, the even spacing would not start from pure noise.
    num_inference_steps: int = Field(default=50, ge=1, le=500)
    guidance_scale: float = Field(default=5.0, ge=0.0, le=100.0)  # of the exemplar; 1 = no guidance
    text_guidance_scale: float = Field(default=7.5, ge=0.0, le=100.0)  # of the prompt; 1 = no guidance
    clip_guidance: float = Field(default=0.0, ge=0.0, le=1000.0)  # of a noised encoder; 1 = Bayes' rule
    # Range of timestep / training timesteps with guidance; 1 = pure noise.
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    scheduler: SchedulerName = "plms"
    karras: bool = False  # spacing of the noise levels of Karras et al.
    eta: float = Field(default=0.0, ge=0.0, le=1.0)  # DDIM's noise: 0 = none, 1 = as much as DDPM
    fit: Fit = "auto"  # fit of the picture to the model's square; see sampling/canvas/canvas.py
    context: float = Field(default=1.0, ge=0.0, le=20.0)  # margin of a crop, in longer sides of the mask
    known_region: KnownRegion = "model"  # how the surroundings of the mask are kept
    resample: int = Field(default=1, ge=1, le=100)  # RePaint's calls of the model per step, with replacement
    low_res_noise: int = Field(default=0, ge=0, lt=1000)  # of an upsampler: level of the base's error
    latent_blend: bool = False  # use the picture's own latents outside the mask before decoding
    # Width in pixels, inside the mask, of the soft seam; far above the limit Pillow's blur crashes.
    blend: int = Field(default=0, ge=0, le=10_000)
    match_colour: MatchColour = "none"  # correct the colours by the known ring around the mask
    composite: bool = True  # true: the input's pixels outside the mask; false: all pixels of the model
    batch_size: PositiveInt = 4  # pictures at the same time; does not affect the results

    def plain(self) -> dict[str, Any]:
        """All values that affect the result, as JSON values.

        Later settings only if they are not the defaults, so that hashes of older results remain valid.
        """
        content = self.model_dump(mode="json", exclude={"batch_size"})
        for name in _LATER:
            if content[name] == EditSettings.model_fields[name].default:
                del content[name]
        return content

    @field_validator("guidance_interval", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Split a text such as `0.2,0.8` from a list of jobs."""
        return tuple(value.split(",")) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> "EditSettings":
        low, high = self.guidance_interval
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"guidance_interval={low},{high} must be two numbers 0 <= LOW < HIGH <= 1")
        if self.karras and not SAMPLERS[self.scheduler].karras:
            able = [name for name, sampler in SAMPLERS.items() if sampler.karras]
            raise ValueError(f"karras works with {', '.join(able)}, not with {self.scheduler}")
        if self.eta and not SAMPLERS[self.scheduler].eta:
            able = [name for name, sampler in SAMPLERS.items() if sampler.eta]
            raise ValueError(f"eta={self.eta} works with {', '.join(able)} only, not with {self.scheduler}")
        if self.resample > 1 and self.known_region == "model":
            raise ValueError(f"resample={self.resample} needs known_region=replace or both")
        if self.resample > 1 and not SAMPLERS[self.scheduler].repeats:
            able = [name for name, sampler in SAMPLERS.items() if sampler.repeats]
            raise ValueError(
                f"resample={self.resample} works with {', '.join(able)} only, not with {self.scheduler}, "
                "whose steps depend on earlier ones"
            )
        return self


# What decides which part of a picture is seen and how the result is put back, whatever paints.
CANVAS_SETTINGS = ("fit", "context", "blend", "match_colour", "composite")


class MachineSettings(Config):
    """Device, precision and memory options; they affect speed and rounding."""

    device: str = "auto"  # auto: a GPU if there is one
    dtype: Literal["auto", Dtype] = "auto"  # auto: bfloat16 on a GPU, else float32
    compile: bool = False  # torch.compile of the UNet: a slow start, faster steps
    low_vram: bool = False  # only the network in use is on the device; the autoencoder works in parts
    iopaint_url: str = "http://127.0.0.1:8080"  # a running IOPaint server, for the painter iopaint
    noised_clip: Path | None = None  # folder of the noised encoder that `EditSettings.clip_guidance` uses
    upsampler: Path | None = None  # folder of the upsampler that paints large windows again
    style_tower: Path | None = None  # folder of CLIP's vision tower, whose view the method style learns from


_WALK = ("offset_every", "offset_to", "null_to", "regularise")  # what only a walk of both branches can do


class InversionSettings(Config):
    """Settings of edits that start from the picture instead of noise."""

    method: InversionMethod | PromptMethod | LearnedMethod = "direct"
    num_inference_steps: int = Field(default=50, ge=1, le=500)
    guidance_scale: float = Field(default=7.5, ge=0.0, le=100.0)  # scale of the edit; 1 = no guidance
    # Share of the steps at which the edit begins: values below 1 keep more of the picture's pose and layout.
    strength: float | None = Field(default=None, gt=0, le=1)  # null = 1, and 0.76 for ddpm, as published
    offset_scale: float = Field(default=1.0, ge=0, le=1)  # direct: added share of the difference
    inner_steps: int = Field(
        default=10, ge=1
    )  # null-condition: largest number of updates of the null tokens per place; style: 10 times that at first
    # What the edit takes from the source, in this order; null = background alone, as without couplings.
    coupling: tuple[str, ...] | None = None
    steps_offset: Literal[0, 1] = 1  # lowest timestep; with 0 the last step changes almost nothing
    offset_every: int = Field(default=1, ge=1)  # direct: add the difference at every k-th step only
    offset_to: Literal["source", "both", "own"] = "source"  # direct: who gets it; own: the edit, its own
    null_to: Literal["both", "source"] = "both"  # null-condition: whose null tokens are optimised
    regularise: bool = False  # make the noise on the way up more like white noise, as pix2pix-zero does
    alignment: AlignmentName | None = None  # p2p: null = refine for prompts, same for exemplars

    @field_validator("coupling", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("coupling")
    @classmethod
    def _known_couplings(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for place, name in enumerate(names or ()):
            if name not in COUPLINGS:
                raise ValueError(f"{name!r} is not one of {', '.join(COUPLINGS)}")
            if name in names[:place]:  # type: ignore[index]
                raise ValueError(f"{name} appears twice; name it once")
        return names

    @model_validator(mode="after")
    def _check_method(self) -> "InversionSettings":
        own = {"direct": ("offset_every", "offset_to"), "null-condition": ("null_to",)}
        for method, names in own.items():
            for name in names:
                value = getattr(self, name)
                if self.inversion != method and value != type(self).model_fields[name].default:
                    raise ValueError(f"{name}={value} is for the method {method}, not for {self.method}")
        if self.method == "ddpm" and (self.steps_offset == 0 or self.regularise):
            what = "regularise=true" if self.regularise else "steps_offset=0"
            raise ValueError(f"{what} is not for the method ddpm: it has no way up, and divides by each step")
        return self

    @property
    def inversion(self) -> InversionMethod | LearnedMethod:
        """The method; null-text and negative-prompt by their general names."""
        return PROMPT_METHODS.get(self.method, self.method)  # type: ignore[arg-type, return-value]

    def updates(self, done: int, steps: int) -> int:
        """style: largest number of updates before a step, 10 · `inner_steps` at first, then falling.

        As published, 1,071 in 50 steps. `done`: number of steps done; `steps`: number of all steps.
        """
        return math.ceil(10 * self.inner_steps * math.exp(-5 * done / steps))

    def plain(self) -> dict[str, Any]:
        """All values as JSON values; later settings only if they are not the default ones.

        So the records of older results, and of all that has none of the later settings, remain as they are.
        """
        content, fields = self.model_dump(mode="json"), type(self).model_fields
        late = ("steps_offset", "alignment", *_WALK)
        return {k: v for k, v in content.items() if k not in late or v != fields[k].default}

    def is_plain(self) -> bool:
        """Whether the source can be walked down alone, before the edit."""
        return all(getattr(self, name) == type(self).model_fields[name].default for name in _WALK)

    def start(self, steps: int) -> int:
        """The place where the edit begins, 1 … steps."""
        strength = self.strength or (0.76 if self.method == "ddpm" else 1.0)
        return max(1, round(strength * steps))
