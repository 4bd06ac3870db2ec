"""What a shard folder holds, in figures; read off the manifest, no shard is opened."""

from pathlib import Path
from typing import Any

import numpy as np

from dataprep.manifest import MANIFEST, reject_table
from dataprep.plan import PLAN_FILE
from intarsia.errors import UserError
from intarsia.files import read_json

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder.

    Raises:
        UserError: if it is missing; what to do depends on whether a build was begun there.
    """
    if not (folder / MANIFEST).is_file():
        if (folder / PLAN_FILE).is_file():
            raise UserError(f"{folder} is not finished; run its build command again to go on")
        raise UserError(f"{folder} is no shard folder: it has no {MANIFEST}")
    return read_json(folder / MANIFEST)


def folder_stats(folder: Path) -> dict[str, Any]:
    """Counts by reason and class, quantiles of box area and mask coverage, bytes."""
    manifest = read_manifest(folder)
    numbers = [shard["nsamples"] for shard in manifest["shardlist"]]
    return {
        "name": manifest["name"],
        "shards": len(numbers),
        "samples_per_shard": [min(numbers), max(numbers)],
        "bytes": sum(shard["filesize"] for shard in manifest["shardlist"]),
        "in": manifest["in"],
        "kept": manifest["kept"],
        "rejected": manifest["rejected"],
        "labels": manifest["labels"],
        "quantiles": {
            name: {f"{share:.0%}": quantile(histogram, share) for share in SHARES}
            for name, histogram in manifest["histograms"].items()
        },
        "config": manifest["config"],
        "fingerprint": manifest["fingerprint"],
    }


def quantile(histogram: list[int], share: float) -> float | None:
    """The value below which `share` of a histogram over 0 … 1 lies, to half a bin; None for an empty one."""
    total = np.cumsum(histogram)
    if total[-1] == 0:
        return None
    return (int(np.searchsorted(total, share * total[-1])) + 0.5) / len(histogram)


def stats_lines(content: dict[str, Any]) -> list[str]:
    """The same for people."""
    given, kept = content["in"], content["kept"]
    low, high = content["samples_per_shard"]
    lines = [
        f"{content['name']}: {kept['samples']:,} samples in {content['shards']} shards "
        f"({low:,} to {high:,} each), {content['bytes'] / 1e6:,.1f} MB",
        f"pictures  {kept['pictures']:,} kept of {given['pictures']:,}",
        f"boxes     {kept['boxes']:,} kept of {given['boxes']:,}",
        "rejected:",
        *(f"  {line}" for line in reject_table(content) or ["nothing"]),
        "shares at 5 / 25 / 50 / 75 / 95 %:",
    ]
    for name, values in content["quantiles"].items():
        shown = ["-" if value is None else f"{value:.2f}" for value in values.values()]
        lines.append(f"  {name:14} {' / '.join(shown)}")
    labels = list(content["labels"].items())
    lines.append(f"classes ({len(labels)}): " + ", ".join(f"{name} {n}" for name, n in labels[:20]))
    return lines
