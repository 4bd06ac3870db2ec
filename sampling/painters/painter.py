"""The interface of painters, which turn requests into edits for batch, page, endpoint and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import numpy as np
from PIL import Image, ImageFilter

from sampling.told import EXEMPLAR_ONLY, PartNames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampling.denoise.sampler import OnStep
    from sampling.editing import EditRequest, EditResult
    from sampling.methods.request import InversionRequest
    from sampling.methods.run_inversion import InversionResult
    from sampling.pictures import Picture
    from sampling.settings import EditSettings, InversionSettings, MachineSettings

# Painters by name: the module with each one's PAINTER.
PAINTERS = {"own": "sampling.painters.own"}


class Paint(Protocol):
    """A function that makes edits of requests, in order; each result depends only on its own request."""

    def __call__(
        self, requests: Sequence[EditRequest], settings: EditSettings, on_step: OnStep | None = None
    ) -> list[EditResult]:
        """Make the edits.

        Args:
            requests: requests, any number, with pictures of any size.
            settings: settings of all requests; a painter ignores those that do not apply to it.
            on_step: function called as `on_step(done, total)` for progress.

        Raises:
            UserError: for a request that cannot be painted.
        """
        ...


@runtime_checkable
class Inverting(Protocol):
    """What a painter also is if it can edit by inversion."""

    def invert(
        self,
        request: InversionRequest,
        settings: InversionSettings,
        canvas_settings: EditSettings,
        on_step: OnStep | None = None,
    ) -> InversionResult:
        """Invert and edit one picture; see `sampling.methods.run_inversion.invert_edit`."""
        ...


@dataclass(frozen=True)
class Painter:
    """One kind of painter.

    Attributes:
        check: function that refuses a wrong `--model` before any library is loaded; its argument is None if
            the option is missing.
        open: function (model, machine) -> `Paint`, which loads the weights.
        fingerprint: function from a model folder to the hash of everything that affects the results, except
            request and settings.
        parts: function from a model folder to what a request tells: exemplar, text (`ModelConfig.parts`).
    """

    check: Callable[[Path | None], None]
    open: Callable[[Path | None, MachineSettings], Paint]
    fingerprint: Callable[[Path | None], str]
    parts: Callable[[Path | None], PartNames] = lambda model: EXEMPLAR_ONLY


def painter_of(name: str) -> Painter:
    """The painter called `name` in PAINTERS."""
    return cast(Painter, import_module(PAINTERS[name]).PAINTER)


def finished(
    request: EditRequest, painted: Picture, settings: EditSettings, remarks: Sequence[str] = ()
) -> EditResult:
    """The result of a painter that returns a whole picture.

    Args:
        request: request to which the result belongs.
        painted: painted picture, uint8 [H, W, 3] RGB, same size as the request's.
        settings: settings of the edit; `composite` keeps the picture's own pixels outside the mask.
        remarks: reasons why the result may disappoint, one sentence each, with what to do.

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
