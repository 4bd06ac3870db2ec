"""Why nothing may have happened: one sentence for each cause that can be seen, with what to do."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sampling.canvas.canvas import Canvas
from sampling.pictures import Mask, Picture
from sampling.settings import EditSettings, InversionSettings

_SMALL = 0.02  # of what the model sees; objects in training cover more
_NEARLY_ALL = 0.9  # of the picture
_FLAT = 4.0  # levels of standard deviation of an exemplar
_SMALL_EXEMPLAR = 32  # pixels of its shorter side
_SQUASHED = 2.0  # proportions of a window that are no longer seen in training
_UNCHANGED = 2.0  # levels, mean difference inside the mask


def before_painting(
    canvas: Canvas,
    edit_mask: Mask,
    fitted_mask: NDArray[np.uint8],
    exemplar: Picture,
    settings: EditSettings | InversionSettings,
) -> Iterator[str]:
    """Remarks on a request.

    Args:
        canvas: how the picture lies on the model's square.
        edit_mask: bool [H, W].
        fitted_mask: uint8 [S, S], 255 = repaint.
        exemplar: uint8 [h, w, 3].
        settings: of the edit.
    """
    seen, share = (fitted_mask >= 128).mean(), edit_mask.mean()
    if seen < _SMALL:
        whole = canvas.window.area == edit_mask.size and max(edit_mask.shape) > canvas.size // 2
        advice = "--fit crop samples a window around it" if whole else "mark a larger area"
        yield f"the mask covers only {seen:.1%} of what the model sees, too little for an object; {advice}"
    if share > _NEARLY_ALL:
        yield (
            f"the mask covers {share:.0%} of the picture; white is repainted: if black was meant, give "
            "--invert-mask"
        )
    stretch = canvas.window.width / canvas.window.height * canvas.frame.height / canvas.frame.width
    if max(stretch, 1 / stretch) > _SQUASHED:
        yield (
            f"what the model sees is squashed {max(stretch, 1 / stretch):.1f} : 1; --fit pad keeps its "
            "proportions, --fit crop takes a window around the mask"
        )
    if settings.guidance_scale <= 1.0:
        yield (
            f"guidance scale {settings.guidance_scale:g}: the exemplar is followed weakly; 3 to 8 is usual"
        )
    if exemplar.reshape(-1, 3).std(0).max() < _FLAT:
        yield "the exemplar is nearly one colour; check that it shows the object"
    if min(exemplar.shape[:2]) < _SMALL_EXEMPLAR:
        height, width = exemplar.shape[:2]
        yield f"the exemplar is only {width} x {height} pixels; the encoder looks at 224 x 224"


def after_painting(edited: Picture, shown: Picture, fitted_mask: NDArray[np.uint8]) -> Iterator[str]:
    """Remarks on what was painted: uint8 [S, S, 3], beside what the model was shown, and [S, S]."""
    inside = fitted_mask >= 128
    difference = np.abs(edited[inside].astype(np.int16) - shown[inside]).mean()
    if difference < _UNCHANGED:
        yield (
            f"inside the mask hardly anything changed ({difference:.1f} of 255 levels on average); try "
            "another --seed, a higher --guidance-scale or a larger mask"
        )
