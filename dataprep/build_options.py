"""The options of `build`; the help texts are their documentation."""

import argparse
from pathlib import Path

from intarsia.errors import UsageError


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all sources have; those that decide the result are `BuildConfig`'s."""
    add = parser.add_argument
    add(
        "--images",
        required=True,
        nargs="+",
        help="the pictures: a folder, flat or with sub-folders; .tar or .tar.gz files; or s3://, gs://, http://",
    )
    add("--out", type=Path, required=True, help="the shard folder; the same command again goes on with it")
    add("--split", default="train", help="part of the shards' names (default %(default)s)")
    add("--name", help="the first part of the shards' names (default: the source)")
    add("--seed", type=int, default=0, help="of every random choice (default %(default)s)")
    add(
        "--profile",
        default="tuple",
        choices=["tuple", "source"],
        help="tuple: square crops of --image-size; source: whole pictures, for a loader that draws afresh",
    )
    add("--image-size", type=int, default=512, help="side of the crops in pixels (default %(default)s)")
    add("--images-per-shard", type=int, default=1000, help="pictures (default %(default)s)")
    add("--draws-per-image", type=int, default=1, help="samples of each picture (default %(default)s)")
    add("--all-boxes", action="store_true", help="so many samples of each box, not of each picture")
    add("--object-masks", action="store_true", help="also store the object's own mask, where there is one")
    add(
        "--exemplar-background",
        default="keep",
        choices=["keep", "grey", "white"],
        help="what stands round the object in the exemplar, where its mask is known (default %(default)s); "
        "--profile source then needs --all-boxes and --object-masks",
    )
    add(
        "--short-side",
        type=int,
        metavar="PX",
        help="--profile source: larger pictures are stored with this short side (default: as they are)",
    )
    add("--workers", type=int, help="processes on this machine (default: one per CPU)")
    add("--ray-address", help="of a running Ray cluster, e.g. auto (default: one of our own)")
    add(
        "--wandb",
        metavar="PROJECT",
        help="log manifest, card and contact sheet as a W&B artifact",
    )
    add("-v", "--verbose", action="store_true", help="show what Ray and its workers say")
    add("--dry-run", action="store_true", help="tell what would be built; no picture is read")
    _add_filter_options(parser)


def _add_filter_options(parser: argparse.ArgumentParser) -> None:
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
        help="boxes so flagged, of crowd,group_of,inside,depiction,occluded,truncated,difficult",
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


def check_workers(workers: int | None) -> None:
    """Check `--workers`.

    Raises:
        UsageError: if there would be none.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: at least 1 is needed")


def _names(text: str) -> tuple[str, ...]:
    from dataprep.choose.filters import read_names

    names = read_names(text)
    if not names:  # which nobody means by "all"
        raise argparse.ArgumentTypeError(f"{text!r} holds no name; give one, or leave the option out")
    return names


def _levels(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LO,HI") from None
    return low, high
