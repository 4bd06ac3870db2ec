"""Options that the commands of exemplar benches share."""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation.reports.output import add_output_options
from evaluation.scoring.scorer import add_scoring_options

OPTIONAL = {"quality": ("mixture",), "inception": ("inception",), "lpips": ("alex", "lpips-alex")}
"""Numbers that can be left out, and the weights that each needs."""


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of numbers and of reference pictures."""
    group = parser.add_argument_group("numbers")
    group.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="[FEATURES=]PATH",
        help="reference set of the Fréchet distances: a folder of pictures for all features, or clip=PATH "
        "and inception=PATH with a folder or an npz of `fid --save`. The published numbers need "
        "COCO's test2017. Default: the bench's pictures",
    )
    group.add_argument(
        "--without",
        action="append",
        default=[],
        choices=OPTIONAL,
        help="leave out a number whose weights are missing: the quality score, FID and KID, LPIPS; may "
        "be repeated",
    )


def add_cocoee_options(parser: argparse.ArgumentParser) -> None:
    """Add the folders of COCOEE and of its results."""
    group = parser.add_argument_group("files")
    group.add_argument(
        "--bench",
        type=Path,
        required=True,
        metavar="DIR",
        help="id_list.npy, GT_3500, Ref_3500, Mask_bbox_3500",
    )
    _add_results(group, "ID.png of twelve digits")


def add_list_options(parser: argparse.ArgumentParser) -> None:
    """Add a list of cases and the folder of its results."""
    parser.add_argument("jobs", type=Path, metavar="LIST", help=".csv or .jsonl")
    _add_results(parser.add_argument_group("files"), "NAME.png")


def _add_results(group: argparse._ArgumentGroup, what: str) -> None:
    group.add_argument("--results", type=Path, required=True, metavar="DIR", help=f"folder of {what}")
    group.add_argument(
        "--only-present", action="store_true", help="continue if files are missing, and report how many"
    )


def add_bench_options(parser: argparse.ArgumentParser, device: bool = True) -> None:
    """Add the options of numbers, report and machine; `device`: whether --device is among them."""
    add_plan_options(parser)
    add_output_options(parser)
    add_scoring_options(parser, device)
