"""A painter makes edits of requests. Batch, page, endpoint and evaluation ask one, never a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampling.denoise.sampler import OnStep
    from sampling.editing import EditRequest, EditResult
    from sampling.pictures import Picture
    from sampling.settings import EditSettings, MachineSettings

# Painters by name: the module that holds each one's PAINTER.
PAINTERS = {"own": "sampling.painters.own"}


class Paint(Protocol):
    """Edits of requests, in their order; each depends on its own request alone."""

    def __call__(
        self, requests: Sequence[EditRequest], settings: EditSettings, on_step: OnStep | None = None
    ) -> list[EditResult]:
        """Paint.

        Args:
            requests: pictures of any number and size.
            settings: settings that all of them share; a painter leaves alone what it has no use for.
            on_step: called as `on_step(done, total)` while it works.

        Raises:
            UserError: for a request that cannot be painted.
        """
        ...


@dataclass(frozen=True)
class Painter:
    """One kind of painter.

    Attributes:
        check: refuses what `--model` names before any library is loaded; it gets None where nothing is named.
        open: (model, machine) -> `Paint`; weights are loaded here.
        fingerprint: hash of all that the painter's results depend on besides request and settings.
    """

    check: Callable[[Path | None], None]
    open: Callable[[Path | None, MachineSettings], Paint]
    fingerprint: Callable[[Path | None], str]


def painter_of(name: str) -> Painter:
    """The painter of that name in PAINTERS."""
    return cast(Painter, import_module(PAINTERS[name]).PAINTER)


def finished(
    request: EditRequest, painted: Picture, settings: EditSettings, remarks: Sequence[str] = ()
) -> EditResult:
    """A result of a painter that gives a whole picture.

    Args:
        request: what was asked for.
        painted: uint8 [H, W, 3] RGB, of the request's size.
        settings: `composite` decides whether the picture's own pixels stay outside the mask.
        remarks: why the result may disappoint, one sentence each, with what to do.

    Raises:
        UserError: for a mask that does not fit its picture or marks nothing.
    """
    from intarsia.boxes import Box
    from sampling.canvas.canvas import check_mask
    from sampling.canvas.seam import colour_shift
    from sampling.editing import EditResult

    mask = check_mask(request.edit_mask, request.image)
    near = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(7))
    shift = colour_shift(painted, request.image, (np.asarray(near) > 0) & ~mask)
    image = np.where(mask[..., None], painted, request.image) if settings.composite else painted
    height, width = mask.shape
    return EditResult(image, request, settings, tuple(remarks), Box(0, 0, width, height), shift, {})
