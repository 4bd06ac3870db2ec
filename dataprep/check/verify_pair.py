"""A decoded sample of a pair against the plan: both files, both frames, and the views that it stores."""

from collections.abc import Iterator
from dataclasses import dataclass

from dataprep.plan.plan import BuildConfig
from dataprep.records import BoxRecord, PictureRecord, View
from intarsia.boxes import Box, scale_box
from intarsia.errors import UserError
from intarsia.sample import Sample, decode_view


@dataclass(frozen=True)
class _Told:
    """What a record says of a view: its file, its frame, and its box in a picture of two sizes."""

    file: str
    frame: int | None
    box: Box
    stored: tuple[int, int]
    source: tuple[int, int]

    def planned(self, record: PictureRecord) -> list[View]:
        """The views of the plan that it can be."""
        return [view for item in record.boxes if (view := item.view) and self._is(item, view, record)]

    def _is(self, item: BoxRecord, view: View, record: PictureRecord) -> bool:
        if (view.file, view.frame) != (self.file, -1 if self.frame is None else self.frame):
            return False
        return scale_box(item.to_box(self.source, record.unit), self.source, self.stored) == self.box

    def __str__(self) -> str:
        return self.file if self.frame is None else f"{self.file}, frame {self.frame}"


def pair_problems(sample: Sample, config: BuildConfig, record: PictureRecord) -> Iterator[str]:
    """What is wrong with the origin of a pair.

    Args:
        sample: sample with an exemplar from another picture.
        config: options of its build.
        record: the plan's record of its views.
    """
    meta, origin, gap = sample.meta, sample.meta.exemplar_from, config.min_gap or 1
    if origin is None:
        raise ValueError(f"sample {meta.key} is not a pair")
    if meta.image_id != record.image_id:
        yield f"it is of {meta.image_id}, planned is {record.image_id}"
    sizes = {(view.file, view.frame): view.source_size for view in meta.views}
    stored = origin.image_size
    own = sizes.get((origin.file, origin.frame)) or stored
    target = _Told(meta.file, meta.frame, meta.box, meta.image_size, meta.source_size or meta.image_size)
    exemplar = _Told(origin.file, origin.frame, origin.box, stored, own)
    targets, exemplars = target.planned(record), exemplar.planned(record)
    for told, planned in ((target, targets), (exemplar, exemplars)):
        if not planned:
            yield f"its box in {told} is not one of the plan"
    if targets and exemplars and not any(a.pairs_with(b, gap) for a in targets for b in exemplars):
        yield f"{target} and {exemplar} are not a pair that the plan allows"
    yield from _view_problems(sample, config, record)


def _view_problems(sample: Sample, config: BuildConfig, record: PictureRecord) -> Iterator[str]:
    """What is wrong with the views that a sample stores."""
    meta = sample.meta
    if bool(meta.views) != (config.profile == "source"):
        yield f"it stores {len(meta.views)} views, which its profile {config.profile} does not"
    if meta.views and len(meta.views) != len(meta.boxes):
        yield f"it has {len(meta.boxes)} boxes for {len(meta.views)} views"
        return
    for place, (view, item) in enumerate(zip(meta.views, meta.boxes, strict=False)):
        try:
            pixels, _ = decode_view(sample, place)
        except UserError as error:
            yield str(error)
            continue
        size = pixels.shape[1], pixels.shape[0]
        told = _Told(view.file, view.frame, item.box, size, view.source_size or size)
        if not told.planned(record):
            yield f"its view {place}, {told}, is not one of the plan"
        if not all(0 <= other < len(meta.views) and other != place for other in view.partners):
            yield f"its view {place}, {told}, has partners that it does not store"
