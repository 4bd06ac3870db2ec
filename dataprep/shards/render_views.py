"""The samples of one record of views: of each object, pairs of two of its pictures."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from dataprep.choose.partners import overlap, possible_partners, taking_part
from dataprep.draw.objects import judge_object
from dataprep.draw.render import Subject, SubjectView, choose_boxes, draw_sample, scale_boxes, store_picture
from dataprep.formats.object_masks import object_mask
from dataprep.pictures.decode import DecodedPicture, load_picture, resize
from dataprep.pictures.stores import PictureStore
from dataprep.pictures.video import is_video, load_frames
from dataprep.plan.plan import BuildConfig
from dataprep.records import BoxRecord, FilterRules, PictureRecord, Rejected, RejectReason, View
from intarsia.png import encode_png
from intarsia.sample import LabelledBox, Sample, StoredView, encode_jpeg

FramePlace = tuple[str, int]  # file, and number of the frame or -1


@dataclass(frozen=True)
class UsableView:
    """A view that can be used.

    Attributes:
        record: box in the plan.
        view: what it is in a pair.
        picture: its picture.
        box: box and label, in pixels of the picture.
        mask: object mask, uint8 [H, W]; why it cannot be had; or None if there is none.
    """

    record: BoxRecord
    view: View
    picture: DecodedPicture
    box: LabelledBox
    mask: np.ndarray | Rejected | None


@dataclass(frozen=True)
class Drawn:
    """A draw: its sample or why there is none, its target's object mask, and the JPEG of a whole picture."""

    sample: Sample | Rejected
    mask: np.ndarray | None
    jpeg: bytes | None


Refusals = list[tuple[int, Rejected]]  # (box id, reason)


def usable_views(
    record: PictureRecord, store: PictureStore, masks: str, config: BuildConfig, rules: FilterRules
) -> tuple[list[UsableView], Refusals]:
    """The views that can be used, each picture decoded once; and (box id, reason) of the others."""
    by_picture: dict[FramePlace, list[tuple[BoxRecord, View]]] = {}
    for box in record.boxes:
        if box.view is None:
            raise ValueError(f"{record.image_id}: box {box.box_id} is not a view")
        by_picture.setdefault((box.view.file, box.view.frame), []).append((box, box.view))
    load = _Pictures(store, by_picture, record.size, config)
    shown: list[UsableView] = []
    dropped: Refusals = []
    for place, boxes in by_picture.items():
        picture = load(place)
        if isinstance(picture, Rejected):
            dropped += [(box.box_id, picture) for box, _ in boxes]
            continue
        found, gone = _in_picture(record, boxes, picture, masks, config, rules)
        shown += found
        dropped += gone
    order = {box.box_id: place for place, box in enumerate(record.boxes)}
    return sorted(shown, key=lambda one: order[one.record.box_id]), dropped


def _in_picture(
    record: PictureRecord,
    boxes: list[tuple[BoxRecord, View]],
    picture: DecodedPicture,
    masks: str,
    config: BuildConfig,
    rules: FilterRules,
) -> tuple[list[UsableView], Refusals]:
    """The views of one picture that can be used, and the others."""
    shown: list[UsableView] = []
    dropped: Refusals = []
    for box, view in boxes:
        # A picture that shows an object only to be cut out may be filled by it.
        own = rules if view.is_target else replace(rules, largest_area=math.inf)
        kept, gone = choose_boxes(replace(record, boxes=(box,)), picture, own)
        if gone:
            dropped += gone
            continue
        mask = object_mask(box.segmentation, masks, picture.size)
        why = judge_object(mask, kept[0].box, config.drawing) if config.requires_masks else None
        if isinstance(mask, Rejected):
            why = mask  # the box is that of the mask
        if why:
            dropped.append((box.box_id, why))
        else:
            shown.append(UsableView(box, view, picture, kept[0], mask))
    return shown, dropped


