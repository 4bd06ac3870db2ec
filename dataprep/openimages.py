"""Open Images box CSVs to columns, streamed; no pixels are read."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from dataprep.pictures import refuse_lfs_pointer
from dataprep.records import Annotations
from intarsia.errors import UserError

BOUNDS = ("XMin", "YMin", "XMax", "YMax")  # our order; the file has XMin, XMax, YMin, YMax
FLAGS = {
    "IsOccluded": "is_occluded",
    "IsTruncated": "is_truncated",
    "IsGroupOf": "is_group_of",
    "IsDepiction": "is_depiction",
    "IsInside": "is_inside",
}
COLUMNS = ("ImageID", "LabelName", *BOUNDS, *FLAGS)


def read_open_images(boxes: Path | str, classes: Path | str) -> Annotations:
    """Read a box CSV in either published layout (13 columns, or 21 with the clicks of the train file).

    Columns are found by name. Rows without an ImageID are blank lines and are skipped; a coordinate that is
    no number makes a bad box, a flag that is not there is unknown (-1).

    Args:
        boxes: e.g. oidv6-train-annotations-bbox.csv.
        classes: class-descriptions-boxable.csv: label, name; without a header.

    Raises:
        UserError: if a file is missing, a git-LFS pointer, or lacks a needed column.
    """
    names = read_class_names(classes)
    table = _read_columns(Path(boxes))
    rows = np.flatnonzero(~table["ImageID"].is_null().to_numpy(zero_copy_only=False))
    if len(rows) < len(table):
        table = table.take(rows)
    pictures, picture = _codes(table["ImageID"])
    label_codes, label = _codes(table["LabelName"])
    return Annotations(
        source="openimages",
        fractions=True,
        image_ids=pictures,
        files=[""] * len(pictures),
        sizes=np.zeros((len(pictures), 2), np.int32),
        picture=picture.astype(np.int64),
        box_ids=rows.astype(np.int64) + 2,  # the line of the file: the header is line 1
        bounds=np.stack([_numbers(table[name]) for name in BOUNDS], axis=1),
        label=label.astype(np.int32),
        labels=[names.get(code, code) for code in label_codes],
        flags={ours: _flags(table[theirs]) for theirs, ours in FLAGS.items()},
    )


def read_class_names(path: Path | str) -> dict[str, str]:
    """Label codes to names (/m/011k07 → Tortoise) from a two-column CSV without a header.

    Raises:
        UserError: if the file is missing, a git-LFS pointer, or not of two columns.
    """
    path = Path(path)
    refuse_lfs_pointer(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if any(row)]
    if not rows or any(len(row) < 2 for row in rows):
        raise UserError(f"{path} is not a class description: each line must hold a label and a name")
    return {row[0]: row[1] for row in rows}


def _read_columns(path: Path) -> pa.Table:
    refuse_lfs_pointer(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        header = [name.strip() for name in file.readline().strip("\ufeff\r\n").split(",")]
    missing = [name for name in ("ImageID", "LabelName", *BOUNDS) if name not in header]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]}; its first line names {', '.join(header[:8])}")
    text = {name: pa.string() for name in COLUMNS[2:]}
    coded = {name: pa.dictionary(pa.int32(), pa.string()) for name in COLUMNS[:2]}
    try:
        with pacsv.open_csv(
            path,
            read_options=pacsv.ReadOptions(column_names=header, skip_rows=1, block_size=1 << 24),
            parse_options=pacsv.ParseOptions(ignore_empty_lines=False),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(COLUMNS),
                include_missing_columns=True,
                column_types=text | coded,
                strings_can_be_null=True,
                null_values=[""],
            ),
        ) as reader:
            table = pa.Table.from_batches([_narrow(batch) for batch in reader])
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not the CSV it should be: {' '.join(str(error).split())}") from None
    return table.unify_dictionaries()


def _narrow(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with its texts as numbers, so that one batch of text is held at a time."""
    columns = []
    for name in batch.schema.names:
        column = batch.column(name)
        if name in BOUNDS:
            column = _to_float(column)
        elif name in FLAGS:
            column = _to_float(column).fill_null(-1).cast(pa.int8(), safe=False)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _to_float(column: pa.Array) -> pa.Array:
    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid:  # some text in it is no number; find out which, at leisure
        return pa.array([_number(text) for text in column.to_pylist()], pa.float64())


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _codes(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    names = [str(value) for value in array.dictionary.to_pylist()]
    codes = array.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    return ([*names, "unnamed"] if array.null_count else names), codes


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.fill_null(float("nan")).to_numpy().astype(np.float64)


def _flags(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(np.int8)
