"""`python -m dataprep verify OUT`: is a shard folder whole?"""

import argparse
import os
from pathlib import Path

from dataprep.options import check_workers
from intarsia.command_line import Commands
from intarsia.errors import UserError


def add(commands: Commands) -> None:
    """Add `verify` to the command line."""
    parser = commands.add_parser("verify", help="check a shard folder; one line for each problem")
    parser.add_argument("folder", type=Path, metavar="OUT", help="shard folder")
    parser.add_argument("--full", action="store_true", help="decode every sample, not a few of each shard")
    parser.add_argument("--workers", type=int, help="number of processes (default: one per CPU)")
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    from dataprep.check.verify import verify_folder
    from dataprep.progress import Reporter

    check_workers(options.workers)
    workers, reporter = options.workers or len(os.sched_getaffinity(0)), Reporter()
    try:
        problems = verify_folder(options.folder, options.full, workers, reporter)
    finally:
        reporter.close()
    for problem in problems:
        print(problem)
    if problems:
        raise UserError(
            f"{options.folder} is not whole; problems: {len(problems)}; delete the files that are "
            "named, and run its build command again, which makes them again"
        )
    looked = "every sample" if options.full else "a look into each shard"
    print(f"{options.folder} is whole: counts, hashes, order and {looked} agree")
    return 0