class _Pictures:
    """The pictures and frames of a record; a video is read once, for all of its frames."""

    def __init__(
        self,
        store: PictureStore,
        wanted: Iterable[FramePlace],
        size: tuple[int, int] | None,
        config: BuildConfig,
    ) -> None:
        self._store, self._size, self._config = store, size, config
        self._frames: dict[str, list[int]] = {}
        for file, frame in wanted:
            self._frames.setdefault(file, []).append(frame)
        self._video = cache(self._read_video)

    def __call__(self, place: FramePlace) -> DecodedPicture | Rejected:
        file, frame = place
        if not is_video(file):
            found = load_picture(self._store.place(file), self._size)
            self._check(file, found)
            return found
        frames = self._video(file)
        if isinstance(frames, Rejected):
            return frames
        if frame not in frames:
            return Rejected(RejectReason.FRAME_MISSING, f"frame {frame}")
        size = frames[frame].size
        if self._size not in (None, size):
            return Rejected(RejectReason.SIZE_MISMATCH, f"annotated as {self._size}, is {size[0]}x{size[1]}")
        return frames[frame]

    def _read_video(self, file: str) -> dict[int, DecodedPicture] | Rejected:
        found = load_frames(self._store.place(file), self._frames[file])
        self._check(file, found)
        return found

    def _check(self, file: str, found: object) -> None:
        """UserError if the whole store is gone, and not this file."""
        if isinstance(found, Rejected) and found.reason in (
            RejectReason.FILE_MISSING,
            RejectReason.FILE_UNREADABLE,
        ):
            self._store.check(file)


def pair_up(
    shown: list[UsableView], config: BuildConfig
) -> tuple[list[UsableView], list[list[int]], Refusals]:
    """The views that are in any pair, the places of each one's partners, and the others.

    Two masks of one object that overlap by more than --max-mask-iou hardly differ: a pair of them would teach
    to copy. With profile `source`, of more views than --max-views those are kept that lie evenly in time.
    """
    partners = possible_partners([one.view for one in shown], config.min_gap or 1)
    limit = 1.0 if config.max_mask_iou is None else config.max_mask_iou
    alike = _alike(shown, partners, limit)
    apart = [
        [other for other in places if (min(place, other), max(place, other)) not in alike]
        for place, places in enumerate(partners)
    ]
    dropped: Refusals = []
    kept: list[int] = []
    before = taking_part(partners)
    for place, there in enumerate(taking_part(apart)):
        if there:
            kept.append(place)
        else:
            reason = RejectReason.TOO_ALIKE if before[place] else RejectReason.NO_PARTNER
            dropped.append((shown[place].record.box_id, Rejected(reason)))
    if config.profile == "source":
        chosen = _spread(kept, shown, config.max_views or len(kept))
        over = Rejected(RejectReason.OVER_VIEWS_MAX)
        dropped += [(shown[place].record.box_id, over) for place in kept if place not in chosen]
        kept = [place for place in kept if place in chosen]
    new = {place: number for number, place in enumerate(kept)}
    left = [[new[other] for other in apart[place] if other in new] for place in kept]
    if len(kept) < len(shown) and kept:  # a view may have lost its partners with those that went
        again = taking_part(left)
        if not all(again):
            lost = [kept[number] for number, there in enumerate(again) if not there]
            dropped += [(shown[place].record.box_id, Rejected(RejectReason.NO_PARTNER)) for place in lost]
            kept = [place for place in kept if place not in lost]
            new = {place: number for number, place in enumerate(kept)}
            left = [[new[other] for other in apart[place] if other in new] for place in kept]
    return [shown[place] for place in kept], left, dropped


def _alike(shown: list[UsableView], partners: list[list[int]], limit: float) -> set[tuple[int, int]]:
    """The possible pairs, smaller place first, of frames whose masks overlap by more than `limit`."""
    inside = {
        place: one.mask >= 128
        for place, one in enumerate(shown)
        if limit < 1 and one.view.frame >= 0 and isinstance(one.mask, np.ndarray)
    }
    pairs = {
        (min(place, other), max(place, other))
        for place, places in enumerate(partners)
        for other in places
        if place in inside and other in inside
    }
    return {(one, other) for one, other in pairs if overlap(inside[one], inside[other]) > limit}


