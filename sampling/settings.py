"""How to edit, as plain typed numbers; no torch here, so that a wrong option is refused at once."""

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

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
ExemplarBackground = Literal["crop", "neutral"]
Dtype = Literal["float32", "bfloat16", "float16"]
InversionMethod = Literal["ddim", "direct", "null-condition", "negative-condition", "ddpm"]


class EditSettings(Config):
    """Everything about an edit except the pictures and the seed."""

    # Beyond half of the 1000 training steps the even spacing would no longer start from pure noise.
    num_inference_steps: int = Field(default=50, ge=1, le=500)
    guidance_scale: float = Field(default=5.0, ge=0.0, le=100.0)  # 1 = the exemplar's prediction, unguided
    # Guided only while timestep / training timesteps lies between these; 1 = pure noise.
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    scheduler: SchedulerName = "plms"
    karras: bool = False  # Karras et al.'s spacing of the noise levels
    eta: float = Field(default=0.0, ge=0.0, le=1.0)  # DDIM's noise: 0 none, 1 as much as DDPM
    fit: Fit = "auto"  # how the picture meets the model's square; see sampling/canvas/canvas.py
    context: float = Field(default=1.0, ge=0.0, le=20.0)  # of a crop, in lengths of the mask's longer side
    known_region: KnownRegion = "model"  # how the model is held to what lies outside the mask
    latent_blend: bool = False  # the picture's own latents outside the mask before the last decoding
    # Pixels inside the mask over which the edit fades in; far beyond the limit Pillow's blur crashes.
    blend: int = Field(default=0, ge=0, le=10_000)
    match_colour: MatchColour = "none"  # correct the colours by what the model made of the known ring
    composite: bool = True  # outside the mask the input's own pixels; false: all that the model painted
    batch_size: PositiveInt = 4  # pictures at once; has no influence on the result

    def plain(self) -> dict[str, Any]:
        """All that decides the result, as JSON has it."""
        return self.model_dump(mode="json", exclude={"batch_size"})

    @field_validator("guidance_interval", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """`0.2,0.8`, as a list of jobs has it."""
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
        return self


class MachineSettings(Config):
    """Where and how the model runs; speed and memory, and the rounding of the arithmetic."""

    device: str = "auto"  # auto takes a GPU where there is one
    dtype: Literal["auto", Dtype] = "auto"  # auto: bfloat16 on a GPU, else float32
    compile: bool = False  # the UNet by torch.compile: slow to start, quicker steps
    low_vram: bool = False  # only the network at work is on the device; the autoencoder works in parts


class InversionSettings(Config):
    """How to edit from the picture instead of noise."""

    method: InversionMethod = "direct"
    num_inference_steps: int = Field(default=50, ge=1, le=500)
    guidance_scale: float = Field(default=7.5, ge=0.0, le=100.0)  # of the edit; 1 = unguided
    # Share of the walk that the edit begins at: below 1 it keeps more of the picture's pose and layout.
    strength: float | None = Field(default=None, gt=0, le=1)  # null = 1, and 0.76 for ddpm, as published
    offset_scale: float = Field(default=1.0, ge=0, le=1)  # direct: share of the difference that is added back
    inner_steps: int = Field(
        default=10, ge=1
    )  # null-condition: most updates of the null tokens at each place

    def start(self, steps: int) -> int:
        """The place that the edit begins at, 1 … steps."""
        strength = self.strength or (0.76 if self.method == "ddpm" else 1.0)
        return max(1, round(strength * steps))
