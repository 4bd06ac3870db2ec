"""Rules about several boxes at a time: overlap within a picture, balance among classes."""

from collections.abc import Iterator

import numpy as np

from dataprep.records import REASONS, Annotations, FilterRules, RejectReason
from intarsia.rng import derive_seed

_ROWS_AT_ONCE = 1 << 20  # of the overlap search, which bounds its memory


@np.errstate(over="ignore", invalid="ignore")  # of boxes far outside of pictures of unknown size
def near_duplicates(notes: Annotations, rows: np.ndarray, largest_iou: float) -> np.ndarray:
    """Those of the boxes `rows` that a larger one of their picture overlaps by more than `largest_iou`.

    Of equally large boxes the one with the smaller id counts as the larger. A box is dropped even if the
    larger one is dropped too, so that the largest of a chain of neighbours stays, and so that a tighter limit
    never keeps a box that a looser one drops.

    Args:
        notes: annotations whose boxes `rows` have a positive area.
        rows: int, in any order.
        largest_iou: intersection over union, 0 … 1.
    """
    gone = [rows[:0]]
    for piece in _by_picture(notes.picture, rows):
        bounds = notes.bounds[piece]
        area = (bounds[:, 2] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 1])
        order = np.lexsort((notes.box_ids[piece], -area, notes.picture[piece]))
        piece = piece[order]
        gone.append(piece[_overlapped(notes.picture[piece], bounds[order], area[order], largest_iou)])
    return np.concatenate(gone)


def _by_picture(picture: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """`rows` in pieces of whole pictures, so that what is computed of them is never in memory as a whole."""
    rows = rows[np.argsort(picture[rows], kind="stable")]
    first = 0
    while first < len(rows):
        last_picture = picture[rows[min(first + _ROWS_AT_ONCE, len(rows)) - 1]]
        last = int(np.searchsorted(picture[rows], last_picture, side="right"))
        yield rows[first:last]
        first = last


def _overlapped(picture: np.ndarray, bounds: np.ndarray, area: np.ndarray, largest_iou: float) -> np.ndarray:
    """bool [N] of boxes sorted by picture and falling area: row i against row i + 1, i + 2, …"""
    hit: np.ndarray = np.zeros(len(picture), bool)
    large = np.arange(len(picture))
    step = 0
    while len(large):
        step += 1
        large = large[large + step < len(picture)]
        small = large + step
        # Later boxes are smaller still: once the areas alone rule an overlap out, this row is done.
        open_still = (picture[large] == picture[small]) & (area[small] > largest_iou * area[large])
        large, small = large[open_still], small[open_still]
        a, b = bounds[large], bounds[small]
        shared = np.prod(
            np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None), axis=1
        )
        hit[small] |= shared > largest_iou * (area[large] + area[small] - shared)
    return hit


def class_quotas(numbers: np.ndarray, temperature: float) -> np.ndarray:
    """The number of boxes that each class keeps at a temperature T: int64, at most `numbers`.

    A class of n boxes, more than the median m of all classes that have any, keeps n^(1/T) · m^(1 - 1/T) of
    them, rounded up: all at T = 1, m as T grows. Smaller classes stay whole.
    """
    numbers = np.asarray(numbers, np.int64)
    if temperature == 1 or not numbers.any():
        return numbers
    median = float(np.median(numbers[numbers > 0]))
    share = np.minimum(median / np.maximum(numbers, 1), 1.0) ** (1 - 1 / temperature)
    return np.minimum(np.ceil(numbers * share).astype(np.int64), numbers)


def judge_balance(label: np.ndarray, box_ids: np.ndarray, seed: int, rules: FilterRules) -> np.ndarray:
    """Which boxes are dropped to balance classes: int16 [N] as `judge_boxes`.

    The boxes of a class with the smallest hashes of seed and id stay: a choice at random that depends neither
    on the order of the rows nor on other classes' boxes.

    Args:
        label: int [N], classes of the boxes that all other rules keep.
        box_ids: int [N], each different.
        seed: seed of the data set.
        rules: per_class_max and class_temperature.
    """
    order = np.lexsort((box_ids, _hash_ids(derive_seed(seed, "balance"), box_ids), label))
    numbers = np.bincount(label)
    place: np.ndarray = np.empty(len(label), np.int64)
    place[order] = np.arange(len(label)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
    verdict: np.ndarray = np.full(len(label), -1, np.int16)
    verdict[place >= class_quotas(numbers, rules.class_temperature)[label]] = REASONS.index(
        RejectReason.CLASS_TEMPERATURE
    )
    if rules.per_class_max is not None:
        verdict[place >= rules.per_class_max] = REASONS.index(RejectReason.OVER_CLASS_MAX)
    return verdict


def _hash_ids(seed: int, ids: np.ndarray) -> np.ndarray:
    """uint64 [N]: splitmix64's finaliser (Steele, Lea and Flood 2014) of seed and id; whole numbers only."""
    x = ids.astype(np.uint64) + np.uint64(seed)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
