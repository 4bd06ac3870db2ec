"""Views of objects in columns, as the sources of pairs collect them one by one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from dataprep.records import REASONS, Annotations, Dropped, RejectReason, View, Views

Bounds = tuple[float, float, float, float]


@dataclass
class ViewColumns:
    """Records with their views so far; `annotations` makes columns of them."""

    image_ids: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    _rows: list[tuple[int, int, Bounds, str, int, str, View]] = field(default_factory=list)
    _dropped: list[tuple[int, int, RejectReason]] = field(default_factory=list)

    def begin(self, image_id: str, file: str, size: tuple[int, int] = (0, 0)) -> None:
        """Begin a record, whose views follow.

        Args:
            image_id: name of the video or the group.
            file: its first picture, or its video.
            size: (width, height), as far as it is known before pictures are read.
        """
        self.image_ids.append(image_id)
        self.files.append(file)
        self.sizes.append(size)

    def add(
        self, box_id: int, bounds: Bounds, view: View, label: str, segmentation: str = "", is_cut: int = -1
    ) -> None:
        """A view of the record begun last.

        Args:
            box_id: number of the view in its record.
            bounds: (x0, y0, x1, y1) in pixels, half-open.
            view: what it is in a pair.
            label: class name.
            segmentation: object's outline, see `object_masks`.
            is_cut: whether the border cuts the object: 1 yes, 0 no, -1 unknown.
        """
        record = len(self.image_ids) - 1
        self._rows.append((record, box_id, bounds, label, is_cut, segmentation, view))

    def drop(self, box_id: int, reason: RejectReason) -> None:
        """A view of the record begun last that cannot be used."""
        self._dropped.append((len(self.image_ids) - 1, box_id, reason))

    def annotations(self) -> Annotations:
        """All of it."""
        rows, dropped = self._rows, self._dropped
        labels = {label: place for place, label in enumerate(dict.fromkeys(row[3] for row in rows))}
        texts = pa.array([row[5] for row in rows], pa.string())
        return Annotations(
            unit="pixels",
            image_ids=self.image_ids,
            files=self.files,
            sizes=np.array(self.sizes, np.int32).reshape(-1, 2),
            picture=np.array([row[0] for row in rows], np.int32),
            box_ids=np.array([row[1] for row in rows], np.int32),
            bounds=np.array([row[2] for row in rows], np.float64).reshape(-1, 4),
            label=np.array([labels[row[3]] for row in rows], np.int32),
            labels=list(labels),
            flags={"is_cut": np.array([row[4] for row in rows], np.int8)},
            dropped=Dropped(
                np.array([item[0] for item in dropped], np.int32),
                np.array([item[1] for item in dropped], np.int32),
                np.array([REASONS.index(item[2]) for item in dropped], np.int8),
            ),
            segmentation=lambda wanted: texts.take(pa.array(wanted)),
            views=_columns([row[6] for row in rows]),
        )


def _columns(views: list[View]) -> Views:
    places: Mapping[str, int] = {
        file: place for place, file in enumerate(dict.fromkeys(view.file for view in views))
    }
    return Views(
        files=list(places),
        file=np.array([places[view.file] for view in views], np.int32),
        frame=np.array([view.frame for view in views], np.int32),
        track=np.array([view.track for view in views], np.int32),
        is_target=np.array([view.is_target for view in views], bool),
        is_exemplar=np.array([view.is_exemplar for view in views], bool),
        caption=[view.caption for view in views] if any(view.caption for view in views) else [],
    )
