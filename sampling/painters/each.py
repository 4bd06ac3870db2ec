"""The loop of painters that paint one picture after another, and what they see of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from intarsia.boxes import Box
from sampling.painters.painter import Paint, finished
from sampling.told import PartNames, check_told

if TYPE_CHECKING:
    from sampling.canvas.edits import EditRequest, EditResult
    from sampling.denoise.sampler import OnStep
    from sampling.pictures import Mask, Picture
    from sampling.settings import EditSettings

LONGEST = 2048  # pixels of the longer side of what a network sees; more does not fit into memory


class PaintOne(Protocol):
    """A function that paints one picture: uint8 [h, w, 3] RGB, in the size of `image`."""

    def __call__(
        self, image: Picture, mask: Mask, request: EditRequest, settings: EditSettings, /
    ) -> Picture:
        """Paint what `mask`, bool [h, w], marks in `image`; both are what the painter sees."""
        ...


@dataclass(frozen=True)
class Taking:
    """What a painter takes, for notes on what has no effect.

    Attributes:
        name: name of the painter.
        parts: what it is told (`Painter.parts`).
        uses: settings that have an effect (`Painter.uses`).
    """

    name: str
    parts: PartNames
    uses: tuple[str, ...]

    def check(self, request: EditRequest) -> None:
        """Refuse a request that has nothing of what the painter is told.

        Raises:
            UserError: with what to add.
        """
        has_exemplar = "exemplar" in self.parts and request.exemplar is not None
        check_told(self.parts, has_exemplar, request.prompt.strip() if "text" in self.parts else "")

    def without_effect(self, request: EditRequest, settings: EditSettings) -> Iterator[str]:
        """A remark on what is given and has no effect, if there is any."""
        given = {"exemplar": request.exemplar is not None, "text": bool(request.prompt)}
        called = {"exemplar": "the exemplar", "text": "the prompt"}
        idle = [called[part] for part, is_given in given.items() if is_given and part not in self.parts]
        plain, default = settings.plain(), type(settings)().plain()
        idle += [
            name for name, value in plain.items() if name not in self.uses and value != default.get(name)
        ]
        idle += ["structure maps"] if request.structure else []
        if idle:
            yield f"{self.name} does not use {', '.join(idle)}; this has no effect on the edit"


def painting_each(taking: Taking, paint_one: PaintOne, size: int | None = None) -> Paint:
    """The `Paint` of a painter that sees pictures at their own size, one after another.

    Args:
        taking: what the painter takes.
        paint_one: function that paints one picture.
        size: side in pixels above which a picture is cropped to the surroundings of its mask, by `fit` and
            `context` (`lay_canvas`); None: the painter always sees the whole picture.
    """

    def paint(
        requests: Sequence[EditRequest], settings: EditSettings, on_step: OnStep | None = None
    ) -> list[EditResult]:
        results = []
        for number, request in enumerate(requests, 1):
            results.append(_painted(taking, paint_one, size, request, settings))
            if on_step:
                on_step(number, len(requests))
        return results

    return paint


def _painted(
    taking: Taking, paint_one: PaintOne, size: int | None, request: EditRequest, settings: EditSettings
) -> EditResult:
    from sampling.canvas.canvas import check_mask, lay_canvas

    taking.check(request)
    start, mask = time.perf_counter(), check_mask(request.edit_mask, request.image)
    window = lay_canvas(mask, size, settings).window if size else Box(0, 0, mask.shape[1], mask.shape[0])
    image, inside = window.cut(request.image), window.cut(mask)
    remarks = list(taking.without_effect(request, settings))
    longer = max(window.width, window.height)
    if size and longer > LONGEST:
        small = _sides(window, LONGEST / longer)
        remarks.append(
            f"{taking.name} saw {window.width} x {window.height} pixels at {small[0]} x {small[1]}; mark "
            "smaller areas one by one for finer detail"
        )
        # All that is marked at the picture's size is painted.
        marked = _resized(inside.astype(np.uint8) * 255, small, Image.Resampling.BILINEAR) > 0
        shown = _resized(image, small, Image.Resampling.BILINEAR)
        painted = paint_one(shown, marked, request, settings)
        painted = _resized(painted, (window.width, window.height), Image.Resampling.LANCZOS)
    else:
        painted = paint_one(image, inside, request, settings)
    seconds = {"paint": time.perf_counter() - start}
    return finished(request, painted, settings, remarks, window, seconds)


def _sides(window: Box, scale: float) -> tuple[int, int]:
    return max(1, round(window.width * scale)), max(1, round(window.height * scale))


def _resized(pixels: Picture, size: tuple[int, int], resample: Image.Resampling) -> Picture:
    return np.asarray(Image.fromarray(pixels).resize(size, resample))
