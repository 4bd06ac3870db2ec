"""Open Images box CSVs to columns, streamed and filtered on the way; no pixels are read."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from dataprep.choose.rules import judge_boxes
from dataprep.formats.columns import GrowingColumn
from dataprep.formats.csv_files import csv_header, find_fault
from dataprep.records import Annotations, Dropped, FilterRules
from intarsia.errors import UserError
from intarsia.files import refuse_lfs_pointer

BOX_BOUNDS = ("XMin", "YMin", "XMax", "YMax")  # our order; the file has XMin, XMax, YMin, YMax
BOX_FLAGS = {
    "IsOccluded": "is_occluded",
    "IsTruncated": "is_truncated",
    "IsGroupOf": "is_group_of",
    "IsDepiction": "is_depiction",
    "IsInside": "is_inside",
}
BOX_NAMES = ("ImageID", "LabelName")
UNNAMED = "unnamed"  # the class of a row without one
_FIRST_LINE = 2  # the header is line 1
_FAR = 2  # a fraction beyond this is no fraction
_MOST = 0.95  # share of such boxes among the first ones that makes a file one of pixels
_BLOCK = 1 << 22  # bytes of text in a batch; several are held at a time


def read_open_images(boxes: Path | str, classes: Path | str, rules: FilterRules | None = None) -> Annotations:
    """Read a box CSV in either published layout (13 columns, or 21 with the clicks of the train file).

    Columns are found by name. Rows without an ImageID are blank lines and are skipped; an empty or not finite
    coordinate makes a bad box, an empty flag is unknown (-1).

    Args:
        boxes: box CSV, e.g. oidv6-train-annotations-bbox.csv.
        classes: class-descriptions-boxable.csv: label, name; without a header.
        rules: rules whose dropped boxes go into `dropped` while reading; all boxes are kept if None.

    Raises:
        UserError: if a file is missing, a git-LFS pointer, lacks a needed column, or has a line that does not
            match its header; the line is named.
    """
    path = Path(boxes)
    columns = _Columns(read_class_names(classes), rules)
    header = csv_header(path, (*BOX_NAMES, *BOX_BOUNDS))
    try:
        for line, batch in _batches(path, header):
            if line == _FIRST_LINE:
                _refuse_pixels(path, batch)
            columns.add(line, batch)
    except pa.ArrowInvalid as error:
        text = " ".join(str(error).split())
        raise UserError(find_fault(path, header, BOX_BOUNDS, tuple(BOX_FLAGS)) or f"{path}: {text}") from None
    return columns.annotations()


def read_class_names(path: Path | str) -> dict[str, str]:
    """Label codes to names (/m/011k07 → Tortoise) from a two-column CSV without a header.

    Raises:
        UserError: if the file is missing, a git-LFS pointer, or does not have two columns.
    """
    path = Path(path)
    refuse_lfs_pointer(path)
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file)
        names = {}
        for row in reader:
            if row and (len(row) != 2 or not row[0]):
                raise UserError(
                    f"{path}, line {reader.line_num}: each line must hold a label and a name, "
                    f"this one is {','.join(row)[:80]!r}"
                )
            if row:
                names[row[0]] = row[1]
    if not names:
        raise UserError(f"{path} is empty: each line must hold a label and a name")
    return names


def _batches(path: Path, header: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of rows with the line of the file on which each begins."""
    types = {name: pa.dictionary(pa.int32(), pa.string()) for name in BOX_NAMES}
    types |= dict.fromkeys(BOX_BOUNDS, pa.float64()) | dict.fromkeys(BOX_FLAGS, pa.int8())
    with pacsv.open_csv(
        path,
        read_options=pacsv.ReadOptions(column_names=header, skip_rows=1, block_size=_BLOCK),
        parse_options=pacsv.ParseOptions(ignore_empty_lines=False),
        convert_options=pacsv.ConvertOptions(
            include_columns=list(types),
            include_missing_columns=True,
            column_types=types,
            strings_can_be_null=True,
            null_values=[""],
        ),
    ) as reader:
        line = _FIRST_LINE
        for batch in reader:
            yield line, batch
            line += len(batch)


def _refuse_pixels(path: Path, batch: pa.RecordBatch) -> None:
    """Refuse a file whose first rows are almost all far outside of their pictures."""
    bounds = np.stack([_floats(batch[name]) for name in BOX_BOUNDS], axis=1)
    far = (np.abs(np.nan_to_num(bounds)) > _FAR).any(axis=1)
    if len(far) and far.mean() > _MOST:
        row = int(np.argmax(far))
        box = ", ".join(f"{name} {x:g}" for name, x in zip(BOX_BOUNDS, bounds[row].tolist(), strict=True))
        raise UserError(
            f"{path}, line {_FIRST_LINE + row}: the box {box} is not in fractions of the picture; divide x "
            "by its width and y by its height, or use `build boxes`, which reads pixels"
        )


