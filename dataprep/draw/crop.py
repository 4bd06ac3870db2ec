"""The part of the picture that a crop shows: kinds of windows with their numbers."""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from intarsia.config import Config, build_config
from intarsia.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from intarsia.boxes import Box, Window


class Crop(Config):
    """One kind of window. A window lies inside the picture and, if its kind promises it, holds the box."""

    holds_box: ClassVar[bool] = True  # whether every window that is not squashed holds the extended box
    kind: str  # name in CROPS

    def draw(self, extended: "Box", size: tuple[int, int], rng: "np.random.Generator") -> "Window":
        """Draw a window.

        Args:
            extended: extended box, inside the picture.
            size: (width, height) of the picture.
            rng: generator of the sample.
        """
        raise NotImplementedError


class SquareCrop(Crop):
    """A square of the picture's short side, or smaller; Paint by Example's (`intarsia.boxes.crop_window`)."""

    zoom: float = Field(
        default=0.6, ge=0, le=1
    )  # largest zoom, as a share of the room round the extended box

    def draw(self, extended: "Box", size: tuple[int, int], rng: "np.random.Generator") -> "Window":
        """Anywhere along the long side where it holds the extended box; squashed if it cannot."""
        from intarsia.boxes import crop_window

        return crop_window(extended, size, rng, self.zoom)


class AroundCrop(Crop):
    """A square round the middle of the extended box, larger than it by a factor.

    Where it would reach out of the picture, it is moved inward, and is no longer than the picture's short
    side. If the extended box is longer than that, the window is cut to the picture and squashed.
    """

    grow: tuple[float, ...] = Field(min_length=1)  # one of these factors, each as likely

    @field_validator("grow")
    @classmethod
    def _factors(cls, grow: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 1 <= factor <= 100 for factor in grow):
            raise ValueError("each factor must lie from 1 to 100")
        return grow

    def draw(self, extended: "Box", size: tuple[int, int], rng: "np.random.Generator") -> "Window":
        """The square's side is the longer side of the extended box times the factor."""
        from intarsia.boxes import Box, Window

        factor = self.grow[int(rng.integers(len(self.grow)))]
        longer = max(extended.width, extended.height)
        side = min(int(factor * longer), max(min(size), longer))
        ends: list[tuple[int, int]] = []
        for low, high, length in (
            (extended.x0, extended.x1, size[0]),
            (extended.y0, extended.y1, size[1]),
        ):
            start = max(min((low + high) // 2 - side // 2, length - side), 0)
            start = max(min(start, low), high - side, 0)
            ends.append((start, min(start + side, length)))
        (x0, x1), (y0, y1) = ends
        return Window(Box(x0, y0, x1, y1), squashed=x1 - x0 != y1 - y0)


class NativeCrop(Crop):
    """A square of so many pixels of the picture, for an upsampler: nothing is scaled.

    It holds the extended box, or, where that is larger, a part of it. A picture that is narrower gives a
    square of its short side, which is then enlarged.
    """

    holds_box: ClassVar[bool] = False
    side: int = Field(ge=8)  # of the square; that of the model, so that nothing is scaled

    def draw(self, extended: "Box", size: tuple[int, int], rng: "np.random.Generator") -> "Window":
        """Anywhere, as long as it holds the extended box or lies on it."""
        from intarsia.boxes import Box, Window

        side, starts = min(self.side, *size), []
        for low, high, length in (
            (extended.x0, extended.x1, size[0]),
            (extended.y0, extended.y1, size[1]),
        ):
            first, last = sorted((low, high - side))
            starts.append(int(rng.integers(max(first, 0), min(last, length - side) + 1)))
        x0, y0 = starts
        return Window(Box(x0, y0, x0 + side, y0 + side), squashed=False)


class LooseCrop(Crop):
    """Some pictures are cut at all four sides, so that the extended box stays below a share of them."""

    share: float = Field(default=0.5, ge=0, le=1)  # of the samples that are cut
    largest: float = Field(default=0.8, gt=0, le=1)  # of a side, that the extended box may take after the cut

    def draw(self, extended: "Box", size: tuple[int, int], rng: "np.random.Generator") -> "Window":
        """A side of which the box already takes that share stays whole."""
        from intarsia.boxes import Box, Window

        (width, height), cut = size, rng.random() < self.share
        x0, x1 = self._cut(extended.x0, extended.x1, width, rng) if cut else (0, width)
        y0, y1 = self._cut(extended.y0, extended.y1, height, rng) if cut else (0, height)
        return Window(Box(x0, y0, x1, y1), squashed=x1 - x0 != y1 - y0)

    def _cut(self, low: int, high: int, length: int, rng: "np.random.Generator") -> tuple[int, int]:
        most = (length - (high - low) / self.largest) / 2  # at each end
        if most <= 0:
            return 0, length
        return int(rng.random() * min(most, low)), length - int(rng.random() * min(most, length - high))


class WholeCrop(Crop):
    """The whole picture, squashed to a square."""

    def draw(self, extended: "Box", size: tuple[int, int], rng: "np.random.Generator") -> "Window":
        """Nothing is left to chance."""
        from intarsia.boxes import Box, Window

        return Window(Box(0, 0, *size), squashed=size[0] != size[1])


CROPS: dict[str, type[Crop]] = {
    "square": SquareCrop,
    "around": AroundCrop,
    "loose": LooseCrop,
    "whole": WholeCrop,
    "native": NativeCrop,
}


def read_crop(value: Any) -> Any:
    """The kind that `value` names in CROPS, with its numbers checked; what is one already stays.

    Raises:
        UsageError: for an unknown kind or number; the message lists the valid ones.
    """
    if not isinstance(value, dict):
        return value
    name = value.get("kind")
    if name not in CROPS:
        raise UsageError(f"crop: kind={name!r} is not one of {', '.join(CROPS)}")
    return build_config(CROPS[name], value, where=f"crop, kind {name}")
