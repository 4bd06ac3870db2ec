"""Divide a picture whose hole is too large for one pass into tiles."""

from intarsia.boxes import Box
from sampling.pictures import Mask

_SHARED = 4  # a tile begins this part of its side before the end of the one before it


def tiles(hole: Mask, largest: int, multiple: int) -> list[tuple[Box, Mask]]:
    """Tiles in order, each with the part of the hole that is painted in it, bool [h, w].

    Args:
        hole: hole of the picture, bool [H, W], with sides of `multiple`.
        largest: largest side of a tile.
        multiple: number of pixels of which the tiles' edges are multiples.
    """
    left, found = hole.copy(), []
    rows, columns = (_starts(length, largest, multiple) for length in hole.shape)
    for y in rows:
        for x in columns:
            tile = Box(x, y, min(x + largest, hole.shape[1]), min(y + largest, hole.shape[0]))
            if (marked := tile.cut(left)).any():
                found.append((tile, marked.copy()))
                marked[:] = False
    return found


def _starts(length: int, largest: int, multiple: int) -> list[int]:
    """First pixels of tiles that cover a length; the last one ends with it."""
    if length <= largest:
        return [0]
    stride = max(multiple, (largest - largest // _SHARED) // multiple * multiple)
    return [*range(0, length - largest, stride), length - largest]