@dataclass
class _Columns:
    """What has been read so far: columns in pieces, one for each batch."""

    names: dict[str, str]
    rules: FilterRules | None
    codes: dict[str, int] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    pictures: list[pa.DictionaryArray] = field(default_factory=list)  # of kept and dropped rows by turns
    kept: dict[str, GrowingColumn] = field(
        default_factory=lambda: {
            "box_ids": GrowingColumn(np.int32),
            "bounds": GrowingColumn(np.float64, 4),
            "label": GrowingColumn(np.int32),
            **{name: GrowingColumn(np.int8) for name in BOX_FLAGS.values()},
        }
    )
    dropped: dict[str, GrowingColumn] = field(
        default_factory=lambda: {"box_ids": GrowingColumn(np.int32), "reason": GrowingColumn(np.int8)}
    )

    def add(self, line: int, batch: pa.RecordBatch) -> None:
        """Take in the rows of a batch that begins on this line."""
        lines: np.ndarray = np.arange(line, line + len(batch), dtype=np.int32)
        if batch["ImageID"].null_count:
            named = batch["ImageID"].is_valid()
            batch, lines = batch.filter(named), lines[named.to_numpy(zero_copy_only=False)]
        notes = self._read(batch, lines)
        verdict: np.ndarray
        if self.rules is None:
            verdict = np.full(len(notes), -1, np.int8)
        else:
            verdict = judge_boxes(notes, self.rules).astype(np.int8)
        stay = verdict < 0
        pictures = batch["ImageID"]
        self.pictures += [pictures.filter(pa.array(stay)), pictures.filter(pa.array(~stay))]
        columns = {"box_ids": notes.box_ids, "bounds": notes.bounds, "label": notes.label, **notes.flags}
        for name, column in columns.items():
            self.kept[name].append(column[stay])
        self.dropped["box_ids"].append(lines[~stay])
        self.dropped["reason"].append(verdict[~stay])

    def _read(self, batch: pa.RecordBatch, lines: np.ndarray) -> Annotations:
        return Annotations(
            unit="fractions",
            image_ids=[],
            files=[],
            sizes=np.empty((0, 2), np.int32),
            picture=batch["ImageID"].indices.to_numpy(),
            box_ids=lines,
            bounds=np.stack([_floats(batch[name]) for name in BOX_BOUNDS], axis=1),
            label=self._label_codes(batch["LabelName"]),
            labels=self.labels,
            flags={ours: batch[theirs].fill_null(-1).to_numpy() for theirs, ours in BOX_FLAGS.items()},
        )

    def _label_codes(self, column: pa.DictionaryArray) -> np.ndarray:
        """int32 [N] into `labels`, which grow; a batch numbers its labels in its own way."""
        ours: list[int] = []
        for code in [*column.dictionary.to_pylist(), *([UNNAMED] if column.null_count else [])]:
            if code not in self.codes:
                self.codes[code] = len(self.labels)
                self.labels.append(self.names.get(code, code))
            ours.append(self.codes[code])
        codes = column.indices.fill_null(len(column.dictionary)).to_numpy(zero_copy_only=False)
        return np.array(ours, np.int32)[codes]

    def annotations(self) -> Annotations:
        """Everything that was read."""
        image_ids, kept, dropped = self._join_pictures()
        columns = {name: column.finish() for name, column in self.kept.items()}
        return Annotations(
            unit="fractions",
            image_ids=image_ids,
            files=[""] * len(image_ids),
            sizes=np.zeros((len(image_ids), 2), np.int32),
            picture=kept,
            box_ids=columns.pop("box_ids"),
            bounds=columns.pop("bounds"),
            label=columns.pop("label"),
            labels=self.labels,
            flags=columns,
            dropped=Dropped(dropped, **{name: column.finish() for name, column in self.dropped.items()}),
            judged=self.rules,
        )

    def _join_pictures(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Image ids in the order of the file, and the pictures of kept and of dropped rows, int32."""
        if not self.pictures:
            return [], np.empty(0, np.int32), np.empty(0, np.int32)
        joined = pa.chunked_array(self.pictures).unify_dictionaries()
        self.pictures.clear()
        pa.default_memory_pool().release_unused()
        codes = [chunk.indices.to_numpy() for chunk in joined.chunks]
        image_ids = joined.chunk(0).dictionary.to_pylist()
        return image_ids, np.concatenate(codes[::2]), np.concatenate(codes[1::2])


def _floats(column: pa.Array) -> np.ndarray:
    return column.fill_null(float("nan")).to_numpy()
