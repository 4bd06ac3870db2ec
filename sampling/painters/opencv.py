"""The painter `cv2`: OpenCV's inpainting by Telea or Navier-Stokes, which continues the surroundings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from intarsia.errors import UsageError, UserError
from sampling.painters.each import Taking, painting_each
from sampling.painters.painter import Paint, Painter

if TYPE_CHECKING:
    from sampling.canvas.edits import EditRequest
    from sampling.pictures import Mask, Picture
    from sampling.settings import EditSettings, MachineSettings

_RADIUS = 4  # pixels around each point that count, as lama-cleaner sets it
_METHODS = {"ns": "INPAINT_NS", "telea": "INPAINT_TELEA"}  # the first is the default, as lama-cleaner's
_USES = ("blend", "match_colour", "composite")


def _method(model: Path | None) -> str:
    method = next(iter(_METHODS)) if model is None else str(model)
    if method not in _METHODS:
        raise UsageError(
            f"--model cv2:{method} is not one of {', '.join(f'cv2:{name}' for name in _METHODS)}"
        )
    return method


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise UserError("cv2 needs OpenCV; install it by: python -m pip install -e '.[cv2]'") from None
    return cv2


def _check(model: Path | None) -> None:
    _method(model)
    _cv2()


def _open(model: Path | None, machine: MachineSettings) -> Paint:
    cv2 = _cv2()
    flag = getattr(cv2, _METHODS[_method(model)])

    def erase(image: Picture, mask: Mask, request: EditRequest, settings: EditSettings) -> Picture:
        marked = mask.astype(np.uint8) * 255
        return cv2.inpaint(np.ascontiguousarray(image), marked, _RADIUS, flag)

    return painting_each(Taking("cv2", (), _USES), erase)


PAINTER = Painter(
    check=_check,
    open=_open,
    fingerprint=lambda model: f"cv2 {_method(model)} {_RADIUS}",
    parts=lambda model: (),
    uses=lambda model: _USES,
    named=True,
    libraries=lambda: {"opencv": _cv2().__version__},
    machine=(),
    torch=False,
)
