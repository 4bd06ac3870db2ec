"""One shard: a tar of samples and its sidecar. The sidecar is renamed into place last: it is the commit."""

import functools
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dataprep.choose.filters import rules_of
from dataprep.choose.pixels import picture_hash
from dataprep.draw.objects import judge_object
from dataprep.draw.render import Subject, choose_boxes, draw_sample, scale_boxes, store_picture
from dataprep.formats.object_masks import object_mask
from dataprep.pictures.decode import DecodedPicture, load_picture, resize
from dataprep.pictures.fit import fit_record
from dataprep.pictures.stores import PictureStore, open_store
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE, read_plan_rows
from dataprep.progress import noted
from dataprep.records import CLIPPED, CLIPPED_PX, FilterRules, PictureRecord, Rejected, RejectReason
from dataprep.shards.journal import ATTEMPT, find_killers, journal_path
from dataprep.shards.render_views import draw_pairs, pair_up, usable_views
from dataprep.shards.tally import HISTOGRAMS, ShardTally, kept_counts
from dataprep.sources.source import source_of
from dataprep.tars import tar_members, write_tar
from intarsia.errors import UserError
from intarsia.files import atomic_path, read_json, write_json
from intarsia.sample import FORMAT_VERSION, LabelledBox, Sample, encode_sample

MaskReader = Callable[[int], np.ndarray | Rejected | None]  # place of a box -> mask in the picture's size


@dataclass(frozen=True)
class ShardJob:
    """Everything that a worker needs to build one shard.

    Attributes:
        folder: shard folder.
        images: place of the pictures (`stores.locate`).
        shard: number of the shard.
        fingerprint: fingerprint of the build.
        config: options of the build.
        segmentations: folder of the mask PNGs; empty if there is none.
        as_shown: whether boxes count as far as pictures show them, see `FilterRules`.
    """

    folder: str
    images: str
    shard: int
    fingerprint: str
    config: BuildConfig
    segmentations: str = ""
    as_shown: bool = True

    @functools.cached_property
    def rules(self) -> FilterRules:
        """The rules that boxes are chosen by, worked out once for all pictures."""
        return rules_of(self.config, as_shown=self.as_shown)


def sidecar_path(folder: Path | str, config: BuildConfig, shard: int) -> Path:
    """The path of a shard's sidecar."""
    return Path(folder) / f"{config.shard_name(shard)}.json"


def is_shard_complete(folder: Path | str, config: BuildConfig, shard: int, fingerprint: str) -> bool:
    """Whether a shard was committed for this build and its tar still has the committed size."""
    sidecar = sidecar_path(folder, config, shard)
    try:
        content = read_json(sidecar)
    except UserError:  # missing, or damaged: it is made again
        return False
    tar = sidecar.with_suffix(".tar")
    return (
        isinstance(content, dict)
        and content.get("fingerprint") == fingerprint
        and tar.is_file()
        and tar.stat().st_size == content.get("bytes")
    )


def build_shard(job: ShardJob) -> dict[str, Any]:
    """Build one shard, commit it, and return its sidecar.

    The result depends only on the plan's rows, the options and the pictures. A picture that cannot be used is
    rejected with a reason. A picture that killed the process (a crash of a decoder, which no `except`
    catches) and then another process that tried it again is quarantined; the journal beside the shard shows
    it.

    Raises:
        OSError: if the folder cannot be written.
        UserError: if the folder of pictures is missing, or workers are killed again and again.
    """
    cv2.setNumThreads(1)
    config = job.config
    sidecar = sidecar_path(job.folder, config, job.shard)
    tar_path = sidecar.with_suffix(".tar")
    records = read_plan_rows(Path(job.folder) / PLAN_FILE, job.shard)
    journal = journal_path(job.folder, config, job.shard)
    by_key = {record.key: record for record in records}
    quarantined = find_killers(
        journal, tar_path.name, lambda key: render_record(by_key[key], job, ShardTally())
    )
    tally = ShardTally()

    def members() -> Iterator[tuple[str, bytes]]:
        for record in noted(records, job.folder, sidecar.stem, tally):
            if record.key in quarantined:
                rejected = Rejected(RejectReason.QUARANTINED, "the worker died on it twice")
                tally.reject_picture(record, rejected, [box.box_id for box in record.boxes])
                continue
            log.write(record.key + "\n")
            log.flush()
            for key, contents in render_record(record, job, tally):
                for suffix, content in contents.items():
                    yield f"{key}.{suffix}", content

    with atomic_path(tar_path) as temporary, journal.open("a", encoding="utf-8") as log:
        log.write(ATTEMPT)
        sha256 = write_tar(temporary, members())
    stats = _sidecar_content(job, tar_path, sha256, tally)
    write_json(sidecar, stats)
    journal.unlink(missing_ok=True)
    return stats


