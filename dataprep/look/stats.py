"""What a shard folder holds, in figures; read off the manifest, no shard is opened."""

from pathlib import Path
from typing import Any

from dataprep.shards.figures import bar_lines, histogram_lines, quantiles, reject_table
from dataprep.shards.manifest import read_shard_manifest
from intarsia.words import counted


def folder_stats(folder: Path) -> dict[str, Any]:
    """Counts by reason and class, quantiles of box area and mask coverage, bytes."""
    manifest = read_shard_manifest(folder)
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
        "quantiles": {name: quantiles(name, histogram) for name, histogram in manifest["histograms"].items()},
        "histograms": manifest["histograms"],
        "config": manifest["config"],
        "fingerprint": manifest["fingerprint"],
    }


def stats_lines(content: dict[str, Any]) -> list[str]:
    """The same for people."""
    given, kept = content["in"], content["kept"]
    low, high = content["samples_per_shard"]
    return [
        f"{content['name']}: {counted(kept['samples'], 'sample')} in {counted(content['shards'], 'shard')} "
        f"({low:,} to {high:,} each), {content['bytes'] / 1e6:,.1f} MB",
        f"pictures  {kept['pictures']:,} kept of {given['pictures']:,}",
        f"boxes     {kept['boxes']:,} kept of {given['boxes']:,}",
        "rejected:",
        *(f"  {line}" for line in reject_table(content) or ["nothing"]),
        *histogram_lines(content["histograms"]),
        f"samples by class ({len(content['labels'])}):",
        *(f"  {line}" for line in bar_lines(content["labels"])),
    ]