def _spread(kept: list[int], shown: list[UsableView], most: int) -> set[int]:
    """Of each object at most so many of the views `kept`, evenly spread."""
    by_track: dict[int, list[int]] = {}
    for place in kept:
        by_track.setdefault(shown[place].view.track, []).append(place)
    chosen: set[int] = set()
    for places in by_track.values():
        if len(places) <= most:
            chosen |= set(places)
        else:
            last = len(places) - 1
            chosen |= {places[number * last // (most - 1)] for number in range(most)}
    return chosen


def draw_pairs(
    record: PictureRecord, shown: list[UsableView], partners: list[list[int]], config: BuildConfig
) -> list[Drawn]:
    """All draws of a record.

    Profile `tuple` draws among all views, as it draws among the boxes of a picture; profile `source` makes
    samples of each object, which hold all its views.
    """
    if config.profile == "tuple":
        groups = [list(range(len(shown)))]
    else:
        tracks = dict.fromkeys(one.view.track for one in shown)
        groups = [[n for n, one in enumerate(shown) if one.view.track == track] for track in tracks]
    results: list[Drawn] = []
    for group in groups:
        subject, stored = _subject(
            record, [shown[place] for place in group], _within(partners, group), config
        )
        targets = sum(bool(view.partners) for view in subject.views)
        number = config.draws_per_image * (targets if config.all_boxes and config.profile == "tuple" else 1)
        first = len(results)
        for draw in range(first, first + number):
            results.append(_draw(subject, stored, draw, config))
    return results


def _within(partners: list[list[int]], group: list[int]) -> list[tuple[int, ...]]:
    new = {place: number for number, place in enumerate(group)}
    return [tuple(new[other] for other in partners[place] if other in new) for place in group]


def _draw(subject: Subject, stored: tuple[StoredView, ...], draw: int, config: BuildConfig) -> Drawn:
    asked: list[int] = []  # first the target, then the exemplar

    def masks(place: int) -> np.ndarray | None:
        asked.append(place)
        return subject.masks(place)

    side = None if config.profile == "source" else config.image_size
    drawn = draw_sample(replace(subject, masks=masks), side, config.seed, draw)
    if isinstance(drawn, Sample):
        drawn = replace(drawn, object_mask=drawn.object_mask if config.object_masks else None, views=stored)
    return Drawn(drawn, subject.masks(asked[0]), stored[asked[0]].jpeg if stored else None)


def _subject(
    record: PictureRecord, shown: list[UsableView], partners: list[tuple[int, ...]], config: BuildConfig
) -> tuple[Subject, tuple[StoredView, ...]]:
    """What is drawn from, and the views to be stored with each sample: none for profile `tuple`."""
    whole = config.profile == "source"
    pictures = [store_picture(one.picture, config.short_side) if whole else one.picture for one in shown]
    masks = [_mask_at(one, picture.size) for one, picture in zip(shown, pictures, strict=True)]
    boxes = tuple(
        scale_boxes((one.box,), one.picture.size, picture.size)[0]
        for one, picture in zip(shown, pictures, strict=True)
    )
    views = tuple(
        SubjectView(
            file=one.view.file,
            frame=None if one.view.frame < 0 else one.view.frame,
            picture=_constant(picture),
            partners=places,
            source_size=one.picture.size if picture.size != one.picture.size else None,
            caption=one.view.caption,
        )
        for one, picture, places in zip(shown, pictures, partners, strict=True)
    )
    subject = Subject(
        source=config.source,
        image_id=record.image_id,
        key=record.key,
        file=record.file,
        picture=pictures[0],
        boxes=boxes,
        draws_per_box=config.draws_per_image if config.all_boxes and not whole else 0,
        masks=lambda place: masks[place],
        recipe=config.drawing,
        views=views,
    )
    stored = tuple(
        StoredView(
            picture.jpeg or encode_jpeg(picture.pixels),
            None if mask is None or not config.object_masks else encode_png(mask),
        )
        for picture, mask in zip(pictures, masks, strict=True)
    )
    return subject, stored if whole else ()


def _mask_at(one: UsableView, size: tuple[int, int]) -> np.ndarray | None:
    if not isinstance(one.mask, np.ndarray):
        return None
    return one.mask if one.picture.size == size else resize(one.mask, size)


def _constant(picture: DecodedPicture) -> Callable[[], DecodedPicture]:
    return lambda: picture