def render_record(
    record: PictureRecord, job: ShardJob, tally: ShardTally
) -> list[tuple[str, dict[str, bytes]]]:
    """The encoded samples of one picture; empty if it was rejected."""
    boxes = [box.box_id for box in record.boxes]
    store = _store_of(job.images, job.folder, job.fingerprint)
    if source_of(job.config.source).pairs:
        return _render_pairs(record, job, tally, store)
    try:
        config = job.config
        picture = load_picture(store.place(record.file), record.size, config.orientation, config.scale_boxes)
        if isinstance(picture, Rejected):
            if picture.reason in (RejectReason.FILE_MISSING, RejectReason.FILE_UNREADABLE):
                store.check(record.file)
            tally.reject_picture(record, picture, boxes)
            return []
        record = fit_record(record, picture.drawn_on, picture.size)
        usable, mask_of, dropped = _choose(record, picture, job)
        gone = {box_id for box_id, _ in dropped}
        drawn, masks, jpeg = _draw_all(record, picture, usable, mask_of, job) if usable else ([], [], None)
        samples = [sample for sample in drawn if isinstance(sample, Sample)]
        encoded = [(sample.meta.key, encode_sample(sample, jpeg)) for sample in samples]
    except UserError:  # not this picture's fault: nothing may be recorded against it
        raise
    except Exception as error:  # noqa: BLE001 - one picture must not stop a build; the reason is kept
        rejected = Rejected(RejectReason.RENDER_FAILED, f"{type(error).__name__}: {error}")
        tally.reject_picture(record, rejected, boxes)
        return []
    for box_id, rejected in dropped:
        tally.reject_box(record, box_id, rejected)
    if not samples:
        last = next(
            (d for d in drawn if isinstance(d, Rejected)), Rejected(RejectReason.NO_BOX, "none is left")
        )
        tally.reject_picture(record, last, [box for box in boxes if box not in gone])
        return []
    for draw, result in enumerate(drawn):
        if isinstance(result, Rejected):
            tally.reject_draw(record, draw, result)
        else:
            tally.count_mask(record, draw, masks[draw])
    tally.keep(len(usable), samples)
    for change in picture.changes:
        tally.change("pictures", change)
    kept = (box for box in record.boxes if box.box_id not in gone)
    tally.change("boxes", CLIPPED, sum(box.overhang(picture.size, record.unit) > CLIPPED_PX for box in kept))
    tally.hashes[record.image_id] = f"{picture_hash(picture.pixels):016x}"
    return encoded


def _render_pairs(
    record: PictureRecord, job: ShardJob, tally: ShardTally, store: PictureStore
) -> list[tuple[str, dict[str, bytes]]]:
    """The encoded samples of one record of views; empty if it was rejected."""
    config, boxes = job.config, [box.box_id for box in record.boxes]
    try:
        shown, dropped = usable_views(record, store, job.segmentations, config, job.rules)
        shown, partners, alone = pair_up(shown, config)
        drawn = draw_pairs(record, shown, partners, config) if shown else []
        made = [(one.sample, one.jpeg) for one in drawn if isinstance(one.sample, Sample)]
        encoded = [(sample.meta.key, encode_sample(sample, jpeg)) for sample, jpeg in made]
    except UserError:  # see `render_record`
        raise
    except Exception as error:  # noqa: BLE001 - see `render_record`
        rejected = Rejected(RejectReason.RENDER_FAILED, f"{type(error).__name__}: {error}")
        tally.reject_picture(record, rejected, boxes)
        return []
    for box_id, rejected in (*dropped, *alone):
        tally.reject_box(record, box_id, rejected)
    left = [box for box in boxes if box not in {box_id for box_id, _ in (*dropped, *alone)}]
    failed = [one.sample for one in drawn if isinstance(one.sample, Rejected)]
    if not made:
        tally.reject_picture(
            record, failed[0] if failed else Rejected(RejectReason.NO_BOX, "none is left"), left
        )
        return []
    for draw, one in enumerate(drawn):
        if isinstance(one.sample, Rejected):
            tally.reject_draw(record, draw, one.sample)
        else:
            tally.count_mask(record, draw, one.mask)
    tally.draws += len(drawn)
    tally.keep(len(left), [sample for sample, _ in made])
    tally.hashes[record.image_id] = f"{picture_hash(shown[0].picture.pixels):016x}"
    return encoded


