"""COCO's run lengths, as a list or packed into text, to pixels; what does not add up is refused."""

from collections.abc import Collection
from typing import Any

import numpy as np

_OFFSET = 48  # of the characters, which then hold six bits each
_MORE, _SIGN, _BITS = 32, 16, 5
_MOST_CHARACTERS = 7  # of a packed number: 34 bits and a sign


def mask_of_runs(record: dict[str, Any], sizes: Collection[tuple[int, int]]) -> np.ndarray:
    """The pixels of run lengths, uint8 [H, W], 1 = object.

    The runs go down the columns, the first one is of zeros. A decoder that trusts them would give back
    whatever memory it was given where they are too short, and reserve any memory that `size` asks for.

    Args:
        record: `size` [height, width] and `counts`, a list of whole numbers or COCO's packed text.
        sizes: sizes (width, height) that the record may have.

    Raises:
        ValueError: for anything else, with what is wrong.
    """
    width, height = _size(record.get("size"), sizes)
    given = record.get("counts")
    counts = unpack_counts(given) if isinstance(given, str) else _listed(given)
    if (counts < 0).any() or counts.sum() != width * height:
        raise ValueError(f"run lengths do not add up to {width}x{height}")
    values = (np.arange(len(counts)) & 1).astype(np.uint8)
    return np.repeat(values, counts).reshape(width, height).T


def _size(size: object, sizes: Collection[tuple[int, int]]) -> tuple[int, int]:
    if not (isinstance(size, list) and len(size) == 2 and all(map(_is_whole, size))):
        raise ValueError(f"the size of run lengths is {size!r}, not [height, width]")
    height, width = (int(side) for side in size)
    if (width, height) not in sizes:
        fitting = " or ".join(f"{known[0]}x{known[1]}" for known in sizes)
        raise ValueError(f"run lengths of {width}x{height} do not fit a picture of {fitting}")
    return width, height


def _listed(counts: object) -> np.ndarray:
    if not (isinstance(counts, list) and all(map(_is_whole, counts))):
        raise ValueError("run lengths are neither a list of whole numbers nor packed text")
    try:
        return np.array(counts, np.int64)
    except OverflowError:
        raise ValueError("a run length is too large") from None


def _is_whole(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and value.is_integer()
    )


def unpack_counts(text: str) -> np.ndarray:
    """COCO's packed run lengths as int64 [N] (`rleFrString` of pycocotools).

    A number is written in characters of five bits, the lowest first, with a sixth that says whether more
    follow; from the fourth number on it is the difference from the number before the last.

    Raises:
        ValueError: for text that is not of this form.
    """
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - _OFFSET
    if ((codes < 0) | (codes >= 2 * _MORE)).any():
        raise ValueError("packed run lengths contain a character that has no meaning there")
    ends = np.flatnonzero(codes & _MORE == 0)
    if not len(codes) or len(ends) == 0 or ends[-1] != len(codes) - 1:
        raise ValueError("packed run lengths are empty or end inside a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_CHARACTERS:
        raise ValueError("a packed run length is too large")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    counts = np.add.reduceat((codes % _MORE) << (_BITS * places), starts)
    counts[codes[ends] & _SIGN > 0] -= (1 << (_BITS * lengths))[codes[ends] & _SIGN > 0]
    counts[1::2], counts[2::2] = np.cumsum(counts[1::2]), np.cumsum(counts[2::2])
    return counts
