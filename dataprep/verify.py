"""Is a shard folder whole? Each thing that is not becomes one line."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from dataprep.manifest import CARD, MANIFEST, REJECTS, merge_sidecars
from dataprep.plan import PLAN_FILE, BuildConfig, read_plan_header
from dataprep.progress import NOTES
from dataprep.shards import encode_line, sidecar_path
from dataprep.stats import read_manifest
from dataprep.verify_shard import ACCOUNTS, count_rejects, shard_problems
from intarsia.errors import UserError
from intarsia.files import read_json

LOCK = ".lock"
LATENTS = "latents-"  # folders in which training keeps what it made of the shards
PROBLEMS_PER_SHARD = 20  # told; the others are counted
_SIDECAR_KEYS = {"fingerprint", "shard", "samples", "bytes", "sha256", "kept", "rejected", "labels"}
_SIDECAR_KEYS |= {"histograms", "rejects", "format_version"}


def verify_folder(folder: Path, full: bool = False) -> list[str]:
    """Check a finished folder: files, hashes, accounts, order of members, and what is in the samples.

    Args:
        folder: made by `dataprep build`.
        full: decode every sample, not a few of each shard, and count classes and histograms again.

    Returns:
        One line for each problem; empty for a whole folder.

    Raises:
        UserError: if it is no finished shard folder at all.
    """
    manifest = read_manifest(folder)
    header = read_plan_header(folder / PLAN_FILE)
    config = BuildConfig(**header["config"])
    problems = list(_alien_files(folder, config, header["shards"]))
    if manifest.get("fingerprint") != header["fingerprint"]:
        problems.append(f"{MANIFEST}: its fingerprint is not the plan's")
    sidecars = []
    for shard in range(header["shards"]):
        path = sidecar_path(folder, config, shard)
        try:
            sidecar = _read_sidecar(path)
        except UserError as error:
            problems.append(str(error))
            continue
        sidecars.append(sidecar)
        found = shard_problems(folder, sidecar, header, shard, full)
        problems += islice(found, PROBLEMS_PER_SHARD)
        more = sum(1 for _ in found)
        if more:
            problems.append(f"{sidecar['shard']}: and {more} problems more")
    if len(sidecars) == header["shards"]:
        sums = merge_sidecars(sidecars, header)
        problems += [
            f"{MANIFEST}: {name} is not the sum of the shards"
            for name, value in sums.items()
            if manifest.get(name) != value
        ]
    problems += account_problems(manifest)
    return problems + list(_reject_problems(folder / REJECTS, manifest, sidecars))


def _read_sidecar(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path.name}: missing, so this shard is not complete")
    content = read_json(path)
    if not isinstance(content, dict) or not content.keys() >= _SIDECAR_KEYS:
        raise UserError(f"{path.name}: is no sidecar; delete it and build again")
    return content


def _alien_files(folder: Path, config: BuildConfig, shards: int) -> Iterator[str]:
    """Whatever lies in the folder without being the build's; loaders take every tar that they find."""
    known = {PLAN_FILE, MANIFEST, REJECTS, CARD, LOCK, NOTES}
    known |= {f"{config.shard_name(shard)}.{kind}" for shard in range(shards) for kind in ("tar", "json")}
    for path in sorted(folder.iterdir()):
        if path.name not in known and not (path.name.startswith(LATENTS) and path.is_dir()):
            yield f"{path.name}: no file of this build"


def account_problems(manifest: dict[str, Any]) -> Iterator[str]:
    """in = kept + rejected, for pictures, boxes and draws."""
    kept = manifest["kept"] | {"draws": manifest["kept"]["samples"]}
    for what, given in manifest["in"].items():
        rejected = sum(manifest["rejected"][what].values())
        if given != kept[what] + rejected:
            yield f"{MANIFEST}: {given} {what} in, but {kept[what]} kept and {rejected} rejected"


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
            yield f"{path.name}: lists {what} {listed}, {MANIFEST} counts {counted}"