def _choose(
    record: PictureRecord, picture: DecodedPicture, job: ShardJob
) -> tuple[tuple[LabelledBox, ...], MaskReader, list[tuple[int, Rejected]]]:
    """Boxes that may be chosen, the reader of their object masks, and (box id, reason) for the others."""
    usable, dropped = choose_boxes(record, picture, job.rules)
    gone = {box_id for box_id, _ in dropped}
    left = [box for box in record.boxes if box.box_id not in gone]

    def read(place: int) -> np.ndarray | Rejected | None:
        return object_mask(left[place].segmentation, job.segmentations, picture.size, picture.drawn_on)

    if not job.config.requires_masks:
        return usable, read, dropped
    recipe = job.config.drawing
    masks = [read(place) for place in range(len(usable))]
    judged = [judge_object(mask, item.box, recipe) for mask, item in zip(masks, usable, strict=True)]
    dropped += [(box.box_id, why) for box, why in zip(left, judged, strict=True) if why]
    kept = [place for place, why in enumerate(judged) if not why]
    return tuple(usable[place] for place in kept), lambda place: masks[kept[place]], dropped


@functools.lru_cache(maxsize=2)
def _store_of(images: str, folder: str, fingerprint: str) -> PictureStore:
    """The store of a build; a worker opens it once."""
    return open_store(images, folder)


def _draw_all(
    record: PictureRecord,
    picture: DecodedPicture,
    boxes: tuple[LabelledBox, ...],
    mask_of: MaskReader,
    job: ShardJob,
) -> tuple[list[Sample | Rejected], list[np.ndarray | Rejected | None], bytes | None]:
    """All draws of a picture, the object mask of each, and the JPEG to store if the picture is whole."""
    config = job.config
    source = config.profile == "source"
    stored = store_picture(picture, config.short_side) if source else picture

    found: list[np.ndarray | Rejected | None] = []  # one for each draw

    @cache
    def read_mask(place: int) -> np.ndarray | Rejected | None:
        mask = mask_of(place)
        if not isinstance(mask, np.ndarray) or stored.size == picture.size:
            return mask
        return resize(mask, stored.size)

    def masks(place: int) -> np.ndarray | None:
        found.append(mask := read_mask(place))
        return None if isinstance(mask, Rejected) else mask

    subject = Subject(
        source=config.source,
        image_id=record.image_id,
        key=record.key,
        file=record.file,
        picture=stored,
        boxes=scale_boxes(boxes, picture.size, stored.size),
        source_size=picture.size if stored.size != picture.size else None,
        draws_per_box=config.draws_per_image if config.all_boxes else 0,
        masks=masks,
        recipe=config.drawing,
        captions=record.captions,
    )
    side, number = None if source else config.image_size, config.draws(1, len(boxes))
    drawn = [draw_sample(subject, side, config.seed, draw) for draw in range(number)]
    if not config.object_masks:
        drawn = [_without_mask(one) for one in drawn]
    return drawn, found, stored.jpeg if source else None


def _without_mask(drawn: Sample | Rejected) -> Sample | Rejected:
    if isinstance(drawn, Rejected) or drawn.object_mask is None:
        return drawn
    return replace(drawn, object_mask=None)


def _sidecar_content(job: ShardJob, tar: Path, sha256: str, tally: ShardTally) -> dict[str, Any]:
    changed = {what: dict(sorted(numbers.items())) for what, numbers in tally.changed.items() if numbers}
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": job.fingerprint,
        "shard": tar.name,
        "samples": tally.kept["samples"],
        "bytes": tar.stat().st_size,
        "sha256": sha256,
        "kept": kept_counts(tally.kept, job.config),
        "rejected": {what: dict(sorted(tally.rejected[what].items())) for what in job.config.accounts},
        "labels": dict(sorted(tally.labels.items())),
        "histograms": {name: getattr(tally, name).tolist() for name in HISTOGRAMS},
        **({"draws": tally.draws} if tally.draws else {}),
        "hashes": tally.hashes,
        "rejects": tally.rejects,
        **({"changed": changed} if changed else {}),
    }


def tar_samples(tar: Path, places: Collection[int]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members (suffix to content) of the samples at these places of a shard, in order.

    Raises:
        tarfile.TarError: for a damaged tar.
    """
    with tar.open("rb") as file:
        groups = [list(group) for _, group in groupby(tar_members(file), key=_key_of)]
        for place in sorted(places):
            members = groups[place]
            contents = {
                name.partition(".")[2]: os.pread(file.fileno(), size, start) for name, start, size in members
            }
            yield _key_of(members[0]), contents


def _key_of(member: tuple[str, int, int]) -> str:
    return member[0].partition(".")[0]
