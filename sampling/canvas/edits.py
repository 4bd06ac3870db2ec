"""One edit: what is asked for, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from intarsia.boxes import Box
from intarsia.conditions.structure import MapSource
from sampling.pictures import Picture
from sampling.settings import EditSettings


@dataclass(frozen=True)
class EditRequest:
    """One picture to edit.

    Attributes:
        image: picture, uint8 [H, W, 3] RGB, any size.
        edit_mask: area to repaint, bool or float [H, W], 1 = repaint.
        exemplar: picture of the object to paint, uint8 [h, w, 3] RGB, any size; None if the model is told a
            prompt instead.
        seed: seed of this picture's noise.
        guidance_scale: exemplar's guidance scale of this picture, instead of the settings'; one batch can
            have several.
        prompt: text that says what to paint; empty if the model is told an exemplar only.
        text_guidance_scale: prompt's guidance scale of this picture, instead of the settings'.
        structure: structure maps by name: "picture" or "exemplar", of which the map is computed, or the map
            itself, uint8 [H, W] or [H, W, 3] RGB in the picture's size. The others are blank.
    """

    image: Picture
    edit_mask: NDArray[np.bool_] | NDArray[np.floating]
    exemplar: Picture | None = None
    seed: int = 0
    guidance_scale: float | None = None
    prompt: str = ""
    text_guidance_scale: float | None = None
    structure: Mapping[str, MapSource] = field(default_factory=dict)

    def own_settings(self, settings: EditSettings) -> EditSettings:
        """The settings with this request's own guidance scales."""
        own = {name: getattr(self, name) for name in ("guidance_scale", "text_guidance_scale")}
        return settings.model_copy(update={name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class EditResult:
    """One edited picture, its request and settings.

    Attributes:
        image: edited picture, uint8 [H, W, 3] RGB, same size as the input.
        request: request as given.
        settings: settings of this picture, including its own guidance scale.
        remarks: reasons why the result may disappoint, one sentence each, with what to do.
        window: part of the picture that the model saw.
        colour_shift: mean difference, result minus picture, of red, green and blue on the known ring around
            the mask, in levels of 255, before any correction.
        seconds: time of this picture's batch in seconds, by part: fit, encode, denoise, decode, paste.
    """

    image: Picture
    request: EditRequest
    settings: EditSettings
    remarks: tuple[str, ...]
    window: Box
    colour_shift: tuple[float, float, float]
    seconds: Mapping[str, float]
