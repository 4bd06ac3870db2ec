"""Your own boxes: a CSV of path,x0,y0,x1,y1[,label,mask,caption] to columns; no pixels are read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from dataprep.formats.captions import tidy_caption
from dataprep.formats.csv_files import csv_header, find_fault
from dataprep.records import Annotations
from intarsia.errors import UserError

CORNERS = ("x0", "y0", "x1", "y1")
UNLABELLED = "object"  # the class of a box without a label


def read_boxes_csv(path: Path | str, masks: bool = False) -> Annotations:
    """Read a CSV with the columns path, x0, y0, x1, y1 and, if wanted, label, mask and caption.

    Boxes are pixels of the upright picture, half-open; path is that of the picture below the folder of
    pictures, mask that of a PNG below the folder of masks, or nothing. Other columns and blank lines are
    skipped. Sizes are not known before a picture is read.

    Args:
        path: CSV file.
        masks: whether object masks are used.

    Raises:
        UserError: if the file is missing, a git-LFS pointer, lacks a column, or has a line with another
            number of columns, without a path, or with a coordinate that is not a number; the line is named.
    """
    path = Path(path)
    header = csv_header(path, ("path", *CORNERS, *(("mask",) if masks else ())))
    table = _read(path, header)
    named = table["path"].is_valid().to_numpy()
    given = np.stack([table[name].is_valid().to_numpy() for name in CORNERS], axis=1)
    lines = np.arange(2, 2 + len(table))  # the header is line 1
    for line, has_path, numbers in zip(lines, named, given, strict=True) if not given.all() else ():
        if has_path and not numbers.all():
            missing = CORNERS[int(np.argmin(numbers))]
            raise UserError(f"{path}, line {line}: {missing} is empty; a box needs {', '.join(CORNERS)}")
    if (given.any(axis=1) & ~named).any():
        line = lines[np.argmax(given.any(axis=1) & ~named)]
        raise UserError(f"{path}, line {line}: the path is empty; give the picture this box belongs to")
    table = table.filter(pa.array(named))
    files, picture = _codes(table["path"])
    labels, label = _codes(table["label"].fill_null(UNLABELLED))
    return Annotations(
        unit="pixels",
        image_ids=files,
        files=files,
        sizes=np.zeros((len(files), 2), np.int32),
        picture=picture,
        box_ids=lines[named].astype(np.int32),
        bounds=np.stack([table[name].to_numpy() for name in CORNERS], axis=1),
        label=label,
        labels=labels,
        flags={},
        segmentation=_taker(table["mask"]) if masks else None,
        captions=_captions(table["caption"], picture) if "caption" in header else None,
    )


def _captions(column: pa.ChunkedArray, picture: np.ndarray) -> dict[int, tuple[str, ...]]:
    """Place of a picture -> the different captions of its lines, in their order."""
    found: dict[int, dict[str, None]] = {}
    for place, text in zip(picture.tolist(), column.fill_null("").to_pylist(), strict=True):
        if words := tidy_caption(text):
            found.setdefault(place, {})[words] = None
    return {place: tuple(texts) for place, texts in found.items()}


def _read(path: Path, header: list[str]) -> pa.Table:
    types = dict.fromkeys(("path", "label", "mask", "caption"), pa.string()) | dict.fromkeys(
        CORNERS, pa.float64()
    )
    try:
        return pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(column_names=header, skip_rows=1),
            parse_options=pacsv.ParseOptions(ignore_empty_lines=False),
            convert_options=pacsv.ConvertOptions(
                include_columns=["path", *CORNERS, "label", "mask", "caption"],
                include_missing_columns=True,
                column_types=types,
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except pa.ArrowInvalid as error:
        text = " ".join(str(error).split())
        raise UserError(find_fault(path, header, CORNERS) or f"{path}: {text}") from None


def _taker(names: pa.ChunkedArray) -> Callable[[np.ndarray], pa.Array]:
    whole = names.fill_null("").combine_chunks()
    marked = pc.replace_substring_regex(whole, r"^([\[{])", r"./\1")  # not an outline in JSON but a file name
    return lambda rows: marked.take(pa.array(rows))


def _codes(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The different texts in the order of the file, and the place of each row's text among them, int32."""
    coded = pa.concat_arrays([pa.array([], pa.string()), *column.chunks]).dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy()
