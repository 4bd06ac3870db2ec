"""A CSV of pairs, target and exemplar of one object in two pictures, to columns; no picture is opened."""

import csv
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from dataprep.formats.boxes_csv import CORNERS, UNLABELLED
from dataprep.formats.captions import tidy_caption
from dataprep.formats.csv_files import csv_header
from dataprep.formats.object_masks import read_mask_png
from dataprep.formats.views import Bounds, ViewColumns
from dataprep.records import Annotations, Rejected, RejectReason, View
from intarsia.errors import UserError

WHOLE: Bounds = (0.0, 0.0, 1e7, 1e7)  # a picture that shows nothing but the object
_COLUMNS = ("target", "exemplar", "mask", *CORNERS, "exemplar_mask", "label", "group", "caption")


def read_pairs_csv(path: Path, masks: Path | None) -> Annotations:
    """Read a CSV whose first line names `target`, `exemplar`, and `mask` or `x0`, `y0`, `x1`, `y1`.

    target and exemplar are paths below the folder of pictures. The object is in the target where its mask is
    (a PNG below `masks`, white = object) or in its box (pixels, half-open); in the exemplar it is where
    `exemplar_mask` is, or all of it. Rows with the same `group` show the same object: each of their exemplars
    may be painted into each of their targets. Other columns and blank lines are skipped. A box's id is its
    line × 2, that of the line's exemplar one more.

    Args:
        path: CSV file.
        masks: folder of the masks; None if there are none.

    Raises:
        UserError: if the file is missing, lacks a column, or has a line with another number of columns, an
            empty path, neither mask nor box, or a coordinate that is not a number; the line is named.
    """
    columns, opened = ViewColumns(), _Masks(path, masks)
    groups: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for line, row in _rows(path):
        groups.setdefault(f"g {row['group']}" if row["group"] else f"t {row['target']}", []).append(
            (line, row)
        )
    for name, rows in groups.items():
        columns.begin(name[2:], rows[0][1]["target"])
        seen: set[tuple[object, ...]] = set()
        for line, row in rows:
            track = 0 if row["group"] else line
            _add(columns, opened, seen, line, row, track)
    return columns.annotations()


def _add(
    columns: ViewColumns,
    opened: "_Masks",
    seen: set[tuple[object, ...]],
    line: int,
    row: dict[str, str],
    track: int,
) -> None:
    """The two views of a row; one that an earlier row of the group has is not added again."""
    if row["target"] == row["exemplar"] and not row["group"]:
        columns.drop(2 * line, RejectReason.SAME_FILE)
        columns.drop(2 * line + 1, RejectReason.SAME_FILE)
        return
    label = row["label"] or UNLABELLED
    for is_target, file, mask in (
        (True, row["target"], row["mask"]),
        (False, row["exemplar"], row["exemplar_mask"]),
    ):
        bounds: Bounds | Rejected = _box(opened.path, line, row) if is_target else WHOLE
        if mask:
            bounds = opened.bounds(line, mask)
        box_id = 2 * line + (not is_target)
        caption = tidy_caption(row["caption"]) if is_target else ""
        if isinstance(bounds, Rejected):
            columns.drop(box_id, bounds.reason)
        elif (view := (is_target, file, mask, bounds, track)) not in seen:
            seen.add(view)
            columns.add(
                box_id,
                bounds,
                View(file, -1, track, is_target, not is_target, caption),
                label,
                mask and f"./{mask}",
            )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, values by column) of each row, with empty texts for columns that the file does not have."""
    header = csv_header(path, ("target", "exemplar"))
    if "mask" not in header and not set(CORNERS) <= set(header):
        raise UserError(
            f"{path}, line 1: the object's place is missing; give a column mask, or the columns "
            f"{', '.join(CORNERS)}"
        )
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file)
        next(reader)
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            line = reader.line_num
            if any("\ufffd" in value for value in values):
                raise UserError(f"{path}, line {line}: it is not UTF-8; save the file in that encoding")
            if len(values) != len(header):
                raise UserError(
                    f"{path}, line {line}: {len(values)} columns, the first line has {len(header)}; is the "
                    "file whole?"
                )
            given = dict(zip(header, (value.strip() for value in values), strict=True))
            row = {name: given.get(name, "") for name in _COLUMNS}
            for name in ("target", "exemplar"):
                row[name] = row[name].replace("\\", "/")
                if not row[name]:
                    raise UserError(f"{path}, line {line}: {name} is empty; give the path of a picture")
            yield line, row


def _box(path: Path, line: int, row: dict[str, str]) -> Bounds:
    if row["mask"]:
        return WHOLE
    values = []
    for name in CORNERS:
        if not row[name]:
            raise UserError(f"{path}, line {line}: {name} and mask are empty; give the object's mask or box")
        try:
            values.append(float(row[name]))
        except ValueError:
            raise UserError(f"{path}, line {line}: {name} is {row[name]!r}, not a number") from None
    x0, y0, x1, y1 = values
    return x0, y0, x1, y1


class _Masks:
    """The bounds of the objects in the masks of a CSV, each read once."""

    def __init__(self, path: Path, folder: Path | None) -> None:
        self.path, self._folder = path, folder
        self._known: dict[str, Bounds | Rejected] = {}

    def bounds(self, line: int, mask: str) -> Bounds | Rejected:
        """The bounds of the object in a mask."""
        if self._folder is None:
            raise UserError(
                f"{self.path}, line {line}: the mask {mask} needs its folder; give --segmentations FOLDER"
            )
        if mask not in self._known:
            self._known[mask] = _bounds(read_mask_png(self._folder, mask))
        return self._known[mask]


def _bounds(pixels: np.ndarray | Rejected) -> Bounds | Rejected:
    if isinstance(pixels, Rejected):
        return pixels
    x, y, width, height = cv2.boundingRect(pixels)
    if not width:
        return Rejected(RejectReason.EMPTY_BOX, "its mask is empty")
    return float(x), float(y), float(x + width), float(y + height)
