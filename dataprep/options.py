"""The options of data prep's commands; the help texts are their documentation."""

import argparse
from collections.abc import Callable
from pathlib import Path

from dataprep.sources.source import SOURCES, source_of
from intarsia.command_line import Commands, Parser
from intarsia.errors import UsageError


def add_source_commands(build: Parser, run: Callable[[argparse.Namespace], int]) -> None:
    """Add a sub-command of `build` for each source, with its options and those that all have.

    Args:
        build: parser of `build`.
        run: function that does the command.
    """
    commands: Commands = build.add_subparsers(required=True, metavar="SOURCE", dest="source")
    for name in SOURCES:
        source = source_of(name)
        parser = commands.add_parser(name, help=source.help)
        for item in source.inputs:
            if item.positional:
                parser.add_argument(item.role, type=Path, metavar=item.role.upper(), help=item.help)
            else:
                parser.add_argument(f"--{item.role}", type=Path, required=item.required, help=item.help)
        if not source.pictures_from:
            _add_images(parser)
        if source.of_videos:
            _add_video_options(parser)
        _add_sample_options(parser)
        _add_reading_options(parser)
        _add_run_options(parser)
        choosing = parser.add_argument_group("choosing boxes")
        _add_box_options(choosing)
        _add_choice_options(choosing)
        parser.set_defaults(run=run)


def _add_images(parser: Parser) -> None:
    parser.add_argument(
        "--images",
        required=True,
        nargs="+",
        help="pictures: a folder, flat or with sub-folders; .tar or .tar.gz files; or s3://, gs://, http://",
    )


def _add_video_options(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--min-gap",
        type=int,
        default=3,
        metavar="N",
        help="smallest distance of two frames of a pair, in frames of the video (default %(default)s)",
    )
    add(
        "--max-mask-iou",
        type=float,
        default=0.95,
        metavar="IOU",
        help="overlap of an object's two masks above which they hardly differ (default %(default)s)",
    )
    add(
        "--max-views",
        type=int,
        default=16,
        metavar="N",
        help="largest number of frames of an object in a sample of --profile source (default %(default)s)",
    )


def _add_sample_options(parser: Parser) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, help="shard folder; the same command again continues it")
    add("--split", default="train", help="second part of the shards' names (default %(default)s)")
    add("--name", help="first part of the shards' names (default: the source)")
    add("--seed", type=int, default=0, help="seed of every random choice (default %(default)s)")
    add(
        "--profile",
        default="tuple",
        choices=["tuple", "source"],
        help="tuple: square crops of --image-size; source: whole pictures, for a loader that draws again",
    )
    add("--image-size", type=int, default=512, help="side of the crops in pixels (default %(default)s)")
    add(
        "--images-per-shard",
        type=int,
        default=1000,
        help="number of pictures in a shard (default %(default)s)",
    )
    add(
        "--draws-per-image",
        type=int,
        default=1,
        help="number of samples of each picture (default %(default)s)",
    )
    add(
        "--all-boxes",
        action="store_true",
        help="make that number of samples of each box, not of each picture",
    )
    add("--object-masks", action="store_true", help="also store the object's own mask, if there is one")
    add(
        "--exemplar-background",
        default="keep",
        choices=["keep", "grey", "white"],
        help="background of the object in the exemplar, if its mask is known (default %(default)s); "
        "--profile source then needs --all-boxes and --object-masks",
    )
    add(
        "--recipe",
        metavar="NAME",
        help="how samples are drawn: pbe, anydoor, after-insert-anything, objectstitch, or a file NAME.yaml "
        "(default: pbe, Paint by Example's)",
    )
    add(
        "--short-side",
        type=int,
        metavar="PX",
        help="short side at which --profile source stores larger pictures (default: as they are)",
    )


def _add_reading_options(parser: Parser) -> None:
    """Options about what annotations mean."""
    add = parser.add_argument
    add(
        "--orientation",
        default="auto",
        choices=["auto", "upright", "stored"],
        help="how boxes were drawn on pictures with an EXIF rotation: upright, as viewers show them; as "
        "stored; auto: as the annotated size says, otherwise upright (default %(default)s)",
    )
    add(
        "--scale-boxes",
        action="store_true",
        help="scale boxes to pictures that were resized after annotation, if the aspect agrees",
    )


def _add_run_options(parser: Parser) -> None:
    add = parser.add_argument
    add("--workers", type=int, help="number of processes on this machine (default: one per CPU)")
    add("--ray-address", help="address of a running Ray cluster, e.g. auto (default: start a local Ray)")
    add(
        "--wandb",
        metavar="PROJECT",
        help="log manifest, card and contact sheet as a W&B artifact of this project",
    )
    add("-v", "--verbose", action="store_true", help="show what Ray and its workers print")
    add("--dry-run", action="store_true", help="print what would be built; no picture is read")


def _add_box_options(group: argparse._ArgumentGroup) -> None:
    """Options about one box at a time."""
    add = group.add_argument
    add(
        "--filters",
        default="default",
        choices=["pbe", "default"],
        help="pbe: 2 to 80 %% of the picture's area, as Paint by Example; default: also no crowd, group-of "
        "or inside boxes, and sides of at least 32 px. Each option below is added to it",
    )
    add("--min-area", type=float, metavar="SHARE", help="smallest share of the picture, instead of 0.02")
    add("--max-area", type=float, metavar="SHARE", help="largest share of the picture, instead of 0.8")
    add(
        "--min-side",
        type=int,
        metavar="PX",
        help="shortest side of a box in source pixels, instead of 32 (pbe: 1)",
    )
    add(
        "--max-aspect",
        type=float,
        metavar="RATIO",
        help="largest ratio of longer side to shorter side, at least 1",
    )
    add(
        "--drop",
        type=_names,
        default=(),
        metavar="FLAGS",
        help="flags whose boxes are dropped, of crowd,group_of,inside,depiction,occluded,truncated,difficult",
    )
    add(
        "--only-classes",
        type=_names,
        default=(),
        metavar="NAMES",
        help="classes to keep: 'Cat,Dog', or @FILE with one name per line; with --hierarchy a name includes "
        "all kinds below it",
    )
    add("--not-classes", type=_names, default=(), metavar="NAMES", help="classes to drop")


def _add_choice_options(group: argparse._ArgumentGroup) -> None:
    """Options about several boxes, pixels and whole pictures."""
    add = group.add_argument
    add(
        "--max-iou",
        type=float,
        metavar="IOU",
        help="overlap with a larger box of the picture above which a box is dropped (near-duplicates: 0.8)",
    )
    add(
        "--per-class-max",
        type=int,
        metavar="N",
        help="largest number of boxes of one class, chosen by the seed",
    )
    add(
        "--class-temperature",
        type=float,
        metavar="T",
        help="reduce classes above the median size: n boxes to n^(1/T), scaled; 1 keeps them all",
    )
    add(
        "--min-sharpness",
        type=float,
        metavar="VALUE",
        help="lowest variance of the Laplacian of the box at 224 px; below 50 looks blurred",
    )
    add(
        "--brightness",
        type=_levels,
        metavar="LO,HI",
        help="range of the mean grey level of the box, within 0 to 255",
    )
    add(
        "--exclude",
        type=Path,
        metavar="LIST",
        help="list of pictures to leave out, one per line, e.g. of `duplicates`",
    )


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
    if not names:  # an empty list is a mistake, not "all"
        raise argparse.ArgumentTypeError(f"{text!r} holds no name; give one, or leave the option out")
    return names


def _levels(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LO,HI") from None
    return low, high
