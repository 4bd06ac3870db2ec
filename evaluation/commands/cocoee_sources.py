"""`python -m evaluation cocoee-sources`: COCOEE's pictures and masks out of COCO's annotations."""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation.scoring.scorer import progress
from intarsia.command_line import Commands
from intarsia.words import counted


def add(commands: Commands) -> None:
    """Declare `cocoee-sources`."""
    parser = commands.add_parser(
        "cocoee-sources",
        help="rebuild COCOEE's pictures and masks from COCO's annotations",
        description="The ids of COCOEE are annotation ids of COCO val2017: write each one's square picture "
        "of 512 pixels and its box as a mask, in the bench's layout, and sources.csv. The exemplars and the "
        "published crops are not in COCO.",
    )
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="FILE", help="instances_val2017.json"
    )
    parser.add_argument("--ids", type=Path, required=True, metavar="FILE", help="the bench's id_list.npy")
    parser.add_argument("--images", type=Path, metavar="DIR", help="val2017; default: write only the lists")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="bench folder to write")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from evaluation.benches.cocoee import read_ids
    from evaluation.benches.cocoee_sources import find_annotations, write_sources

    ids = read_ids(arguments.ids)
    found, lost = find_annotations(arguments.annotations, ids)
    with progress("cocoee-sources") as report:
        write_sources(found, arguments.images, arguments.out, report)
    more = f"; {counted(len(lost), 'id')} not in {arguments.annotations}, first {lost[0]}" if lost else ""
    print(f"{arguments.out}: {len(found):,} of {len(ids):,} cases{more}")
