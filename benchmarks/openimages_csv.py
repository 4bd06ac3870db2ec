"""Write a synthetic Open Images training file with the columns, rows and box sizes of the real one.

    python -m benchmarks.openimages_csv OUT [--rows 14610229] [--pictures 1743042] [--files]

It writes OUT/boxes.csv (150 bytes per row), OUT/classes.csv and, with --files, an empty file for 98 % of the
pictures in OUT/images/train_0 … train_f. Shares follow a sample of the real file: half of the boxes cover
less than 2 % of their picture, 2.5 % cover more than 80 %, and flags have the same frequencies.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

_START = ("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax")
FLAGS = {"IsOccluded": 0.58, "IsTruncated": 0.25, "IsGroupOf": 0.04, "IsDepiction": 0.07, "IsInside": 0.004}
UNKNOWN = 0.006  # share of unknown flags
_CLICKS = tuple(f"XClick{click}{axis}" for axis in "XY" for click in (1, 2, 3, 4))
COLUMNS = (*_START, *FLAGS, *_CLICKS)
CLASSES = 601
FILES = 0.98  # share of pictures with a file
MICRO = 1_000_000
_CHUNK = 500_000  # number of rows made at a time


def main() -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=14_610_229)
    parser.add_argument("--pictures", type=int, default=1_743_042)
    parser.add_argument("--files", action="store_true")
    options = parser.parse_args()
    write_open_images(options.out, options.rows, options.pictures)
    if options.files:
        write_empty_pictures(options.out, options.pictures)


def write_open_images(out: Path, rows: int, pictures: int, seed: int = 0) -> None:
    """Write boxes.csv and classes.csv.

    Args:
        out: output folder, made if it is missing.
        rows: number of boxes.
        pictures: number of pictures, each with at least one box.
        seed: seed of all random numbers.
    """
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    codes = [f"/m/0{number:05x}" for number in range(CLASSES)]
    lines = (f"{code},Class {number}\n" for number, code in enumerate(codes))
    (out / "classes.csv").write_text("".join(lines))
    names = pa.array(picture_names(pictures))
    more = rng.multinomial(rows - pictures, rng.dirichlet(np.full(pictures, 1.3))) if pictures else []
    picture = np.repeat(np.arange(pictures, dtype=np.int32), np.asarray(more, np.int64) + 1)
    digits = pc.utf8_lpad(pa.array(np.arange(MICRO)).cast(pa.string()), 6, "0")
    texts = pa.concat_arrays(
        [pc.binary_join_element_wise("0.", digits, ""), pa.array(["1.000000", "-1.000000"])]
    )
    options = pacsv.WriteOptions(include_header=False, quoting_style="none")
    with (out / "boxes.csv").open("wb") as file:
        file.write((",".join(COLUMNS) + "\n").encode())
        for first in range(0, rows, _CHUNK):
            part = picture[first : first + _CHUNK]
            columns = _boxes(rng, len(part), texts) | {
                "ImageID": names.take(pa.array(part)),
                "LabelName": pa.array(codes).take(pa.array(_classes(rng, len(part)))),
            }
            pacsv.write_csv(pa.table({name: columns[name] for name in COLUMNS}), file, options)


def picture_names(pictures: int) -> list[str]:
    """Sorted names of sixteen hexadecimal digits, as in the real file."""
    step = (1 << 64) // max(pictures, 1)
    return [f"{number * step + number * 7919 % step:016x}" for number in range(pictures)]


def write_empty_pictures(out: Path, pictures: int) -> None:
    """Write an empty file for most pictures, in the sixteen folders of the published archives."""
    names = picture_names(pictures)
    for digit in "0123456789abcdef":
        (out / "images" / f"train_{digit}").mkdir(parents=True, exist_ok=True)
    for name in names[: int(len(names) * FILES)]:
        (out / "images" / f"train_{name[0]}" / f"{name}.jpg").touch()


def _classes(rng: np.random.Generator, rows: int) -> np.ndarray:
    return np.minimum(rng.geometric(0.02, rows) - 1, CLASSES - 1)


def _boxes(rng: np.random.Generator, rows: int, texts: pa.Array) -> dict[str, pa.Array]:
    """Coordinates, flags and clicks; the logarithm of the area is distributed as in the sample."""
    area = np.exp(np.clip(rng.normal(-3.75, 1.85, rows), -9, 0))
    aspect = np.exp(rng.normal(0, 0.6, rows))
    width, height = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)
    x0, y0 = rng.random(rows) * (1 - width), rng.random(rows) * (1 - height)
    corners = {"XMin": x0, "XMax": x0 + width, "YMin": y0, "YMax": y0 + height}
    columns = {name: texts.take(pa.array(_micro(values))) for name, values in corners.items()}
    unknown = rng.random(rows) < UNKNOWN
    for name, share in FLAGS.items():
        columns[name] = pa.array(np.where(unknown, -1, rng.random(rows) < share))
    for name in _CLICKS:
        low, size = (x0, width) if name.endswith("X") else (y0, height)
        value = _micro(low + size * rng.random(rows))
        columns[name] = texts.take(pa.array(np.where(unknown, MICRO + 1, value)))
    columns["Source"] = pa.array(["xclick", "activemil"]).take(pa.array(unknown.astype(np.int8)))
    columns["Confidence"] = pa.array(np.ones(rows, np.int8))
    return columns


def _micro(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values * MICRO), 0, MICRO).astype(np.int32)


if __name__ == "__main__":
    main()
