"""What a finished folder says about itself: the manifest, the list of rejects and the data set card."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE
from dataprep.shards.build_shard import sidecar_path
from dataprep.shards.card import data_card
from dataprep.shards.tally import BINS, HISTOGRAMS, encode_line, kept_counts
from intarsia.errors import UserError
from intarsia.files import atomic_path, atomic_write, read_json, write_json
from intarsia.sample import FORMAT_VERSION, check_format

SHARD_MANIFEST = "manifest.json"
REJECTS = "rejects.jsonl"
CARD = "README.md"
LOCK = ".lock"
_PLAN_LINE = '{"stage":"plan"'


def write_manifest(out: Path, header: dict[str, Any], command: str) -> dict[str, Any]:
    """Merge the sidecars into manifest, rejects and card; the manifest is written last.

    Args:
        out: folder in which every shard is complete.
        header: header of its plan.
        command: command line, for the card.
    """
    config = BuildConfig(**header["config"])
    with atomic_path(out / REJECTS) as temporary, temporary.open("w", encoding="utf-8") as rejects:
        rejects.writelines(_plan_lines(out / REJECTS))
        for sidecar in read_sidecars(out, config, header["shards"]):
            rejects.writelines(encode_line(record) for record in sidecar["rejects"])
    sums = merge_sidecars(read_sidecars(out, config, header["shards"]), header)
    content = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": f"{config.name}-{config.split}",
        **sums,
        "format_version": FORMAT_VERSION,
        "fingerprint": header["fingerprint"],
        "config": header["config"],
        "command": command,
    }
    if config.drawing.processor_bound:  # transforms that may round differently on other processors
        content["processor_bound"] = list(config.drawing.processor_bound)
    atomic_write(out / CARD, data_card(content, header))
    write_json(out / SHARD_MANIFEST, content)
    return content


def read_shard_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder.

    Raises:
        UserError: if it is missing (what to do depends on whether a build was begun there), damaged, or of
            another format version.
    """
    if not (folder / SHARD_MANIFEST).is_file():
        if (folder / PLAN_FILE).is_file():
            raise UserError(f"{folder} is not finished; run its build command again to continue")
        raise UserError(f"{folder} is not a shard folder: it has no {SHARD_MANIFEST}")
    content = read_json(folder / SHARD_MANIFEST)
    if not isinstance(content, dict):
        raise UserError(
            f"{folder / SHARD_MANIFEST} is not a manifest; run its build command again to renew it"
        )
    check_format(content, folder)
    if "foreign" in content:
        raise UserError(
            f"{folder} is an index of another program's tars, and this command reads shards of `build`; its "
            f"manifest.json and {REJECTS} have the counts and what was left out"
        )
    return content


def read_sidecars(out: Path, config: BuildConfig, shards: int) -> Iterator[dict[str, Any]]:
    """The sidecars of a complete folder, in order."""
    for shard in range(shards):
        yield read_json(sidecar_path(out, config, shard))


def merge_sidecars(sidecars: Iterable[dict[str, Any]], header: dict[str, Any]) -> dict[str, Any]:
    """The sums over all shards and the plan: shardlist, in, kept, rejected, labels, histograms, changed."""
    kept: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    config, planned = BuildConfig(**header["config"]), header["counts"]["rejected"]
    rejected = {what: Counter(planned.get(what, {})) for what in config.accounts}
    changed: dict[str, Counter[str]] = {}
    histograms: dict[str, np.ndarray] = {name: np.zeros(BINS, np.int64) for name in HISTOGRAMS}
    shardlist, draws = [], 0
    for sidecar in sidecars:
        kept.update(sidecar["kept"])
        draws += sidecar.get("draws", 0)
        labels.update(sidecar["labels"])
        for what, numbers in sidecar["rejected"].items():
            rejected[what].update(numbers)
        for what, numbers in sidecar.get("changed", {}).items():
            changed.setdefault(what, Counter()).update(numbers)
        for name, total in histograms.items():
            total += np.array(sidecar["histograms"][name])
        shardlist.append(
            {
                "url": sidecar["shard"],
                "nsamples": sidecar["samples"],
                "filesize": sidecar["bytes"],
                "sha256": sidecar["sha256"],
            }
        )
    given = header["counts"]["in"] | {"draws": draws or config.draws(kept["pictures"], kept["boxes"])}
    if config.needs_masks:
        given["masks"] = kept["masks"] + rejected["masks"].total()
    left = kept_counts(kept, config)
    if "files" in given:  # files of annotations; shards know nothing of them
        rejected["files"] = Counter(planned["files"])
        left["files"] = given["files"] - rejected["files"].total()
    return {
        "shardlist": shardlist,
        "in": given,
        "kept": left,
        "rejected": {what: dict(sorted(numbers.items())) for what, numbers in rejected.items()},
        "labels": dict(sorted(labels.items(), key=lambda item: (-item[1], item[0]))),
        "histograms": {name: total.tolist() for name, total in histograms.items()},
        # Only where something was: the manifest of a build without is that of earlier versions.
        **({"changed": {what: dict(changed[what]) for what in sorted(changed)}} if changed else {}),
    }


def _plan_lines(path: Path) -> Iterator[str]:
    """The lines that the plan wrote, which come first."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith(_PLAN_LINE):
                return
            yield line
