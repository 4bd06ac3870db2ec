"""Is a shard folder whole? Each problem becomes one line."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dataprep.check.verify_shard import ACCOUNTS, count_rejects, shard_problems
from dataprep.pictures.stores import INDEX_FILE
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE, read_plan_header, stored_fingerprint
from dataprep.progress import PROGRESS_NOTES, BuildProgress
from dataprep.shards.build_shard import sidecar_path
from dataprep.shards.manifest import CARD, LOCK, REJECTS, SHARD_MANIFEST, merge_sidecars, read_shard_manifest
from dataprep.shards.tally import encode_line
from intarsia.errors import UserError
from intarsia.files import read_json
from intarsia.hub.transfer import PULLED

LATENTS = "latents-"  # folders in which training keeps what it made of the shards
PROBLEMS_PER_SHARD = 20  # that are listed; the others are counted
SHARDS_PER_WORKER = 2  # below which another process is not worth its start
_SIDECAR_KEYS = {"fingerprint", "shard", "samples", "bytes", "sha256", "kept", "rejected", "labels"}
_SIDECAR_KEYS |= {"histograms", "rejects", "format_version"}


def verify_folder(
    folder: Path,
    full: bool = False,
    workers: int = 1,
    report: Callable[[BuildProgress], None] = lambda _: None,
) -> list[str]:
    """Check a finished folder: files, hashes, accounts, order of members, and what is in the samples.

    Args:
        folder: folder that `dataprep build` made.
        full: whether to decode every sample, not a few of each shard, and to count classes and histograms
            again.
        workers: largest number of processes.
        report: function that gets the progress.

    Returns:
        One line for each problem; empty for a whole folder.

    Raises:
        UserError: if it is not a finished shard folder, or a process dies on the way.
    """
    manifest = read_shard_manifest(folder)
    header = read_plan_header(folder / PLAN_FILE)
    config = BuildConfig(**header["config"])
    problems = list(_alien_files(folder, config, header["shards"]))
    if manifest.get("fingerprint") != header["fingerprint"]:
        problems.append(f"{SHARD_MANIFEST}: its fingerprint is not the plan's")
    try:
        if stored_fingerprint(folder / PLAN_FILE) != header["fingerprint"]:
            problems.append(f"{PLAN_FILE}: its content is not what its fingerprint stands for")
    except UserError as error:
        return [*problems, f"{error}; nothing can be compared with it"]
    sidecars, rejected = [], 0
    for number, (sidecar, found) in enumerate(_check_shards(folder, header, full, workers), 1):
        problems += found
        if sidecar is not None:
            sidecars.append(sidecar)
            rejected += sum(sidecar["rejected"]["pictures"].values())
        done = min(number * config.images_per_shard, header["pictures"])
        report(BuildProgress(number, header["shards"], done, header["pictures"], rejected))
    if len(sidecars) == header["shards"]:
        sums = merge_sidecars(sidecars, header)
        problems += [
            f"{SHARD_MANIFEST}: {name} is not the sum of the shards"
            for name in dict.fromkeys((*sums, "changed"))
            if manifest.get(name) != sums.get(name)
        ]
    problems += account_problems(manifest)
    return problems + list(_reject_problems(folder / REJECTS, manifest, sidecars))


def _check_shards(
    folder: Path, header: dict[str, Any], full: bool, workers: int
) -> Iterator[tuple[dict[str, Any] | None, list[str]]]:
    """Each shard's sidecar, if it has one, and its problems; in order."""
    check = partial(_check_shard, folder, header, full)
    shards = range(header["shards"])
    workers = min(workers, len(shards) // SHARDS_PER_WORKER)
    if workers <= 1:
        yield from map(check, shards)
        return
    try:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            yield from pool.map(check, shards)
    except BrokenProcessPool:
        raise UserError(
            f"{folder}: a process that checked a shard was killed (out of memory, or by a decoder); "
            "--workers 1 shows where"
        ) from None


def _check_shard(
    folder: Path, header: dict[str, Any], full: bool, shard: int
) -> tuple[dict[str, Any] | None, list[str]]:
    try:
        sidecar = _read_sidecar(sidecar_path(folder, BuildConfig(**header["config"]), shard))
    except UserError as error:
        return None, [str(error)]
    found = shard_problems(folder, sidecar, header, shard, full)
    problems = list(islice(found, PROBLEMS_PER_SHARD))
    more = sum(1 for _ in found)
    return sidecar, problems + ([f"{sidecar['shard']}: and {more} problems more"] if more else [])


def _read_sidecar(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path.name}: missing, so this shard is not complete")
    content = read_json(path)
    if not isinstance(content, dict) or not content.keys() >= _SIDECAR_KEYS:
        raise UserError(f"{path.name}: is not a sidecar; delete it and build again")
    return content


def _alien_files(folder: Path, config: BuildConfig, shards: int) -> Iterator[str]:
    """All files in the folder that are not the build's; loaders take every tar that they find."""
    known = {PLAN_FILE, SHARD_MANIFEST, REJECTS, CARD, LOCK, PROGRESS_NOTES, INDEX_FILE, *PULLED}
    known |= {f"{config.shard_name(shard)}.{kind}" for shard in range(shards) for kind in ("tar", "json")}
    for path in sorted(folder.iterdir()):
        if path.name not in known and not (path.name.startswith(LATENTS) and path.is_dir()):
            yield f"{path.name}: not a file of this build"


def account_problems(manifest: dict[str, Any]) -> Iterator[str]:
    """in = kept + rejected, for pictures, boxes and draws."""
    kept = manifest["kept"] | {"draws": manifest["kept"]["samples"]}
    for what, given in manifest["in"].items():
        rejected = sum(manifest["rejected"][what].values())
        if given != kept[what] + rejected:
            yield f"{SHARD_MANIFEST}: {given} {what} in, but {kept[what]} kept and {rejected} rejected"


def _reject_problems(path: Path, manifest: dict[str, Any], sidecars: list[dict[str, Any]]) -> Iterator[str]:
    """Whether the list of rejects adds up to the manifest's counts, and its lines are the sidecars'."""
    if not path.is_file():
        yield f"{path.name}: missing"
        return
    counts: dict[str, Counter[str]] = {what: Counter() for what in ACCOUNTS}
    rendered = (encode_line(record) for sidecar in sidecars for record in sidecar["rejects"])
    strange = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                for what, numbers in count_rejects([record]).items():
                    counts[what].update(numbers)
                if record["stage"] != "plan" and line != next(rendered, None):
                    strange = strange or number
            except (ValueError, KeyError, TypeError):
                yield f"{path.name}, line {number}: not a record of a reject"
    if strange or next(rendered, None) is not None:
        where = f", line {strange}" if strange else ""
        yield f"{path.name}{where}: its lines are not those of the sidecars"
    for what, numbers in counts.items():
        listed = {reason: number for reason, number in sorted(numbers.items()) if number}
        counted = {reason: number for reason, number in manifest["rejected"].get(what, {}).items() if number}
        if listed != counted:
            yield f"{path.name}: lists {what} {listed}, {SHARD_MANIFEST} counts {counted}"
