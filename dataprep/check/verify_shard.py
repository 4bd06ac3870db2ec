"""One shard against its sidecar and its plan: the tar's members, the accounts, and a look at its samples."""

import tarfile
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.check.verify_sample import sample_problems
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE, read_plan_rows
from dataprep.records import PictureRecord
from dataprep.shards.tally import HISTOGRAMS, ShardTally
from intarsia.errors import UserError
from intarsia.files import sha256_file
from intarsia.sample import MEMBERS, OBJECT_MASK, VIEW_MEMBER, decode_sample

SAMPLES_PER_SHARD = 4  # that are decoded unless all are
_PLURAL = {"picture": "pictures", "box": "boxes", "draw": "draws", "mask": "masks", "file": "files"}
ACCOUNTS = tuple(_PLURAL.values())

Group = tuple[str, list[tarfile.TarInfo]]  # a sample's key and its members, in the order of the tar


def shard_problems(
    folder: Path, sidecar: dict[str, Any], header: dict[str, Any], shard: int, full: bool
) -> Iterator[str]:
    """The problems of one shard, a line each; none for a sound one.

    Args:
        folder: shard folder.
        sidecar: content of the shard's sidecar.
        header: header of the plan.
        shard: number of the shard.
        full: whether to decode every sample and count again; otherwise a few are decoded.
    """
    config = BuildConfig(**header["config"])
    tar = folder / f"{config.shard_name(shard)}.tar"
    if sidecar["fingerprint"] != header["fingerprint"]:
        yield f"{tar.name}: its sidecar belongs to another build"
        return
    if not tar.is_file():
        yield f"{tar.name}: missing"
        return
    if tar.stat().st_size != sidecar["bytes"]:
        yield f"{tar.name}: {tar.stat().st_size} bytes, the sidecar says {sidecar['bytes']}"
        return
    if sha256_file(tar) != sidecar["sha256"]:
        yield f"{tar.name}: its sha256 is not the sidecar's; delete it and build again"
    if sidecar["shard"] != tar.name:
        yield f"{tar.name}: its sidecar says {sidecar['shard']}"
    planned = read_plan_rows(folder / PLAN_FILE, shard)
    for text in _sidecar_problems(sidecar, planned, config):
        yield f"{tar.name}: {text}"
    try:
        for text in _content_problems(tar, sidecar, planned, config, full):
            yield f"{tar.name}: {text}"
    except (tarfile.TarError, EOFError, OSError) as error:
        yield f"{tar.name}: cannot be read as a tar ({error})"


