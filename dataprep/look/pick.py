"""Which samples of a folder are looked at: some at random, those of a class, or the worst by some measure."""

import difflib
import heapq
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.shards.build_shard import tar_samples
from dataprep.shards.manifest import read_shard_manifest
from dataprep.shards.tally import BINS, mask_coverage
from dataprep.tars import tar_members
from intarsia.errors import UsageError
from intarsia.files import read_json
from intarsia.png import decode_png
from intarsia.rng import derive_seed
from intarsia.sample import Sample, SampleMeta, decode_sample


@dataclass(frozen=True)
class Choice:
    """Which samples.

    Attributes:
        number: largest number of samples.
        seed: seed of the choice at random.
        label: class of the samples; None for all classes.
        worst: name of a measure in WORST; None for a choice at random.
    """

    number: int
    seed: int = 0
    label: str | None = None
    worst: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A sample as it can be ranked: its record, and its mask where the measure asks for that."""

    shard: int
    place: int
    meta: SampleMeta
    coverage: float


def _squash(candidate: Candidate) -> float:
    window = candidate.meta.window
    return -max(window.width / window.height, window.height / window.width)


def _aspect(candidate: Candidate) -> float:
    box = candidate.meta.box
    return -max(box.width / box.height, box.height / box.width)


# Name -> what is smallest for the worst sample.
WORST: dict[str, Callable[[Candidate], float]] = {
    "smallest-mask": lambda c: c.coverage,
    "largest-mask": lambda c: -c.coverage,
    "largest-squash": _squash,
    "longest-box": _aspect,
    "fewest-pixels": lambda c: c.meta.box.area,
}


def pick_samples(folder: Path, choice: Choice) -> list[Sample]:
    """The chosen samples of a finished folder: in its order, or the worst first.

    Args:
        folder: shard folder.
        choice: samples to take.

    Raises:
        UserError: if the folder is not finished.
        UsageError: if it has no such class, or the measure does not exist.
    """
    manifest = read_shard_manifest(folder)
    if choice.worst is not None and choice.worst not in WORST:
        raise UsageError(f"--worst {choice.worst}: give one of {', '.join(WORST)}")
    if choice.label is not None and choice.label not in manifest["labels"]:
        known = list(manifest["labels"])
        some = difflib.get_close_matches(choice.label, known, n=3, cutoff=0.5) or known[:8] or ["no class"]
        raise UsageError(f"--class {choice.label!r}: {folder} has no sample of it, but of {', '.join(some)}")
    pick = _worst_places if choice.worst else _random_places
    places = pick(folder, manifest["shardlist"], choice)
    found: dict[tuple[int, int], Sample] = {}
    for shard in sorted({shard for shard, _ in places}):
        inside = sorted(place for other, place in places if other == shard)
        tar = folder / manifest["shardlist"][shard]["url"]
        for place, (key, members) in zip(inside, tar_samples(tar, inside), strict=True):
            found[shard, place] = decode_sample(members, key)
    return [found[item] for item in places]


def _random_places(folder: Path, shards: list[dict[str, Any]], choice: Choice) -> list[tuple[int, int]]:
    """(shard, place) uniform over all samples, or all of a class, in order."""
    numbers = [shard["nsamples"] for shard in shards]
    if choice.label is not None:
        numbers = [_sidecar(folder, shard)["labels"].get(choice.label, 0) for shard in shards]
    ends = np.cumsum(numbers)
    rng = np.random.default_rng(derive_seed(choice.seed, "contact sheet"))
    total = int(ends[-1])
    chosen = np.sort(rng.choice(total, size=min(choice.number, total), replace=False))
    of_shard = np.searchsorted(ends, chosen, side="right")
    places = []
    for shard in np.unique(of_shard).tolist():
        inside = chosen[of_shard == shard] - int(ends[shard]) + numbers[shard]
        if choice.label is not None:
            candidates = _candidates(folder, shard, shards[shard], choice)
            inside = np.array([candidate.place for candidate in candidates])[inside]
        places += [(shard, place) for place in inside.tolist()]
    return places


def _worst_places(folder: Path, shards: list[dict[str, Any]], choice: Choice) -> list[tuple[int, int]]:
    """(shard, place) of the worst samples, the worst first; records, and where needed masks, are read."""
    measure = WORST[choice.worst or ""]
    looked_at = _shards_with_extremes(folder, shards, choice)
    candidates = (c for shard in looked_at for c in _candidates(folder, shard, shards[shard], choice))
    worst = heapq.nsmallest(choice.number, candidates, key=lambda c: (measure(c), c.shard, c.place))
    return [(candidate.shard, candidate.place) for candidate in worst]


def _shards_with_extremes(folder: Path, shards: list[dict[str, Any]], choice: Choice) -> list[int]:
    """The shards that can hold one of the worst: for masks, which must be decoded, by their histograms."""
    sidecars = [_sidecar(folder, shard) for shard in shards]
    holders = [i for i, s in enumerate(sidecars) if choice.label is None or s["labels"].get(choice.label, 0)]
    if choice.worst not in ("smallest-mask", "largest-mask") or choice.label is not None:
        return holders
    step = 1 if choice.worst == "smallest-mask" else -1
    bins = np.array([s["histograms"]["mask_coverage"] for s in sidecars]).reshape(-1, BINS)[:, ::step]
    enough = int(np.searchsorted(np.cumsum(bins.sum(axis=0)), choice.number))
    return [i for i in holders if bins[i, : enough + 1].any()]


def _sidecar(folder: Path, shard: dict[str, Any]) -> dict[str, Any]:
    return read_json((folder / shard["url"]).with_suffix(".json"))


def _candidates(folder: Path, number: int, shard: dict[str, Any], choice: Choice) -> Iterator[Candidate]:
    """The samples of one shard that have the chosen class, without their pictures."""
    wants_mask = choice.worst in ("smallest-mask", "largest-mask")
    place, coverage = -1, 0.0
    with (folder / shard["url"]).open("rb") as file:
        for name, start, size in tar_members(file):
            suffix = name.partition(".")[2]
            if suffix == "edit_mask.png" and wants_mask:
                coverage = mask_coverage(decode_png(os.pread(file.fileno(), size, start)))
            elif suffix == "json":
                place += 1
                meta = SampleMeta.from_json(os.pread(file.fileno(), size, start))
                if choice.label in (None, meta.label):
                    yield Candidate(number, place, meta, coverage)
