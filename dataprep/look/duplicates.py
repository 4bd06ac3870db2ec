"""Near-duplicate pictures of a built folder, by the hashes in its sidecars; no picture is read."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataprep.choose.pixels import HASH_BITS
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE, read_plan_header
from dataprep.shards.manifest import read_shard_manifest, read_sidecars
from intarsia.errors import UserError
from intarsia.files import atomic_write

MAX_DISTANCE = 7  # bits; beyond, different pictures are found in numbers
_KEY_BITS = 19  # in which hashes agree that are compared: two millions of them make some 400 thousand pairs


@dataclass(frozen=True)
class Duplicate:
    """A picture that looks like one that comes before it.

    Attributes:
        image_id: picture to leave out.
        original: first picture, in the order of names, that it looks like.
        distance: number of bits in which their hashes differ.
    """

    image_id: str
    original: str
    distance: int


def find_duplicates(folder: Path, distance: int) -> list[Duplicate]:
    """The near-duplicates among the pictures of a finished folder, in the order of their names.

    Args:
        folder: shard folder.
        distance: largest number of differing bits of two hashes at which pictures look alike.

    Raises:
        UserError: if the folder is not finished, or was built before sidecars had hashes.
    """
    read_shard_manifest(folder)
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
    """int64 [N]: for each hash the first one that is near to it; its own place if there is none before it.

    The bits are dealt out to d + m bands. Two hashes that differ in at most d bits agree wholly in m bands at
    least, so that only those are compared which do in some m; m is such that few others do by chance. Hash
    0, a picture without any structure, is near to none.

    Args:
        hashes: uint64 [N].
        distance: d, 0 … 7.
    """
    values, places, which = np.unique(hashes, return_index=True, return_inverse=True)
    first = places.copy()
    agreeing = next(m for m in range(1, HASH_BITS) if HASH_BITS * m // (distance + m) >= _KEY_BITS)
    bands = [
        sum(1 << bit for bit in range(start, HASH_BITS, distance + agreeing))
        for start in range(distance + agreeing)
    ]
    for chosen in itertools.combinations(bands, agreeing):
        _compare(values, places, np.uint64(sum(chosen)), distance, first)
    return np.where(hashes == 0, np.arange(len(hashes)), first[which])


def _compare(
    values: np.ndarray, places: np.ndarray, mask: np.uint64, distance: int, first: np.ndarray
) -> None:
    """Those against each other that are equal under `mask`; updates `first`."""
    rows = np.flatnonzero(values)
    rows = rows[np.argsort(values[rows] & mask)]
    keys = values[rows] & mask
    here = np.arange(len(rows))
    step = 0
    while len(here):
        step += 1
        here = here[here + step < len(rows)]
        here = here[keys[here] == keys[here + step]]
        one, other = rows[here], rows[here + step]
        near = _count_bits(values[one] ^ values[other]) <= distance
        one, other = one[near], other[near]
        np.minimum.at(first, other, places[one])
        np.minimum.at(first, one, places[other])


def _count_bits(values: np.ndarray) -> np.ndarray:
    """int [N]: ones in uint64 [N]; numpy has its own, a hundred times as fast, since 2.0."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(values)
    return np.unpackbits(np.ascontiguousarray(values)[:, None].view(np.uint8), axis=1).sum(axis=1)


def write_list(path: Path, duplicates: list[Duplicate]) -> None:
    """Write the names for `build --exclude`, one a line."""
    atomic_write(path, "".join(f"{item.image_id}\n" for item in duplicates))
