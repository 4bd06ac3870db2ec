"""Is a shard folder whole? Each thing that is not becomes one line."""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.manifest import MANIFEST, REJECTS, merge_sidecars
from dataprep.plan import PLAN_FILE, BuildConfig, read_plan_header, read_plan_rows
from dataprep.shards import sidecar_path, tar_samples
from dataprep.stats import read_manifest
from intarsia.errors import UserError
from intarsia.files import read_json, sha256_file
from intarsia.sample import EXEMPLAR_SIZE, MEMBERS, Sample, decode_sample

SAMPLES_PER_SHARD = 4  # that are decoded


def verify_folder(folder: Path) -> list[str]:
    """Check counts, hashes, fingerprints, order of members, a few samples of each shard, and the accounts.

    Returns:
        One line for each problem; empty for a whole folder.

    Raises:
        UserError: if it is no finished shard folder at all.
    """
    manifest = read_manifest(folder)
    header = read_plan_header(folder / PLAN_FILE)
    config = BuildConfig(**header["config"])
    problems = []
    if manifest["fingerprint"] != header["fingerprint"]:
        problems.append(f"{MANIFEST}: its fingerprint is not the plan's")
    sidecars = []
    for shard in range(header["shards"]):
        path = sidecar_path(folder, config, shard)
        if not path.is_file():
            problems.append(f"{path.name}: missing, so this shard is not complete")
            continue
        sidecars.append(read_json(path))
        problems += _shard_problems(folder, sidecars[-1], header, shard)
    if len(sidecars) == header["shards"]:
        sums = merge_sidecars(sidecars, header)
        problems += [
            f"{MANIFEST}: {name} is not the sum of the shards"
            for name, value in sums.items()
            if manifest.get(name) != value
        ]
    known = {f"{config.shard_name(shard)}.tar" for shard in range(header["shards"])}
    problems += [
        f"{tar.name}: no shard of this plan" for tar in folder.glob("*.tar") if tar.name not in known
    ]
    return problems + list(account_problems(manifest)) + list(_reject_problems(folder / REJECTS, manifest))


def account_problems(manifest: dict[str, Any]) -> Iterator[str]:
    """in = kept + rejected, for pictures, boxes and draws."""
    kept = manifest["kept"] | {"draws": manifest["kept"]["samples"]}
    for what, given in manifest["in"].items():
        rejected = sum(manifest["rejected"][what].values())
        if given != kept[what] + rejected:
            yield f"{MANIFEST}: {given} {what} in, but {kept[what]} kept and {rejected} rejected"


def _reject_problems(path: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Whether the list of rejects adds up to the manifest's counts."""
    if not path.is_file():
        yield f"{path.name}: missing"
        return
    counts: dict[str, Counter[str]] = {"pictures": Counter(), "boxes": Counter(), "draws": Counter()}
    plural = {"picture": "pictures", "box": "boxes", "draw": "draws"}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                counts[plural[record["what"]]][record["reason"]] += 1
                counts["boxes"][record["reason"]] += len(record.get("box_ids", ()))
            except (ValueError, KeyError, TypeError):
                yield f"{path.name}, line {number}: not a record of a reject"
    for what, numbers in counts.items():
        listed = {reason: number for reason, number in sorted(numbers.items()) if number}
        counted = {reason: number for reason, number in manifest["rejected"][what].items() if number}
        if listed != counted:
            yield f"{path.name}: lists {what} {listed}, {MANIFEST} counts {counted}"


def _shard_problems(folder: Path, sidecar: dict[str, Any], header: dict[str, Any], shard: int) -> list[str]:
    config = BuildConfig(**header["config"])
    tar = folder / f"{config.shard_name(shard)}.tar"
    if sidecar.get("fingerprint") != header["fingerprint"]:
        return [f"{tar.name}: its sidecar belongs to another build"]
    if not tar.is_file():
        return [f"{tar.name}: missing"]
    if tar.stat().st_size != sidecar["bytes"]:
        return [f"{tar.name}: {tar.stat().st_size} bytes, the sidecar says {sidecar['bytes']}"]
    problems = []
    if sha256_file(tar) != sidecar["sha256"]:
        problems.append(f"{tar.name}: its sha256 is not the sidecar's; delete it and build again")
    try:
        problems += [f"{tar.name}: {text}" for text in _content_problems(tar, sidecar, folder, config, shard)]
    except (tarfile.TarError, EOFError, OSError) as error:
        problems.append(f"{tar.name}: cannot be read as a tar ({error})")
    return problems


def _content_problems(
    tar: Path, sidecar: dict[str, Any], folder: Path, config: BuildConfig, shard: int
) -> Iterator[str]:
    with tarfile.open(tar) as file:
        names = file.getnames()
    keys = [name.partition(".")[0] for name in names[:: len(MEMBERS)]]
    if names != [f"{key}.{suffix}" for key in keys for suffix in MEMBERS]:
        yield "members are not in the order " + ", ".join(MEMBERS)
        return
    if len(keys) != sidecar["samples"] or len(set(keys)) != len(keys):
        yield f"{len(set(keys))} different samples, the sidecar says {sidecar['samples']}"
    planned = [record.key for record in read_plan_rows(folder / PLAN_FILE, shard)]
    order = {key: place for place, key in enumerate(planned)}
    places = [order.get(key.rpartition("_")[0], -1) for key in keys]
    if places != sorted(places) or -1 in places:
        yield "its samples are not those of the plan, in the plan's order"
    looked_at = np.linspace(0, len(keys) - 1, min(SAMPLES_PER_SHARD, len(keys))).astype(int).tolist()
    for key, members in tar_samples(tar, set(looked_at)):
        try:
            yield from (
                f"sample {key}: {text}" for text in sample_problems(decode_sample(members, key), config)
            )
        except UserError as error:
            yield str(error)


def sample_problems(sample: Sample, config: BuildConfig) -> Iterator[str]:
    """What is wrong with a decoded sample, by the formats' promises."""
    meta = sample.meta
    width, height = meta.image_size if config.profile == "source" else (config.image_size,) * 2
    if sample.image.shape != (height, width, 3):
        yield f"its image is {sample.image.shape[1]}x{sample.image.shape[0]}, not {width}x{height}"
    if sample.exemplar.shape != (EXEMPLAR_SIZE, EXEMPLAR_SIZE, 3):
        yield f"its exemplar is {sample.exemplar.shape}"
    if not (sample.edit_mask >= 128).any():
        yield "its edit mask has nothing to repaint"
    if meta.seed != config.seed or meta.source != config.source:
        yield f"it was drawn with seed {meta.seed} from {meta.source}"
    if meta.box not in [item.box for item in meta.boxes] or not meta.extended.contains(meta.box):
        yield "its box is not among its boxes, or not in its extended box"
    if not meta.squashed and not meta.window.contains(meta.extended):
        yield "its window does not hold its extended box"
