"""How to edit, as plain typed numbers; no torch here, so that a wrong option is refused at once."""

from typing import Literal

from pydantic import Field, PositiveInt

from intarsia.config import Config

SchedulerName = Literal["plms", "ddim"]


class EditSettings(Config):
    """Everything about an edit except the pictures and the seed."""

    # Beyond half of the 1000 training steps the even spacing would no longer start from pure noise.
    num_inference_steps: int = Field(default=50, ge=1, le=500)
    guidance_scale: float = Field(default=5.0, ge=0.0, le=100.0)  # 1 = the exemplar's prediction, unguided
    scheduler: SchedulerName = "plms"
    composite: bool = True  # outside the mask the input's own pixels; false: the model's whole picture
    batch_size: PositiveInt = 4  # pictures at once; has no influence on the result
