"""`python -m dataprep show OUT`: a contact sheet of samples."""

import argparse
from pathlib import Path

from intarsia.command_line import Commands
from intarsia.errors import UsageError
from intarsia.words import counted


def add(commands: Commands) -> None:
    """Add `show` to the command line."""
    parser = commands.add_parser("show", help="draw a contact sheet of samples, as PNG or HTML")
    parser.add_argument("folder", type=Path, metavar="OUT", help="shard folder")
    parser.add_argument("--out", type=Path, required=True, help="file to write, sheet.png or sheet.html")
    parser.add_argument("--number", type=int, default=12, help="number of samples (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice (default %(default)s)")
    parser.add_argument("--class", dest="label", metavar="NAME", help="only samples of this class")
    parser.add_argument(
        "--worst",
        metavar="MEASURE",
        help="the worst samples by a measure, not a choice at random: smallest-mask, largest-mask, "
        "largest-squash, longest-box, fewest-pixels",
    )
    parser.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    from dataprep.look.contact_sheet import write_contact_sheet
    from dataprep.look.pick import Choice

    if options.number < 1:
        raise UsageError(f"--number {options.number}: at least 1 is needed")
    choice = Choice(options.number, options.seed, options.label, options.worst)
    number = write_contact_sheet(options.folder, options.out, choice)
    print(f"{counted(number, 'sample')} in {options.out}")
    return 0
