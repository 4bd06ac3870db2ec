"""Near-duplicate pictures of a built folder, by the hashes in its sidecars; no picture is read."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataprep.manifest import read_sidecars
from dataprep.pixels import HASH_BITS
from dataprep.plan import PLAN_FILE, BuildConfig, read_plan_header
from dataprep.stats import read_manifest
from intarsia.errors import UserError
from intarsia.files import atomic_write

MAX_DISTANCE = 7  # bits; beyond, different pictures are found in numbers
_ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Duplicate:
    """A picture that looks like one that comes before it.

    Attributes:
        image_id: the picture that should go.
        original: the first picture, in the order of names, that it is near to.
        distance: bits in which their hashes differ.
    """

    image_id: str
    original: str
    distance: int


def find_duplicates(folder: Path, distance: int) -> list[Duplicate]:
    """The near-duplicates among the pictures of a finished folder, in the order of their names.

    Args:
        folder: of shards.
        distance: of two hashes, in bits, up to which pictures are near.

    Raises:
        UserError: if the folder is not finished, or was built before sidecars had hashes.
    """
    read_manifest(folder)
    header = read_plan_header(folder / PLAN_FILE)
    hashes: dict[str, int] = {}
    for sidecar in read_sidecars(folder, BuildConfig(**header["config"]), header["shards"]):
        if "hashes" not in sidecar:
            raise UserError(f"{folder}/{sidecar['shard']} was built without picture hashes; build it again")
        hashes.update((name, int(text, 16)) for name, text in sidecar["hashes"].items())
    names = sorted(hashes)
    first = nearest_before(np.array([hashes[name] for name in names], np.uint64), distance)
    return [
        Duplicate(names[place], names[original], (hashes[names[place]] ^ hashes[names[original]]).bit_count())
        for place, original in enumerate(first.tolist())
        if original < place
    ]


def nearest_before(hashes: np.ndarray, distance: int) -> np.ndarray:
    """int64 [N]: of each hash the first one that is near to it; its own place where none stands before it.

    Two hashes that differ in at most `distance` bits agree wholly in at least one of distance + 1 bands, so
    only those that share a band are compared. Hash 0, a picture without any structure, is near to none.

    Args:
        hashes: uint64 [N].
        distance: bits, 0 … 7.
    """
    first = np.arange(len(hashes))
    edges = np.linspace(0, HASH_BITS, distance + 2).astype(int).tolist()
    for low, high in itertools.pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        rows = np.flatnonzero(hashes != 0)
        rows = rows[np.argsort(band[rows], kind="stable")]
        _compare_band(hashes, band[rows], rows, distance, first)
    return first


def _compare_band(
    hashes: np.ndarray, band: np.ndarray, rows: np.ndarray, distance: int, first: np.ndarray
) -> None:
    """Row i against i + 1, i + 2, … of the same band (rows rise within a band); updates `first`."""
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        early = np.arange(begin, min(begin + _ROWS_AT_ONCE, len(rows)))
        step = 0
        while len(early):
            step += 1
            early = early[early + step < len(rows)]
            early = early[band[early] == band[early + step]]
            one, other = rows[early], rows[early + step]
            near = _count_bits(hashes[one] ^ hashes[other]) <= distance
            np.minimum.at(first, other[near], one[near])


def _count_bits(values: np.ndarray) -> np.ndarray:
    """int [N]: ones in uint64 [N]; numpy has its own, a hundred times as fast, since 2.0."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(values)
    return np.unpackbits(np.ascontiguousarray(values)[:, None].view(np.uint8), axis=1).sum(axis=1)


def write_list(path: Path, duplicates: list[Duplicate]) -> None:
    """Write the names for `build --exclude`, one a line."""
    atomic_write(path, "".join(f"{item.image_id}\n" for item in duplicates))
