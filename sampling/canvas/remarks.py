"""Notes on edits that may disappoint: one sentence for each visible cause, with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sampling.canvas.canvas import Canvas
from sampling.pictures import Mask, Picture
from sampling.settings import EditSettings, InversionSettings

if TYPE_CHECKING:
    from intarsia.model import EditModel

_SMALL = 0.02  # share of the model's square; objects in training cover more
_NEARLY_ALL = 0.9  # share of the picture
_FLAT = 4.0  # standard deviation of an exemplar, in levels of 255
_LOOKED_AT = 224  # pixels of an exemplar's shorter side, at least, that are looked at: it may have thousands
_SMALL_EXEMPLAR = 32  # shorter side of an exemplar, in pixels
_SQUASHED = 2.0  # aspect ratio of a window that does not occur in training
_UNCHANGED = 2.0  # mean difference inside the mask, in levels of 255


def before_painting(
    canvas: Canvas,
    edit_mask: Mask,
    fitted_mask: NDArray[np.uint8],
    exemplar: Picture | None,
    settings: EditSettings | InversionSettings,
) -> Iterator[str]:
    """Remarks on a request.

    Args:
        canvas: position of the picture on the model's square.
        edit_mask: mask of the picture, bool [H, W].
        fitted_mask: mask of the square, uint8 [S, S], 255 = repaint.
        exemplar: exemplar, uint8 [h, w, 3]; None without one.
        settings: settings of the edit.
    """
    seen, share = (fitted_mask >= 128).mean(), edit_mask.mean()
    if seen < _SMALL:
        crop = canvas.crop_helps(edit_mask)
        advice = "use --fit crop, which samples a window around it" if crop else "mark a larger area"
        yield f"the mask covers only {seen:.1%} of what the model sees, too little for an object; {advice}"
    if share > _NEARLY_ALL:
        other = ": to repaint black instead, give --invert-mask" if share < 1.0 else ""
        yield f"the mask covers {share:.0%} of the picture; white is repainted{other}"
    stretch = canvas.window.width / canvas.window.height * canvas.frame.height / canvas.frame.width
    if max(stretch, 1 / stretch) > _SQUASHED:
        padded = min(canvas.frame.width, canvas.frame.height) < canvas.size
        ways = [] if padded else ["--fit pad keeps its proportions"]
        ways += ["--fit crop uses a window around the mask"] if canvas.crop_helps(edit_mask) else []
        sentence = f"the model sees a picture squashed {max(stretch, 1 / stretch):.1f} : 1"
        yield "; ".join([sentence, ", ".join(ways)] if ways else [sentence])
    if exemplar is None:
        return
    if settings.guidance_scale <= 1.0:
        yield (
            f"guidance scale {settings.guidance_scale:g}: the exemplar is followed weakly; 3 to 8 is usual"
        )
    pitch = max(1, min(exemplar.shape[:2]) // _LOOKED_AT)
    if exemplar[::pitch, ::pitch].reshape(-1, 3).std(0).max() < _FLAT:
        yield "the exemplar is nearly one colour; check that it shows the object"
    if min(exemplar.shape[:2]) < _SMALL_EXEMPLAR:
        height, width = exemplar.shape[:2]
        yield f"the exemplar is only {width} x {height} pixels; the encoder's input is 224 x 224"


def about_model(model: EditModel, prompt: str, settings: EditSettings) -> Iterator[str]:
    """Remarks on what the model can do with a request: one that does not see the picture, a long prompt."""
    config, tokenizer = model.config, model.tokenizer
    if not config.extra_channels:
        yield (
            "this model does not see the picture around the mask, which is only put back at every step: the "
            "edit fits its surroundings badly (docs/method.md); an inpainting model sees it"
        )
    if not prompt or tokenizer is None:
        return
    yield from about_prompts(model, {"prompt": prompt})
    if settings.text_guidance_scale <= 1.0:
        yield (
            f"text guidance scale {settings.text_guidance_scale:g}: the prompt is followed weakly; 5 to 12 "
            "is usual"
        )


def about_prompts(model: EditModel, prompts: Mapping[str, str]) -> Iterator[str]:
    """Remarks on prompts, given by name, that are longer than what the model reads."""
    if model.tokenizer is None:
        return
    most = model.config.text_encoder.max_position_embeddings - 2
    for name, prompt in prompts.items():
        number = model.tokenizer.count(prompt) if prompt else 0
        if number > most:
            yield f"the {name} has {number} tokens, and the model reads the first {most}; shorten it"


def after_painting(edited: Picture, shown: Picture, fitted_mask: NDArray[np.uint8]) -> Iterator[str]:
    """Remarks on a result: uint8 [S, S, 3], compared with the input square `shown` inside the mask [S, S]."""
    inside = fitted_mask >= 128
    difference = np.abs(edited[inside].astype(np.int16) - shown[inside]).mean()
    if difference < _UNCHANGED:
        yield (
            f"almost nothing changed inside the mask ({difference:.1f} of 255 levels on average); try "
            "another --seed, a higher --guidance-scale or a larger mask"
        )
