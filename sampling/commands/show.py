"""`python -m sampling show`: how a result was made."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from intarsia.command_line import Commands


def add(commands: Commands) -> None:
    """Declare `show`."""
    parser = commands.add_parser(
        "show",
        help="show how a result was made: the command that makes it again",
        description="Print the command that makes RESULT again, as its PNG says, and which files have "
        "changed since.",
    )
    parser.add_argument("result", type=Path, metavar="RESULT.png")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from sampling.provenance import changed_files, read_provenance, remake_command

    provenance = read_provenance(arguments.result)
    again = arguments.result.with_name(f"{arguments.result.stem}-again.png")
    print(remake_command(provenance, str(again)))
    for text in changed_files(provenance):
        print(f"note: {text}", file=sys.stderr)