def count_rejects(records: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Records of rejects -> what -> reason -> number; a picture's boxes count with it.

    Raises:
        KeyError, TypeError: for something that is not such a record.
    """
    counts: dict[str, Counter[str]] = {what: Counter() for what in ACCOUNTS}
    for record in records:
        counts[_PLURAL[record["what"]]][record["reason"]] += 1
        counts["boxes"][record["reason"]] += len(record.get("box_ids", ()))
    return counts


def _sidecar_problems(
    sidecar: dict[str, Any], planned: list[PictureRecord], config: BuildConfig
) -> Iterator[str]:
    """Whether the sidecar's numbers add up, to each other and to the plan."""
    kept, rejected = sidecar["kept"], sidecar["rejected"]
    numbers = {what: sum(reasons.values()) for what, reasons in rejected.items()}
    accounts = {
        "pictures": (len(planned), kept["pictures"]),
        "boxes": (sum(len(record.boxes) for record in planned), kept["boxes"]),
        "draws": (
            sidecar.get("draws") or config.draws(kept["pictures"], kept["boxes"]),
            kept["samples"],
        ),
    }
    for what, (given, left) in accounts.items():
        if given != left + numbers[what]:
            yield f"{given} {what} in, but its sidecar counts {left} kept and {numbers[what]} rejected"
    try:
        listed = count_rejects(sidecar["rejects"])
    except (KeyError, TypeError):
        yield "a reject in its sidecar is not a record of one"
        return
    for what, counted in rejected.items():
        if {reason: number for reason, number in listed[what].items() if number} != counted:
            yield f"its sidecar lists other {what} as rejected than it counts"
    sums = {"labels": sum(sidecar["labels"].values())}
    sums |= {name: sum(sidecar["histograms"][name]) for name in HISTOGRAMS}
    for name, number in sums.items():
        if number != sidecar["samples"]:
            yield f"the {name} of its sidecar add up to {number}, not to {sidecar['samples']} samples"


def _content_problems(
    tar: Path, sidecar: dict[str, Any], planned: list[PictureRecord], config: BuildConfig, full: bool
) -> Iterator[str]:
    with tarfile.open(tar) as file:
        members = file.getmembers()
        yield from _end_problems(members, tar.stat().st_size)
        groups = [(key, list(group)) for key, group in groupby(members, _key_of)]
        yield from _key_problems(groups, sidecar, planned)
        masks = sum(member.name.endswith(f".{OBJECT_MASK}") for member in members)
        if masks != (sidecar["kept"].get("masks", 0) if config.object_masks else 0):
            yield f"{masks} object masks, the sidecar says {sidecar['kept'].get('masks', 0)}"
        sound = []
        for group in groups:
            found = list(_member_problems(*group))
            yield from found
            if not found:
                sound.append(group)
        chosen = sound if full else _spread(sound)
        yield from _sample_problems(file, chosen, planned, config, sidecar if full else None)


def _key_of(member: tarfile.TarInfo) -> str:
    return member.name.partition(".")[0]


def _spread(groups: list[Group]) -> list[Group]:
    places = np.linspace(0, len(groups) - 1, min(SAMPLES_PER_SHARD, len(groups))).astype(int)
    return [groups[place] for place in places]


def _end_problems(members: list[tarfile.TarInfo], size: int) -> Iterator[str]:
    """A tar that is cut between members, or has a damaged header, reads as one that just ends there."""
    block, record = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
    last = members[-1] if members else None
    end = last.offset_data + ceil(last.size / block) * block if last else 0
    if ceil((end + 2 * block) / record) * record != size:
        yield f"torn or damaged: its members end at byte {end:,} of {size:,}"


def _key_problems(
    groups: list[Group], sidecar: dict[str, Any], planned: list[PictureRecord]
) -> Iterator[str]:
    """Whether the samples are the plan's, each once, in its order, as many as the sidecar says."""
    keys = [key for key, _ in groups]
    places = {record.key: place for place, record in enumerate(planned)}
    seen: set[str] = set()
    order = []
    for key in keys:
        picture, _, draw = key.rpartition("_")
        if key in seen:
            yield f"duplicate key {key}"
        elif picture not in places or not draw.isdecimal():
            yield f"{key} is not a sample of the plan"
        else:
            order.append((places[picture], int(draw)))
        seen.add(key)
    if order != sorted(order):
        yield "its samples are not in the plan's order"
    if len(seen) != sidecar["samples"]:
        yield f"{len(seen)} samples, the sidecar says {sidecar['samples']}"
    dropped = {item.get("image_id") for item in sidecar["rejects"] if item.get("what") == "picture"}
    kept = {place for place, _ in order}
    for place, record in enumerate(planned):
        if (place in kept) == (record.image_id in dropped):
            yield f"picture {record.image_id} is {'kept and rejected' if place in kept else 'lost'}"


def _member_problems(key: str, members: list[tarfile.TarInfo]) -> Iterator[str]:
    names = [member.name.partition(".")[2] for member in members]
    for name in MEMBERS:
        if name not in names:
            yield f"sample {key}: member {name} is missing"
    for name in dict.fromkeys(names):
        if name not in (*MEMBERS, OBJECT_MASK) and not VIEW_MEMBER.fullmatch(name):
            yield f"sample {key}: {name} is not a member of a sample"
        elif names.count(name) > 1:
            yield f"sample {key}: member {name} appears {names.count(name)} times"
    views = sorted(name for name in names if VIEW_MEMBER.fullmatch(name))
    order = [name for name in (*MEMBERS, OBJECT_MASK) if name in names] + views
    if sorted(names) == sorted(order) and names != order:
        yield f"sample {key}: its members are not in the order {', '.join(order)}"
    for member in members:
        facts = (member.isreg(), member.mtime, member.uid, member.gid, member.mode)
        if facts != (True, 0, 0, 0, 0o644):
            yield f"sample {key}: {member.name} is not a plain file of mode 644, time 0 and owner 0"


def _sample_problems(
    file: tarfile.TarFile,
    groups: list[Group],
    planned: list[PictureRecord],
    config: BuildConfig,
    sidecar: dict[str, Any] | None,
) -> Iterator[str]:
    """Decode the samples of `groups`; where `sidecar` is given they are all there are, and are counted."""
    records = {record.key: record for record in planned}
    tally, decoded = ShardTally(), 0
    for key, members in groups:
        contents = {}
        for member in members:
            opened = file.extractfile(member)
            contents[member.name.partition(".")[2]] = opened.read() if opened else b""
        try:
            sample = decode_sample(contents, key)
        except UserError as error:
            yield str(error)
            continue
        decoded += 1
        tally.keep(0, [sample])
        if sample.meta.key != key:
            yield f"sample {key}: its record is that of {sample.meta.key}"
        record = records.get(key.rpartition("_")[0])
        yield from (f"sample {key}: {text}" for text in sample_problems(sample, config, record))
    if sidecar is not None and decoded == sidecar["samples"]:
        if dict(tally.labels) != sidecar["labels"]:
            yield "the labels of its samples are not those that the sidecar counts"
        for name in HISTOGRAMS:
            if getattr(tally, name).tolist() != sidecar["histograms"][name]:
                yield f"the {name} of its samples is not what the sidecar counts"
