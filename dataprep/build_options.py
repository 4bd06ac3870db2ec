"""The options of `build` that choose among boxes; the help texts are their documentation."""

import argparse
from pathlib import Path


def add_filter_options(parser: argparse.ArgumentParser) -> None:
    """Add the rules by which boxes and pictures are chosen; their names are `FilterOptions`' fields."""
    add = parser.add_argument_group("choosing boxes").add_argument
    add(
        "--filters",
        default="default",
        choices=["pbe", "default"],
        help="pbe: 2 to 80 %% of the picture's area, as Paint by Example; default: also no crowd, group-of "
        "or inside boxes, and sides of 32 px at least. Each option below goes on top of it",
    )
    add("--min-area", type=float, metavar="SHARE", help="of the picture, instead of 0.02")
    add("--max-area", type=float, metavar="SHARE", help="of the picture, instead of 0.8")
    add("--min-side", type=int, metavar="PX", help="of the box at source, instead of 32 (pbe: 1)")
    add("--max-aspect", type=float, metavar="RATIO", help="of longer side to shorter side, at least 1")
    add(
        "--drop",
        type=_names,
        default=(),
        metavar="FLAGS",
        help="boxes so flagged, of crowd,group_of,inside,depiction,occluded,truncated",
    )
    add(
        "--only-classes",
        type=_names,
        default=(),
        metavar="NAMES",
        help="boxes of these classes: 'Cat,Dog', or @FILE with a name a line; with --hierarchy a name stands "
        "for all kinds below it",
    )
    add("--not-classes", type=_names, default=(), metavar="NAMES", help="no boxes of these")
    add(
        "--max-iou",
        type=float,
        metavar="IOU",
        help="a box goes that a larger one of its picture overlaps by more (near-duplicates: 0.8)",
    )
    add("--per-class-max", type=int, metavar="N", help="boxes of one class, chosen by the seed")
    add(
        "--class-temperature",
        type=float,
        metavar="T",
        help="thin out classes above the median size: n boxes to n^(1/T), scaled; 1 leaves them all",
    )
    add(
        "--min-sharpness",
        type=float,
        metavar="VALUE",
        help="variance of the Laplacian of the box at 224 px; below 50 looks blurred",
    )
    add("--brightness", type=_levels, metavar="LO,HI", help="mean grey level of the box, 0 to 255")
    add("--exclude", type=Path, metavar="LIST", help="names of pictures, one a line, e.g. of `duplicates`")


def _names(text: str) -> tuple[str, ...]:
    from dataprep.filters import read_names

    return read_names(text)


def _levels(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LO,HI") from None
    return low, high
