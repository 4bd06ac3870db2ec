"""`python -m dataprep duplicates OUT`: pictures of a built folder that look alike."""

import argparse
from pathlib import Path

from intarsia.command_line import Commands
from intarsia.errors import UsageError


def add(commands: Commands) -> None:
    """Add `duplicates` to the command line."""
    parser = commands.add_parser("duplicates", help="list pictures of a built folder that look alike")
    parser.add_argument("folder", type=Path, metavar="OUT", help="shard folder")
    parser.add_argument(
        "--distance", type=int, default=4, help="number of bits of 64 that may differ (default %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="LIST", help="file to write a list for `build --exclude` in"
    )
    parser.set_defaults(run=_duplicates)


def _duplicates(options: argparse.Namespace) -> int:
    from dataprep.look.duplicates import MAX_DISTANCE, find_duplicates, write_list

    if not 0 <= options.distance <= MAX_DISTANCE:
        raise UsageError(
            f"--distance {options.distance}: a number of bits from 0 to {MAX_DISTANCE} is needed"
        )
    found = find_duplicates(options.folder, options.distance)
    for item in found:
        print(f"{item.image_id} is like {item.original} ({item.distance} of 64 bits differ)")
    if options.out:
        write_list(options.out, found)
    where = f"; their names are in {options.out}, for build --exclude" if options.out else ""
    print(f"pictures that look like one before them: {len(found):,}{where}")
    return 0
