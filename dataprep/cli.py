"""The data prep command line; libraries that take seconds to import are imported once they are needed."""

import argparse
from collections.abc import Sequence

from dataprep.commands import build, duplicates, index, pull, push, show, stats, verify
from intarsia.command_line import Parser
from intarsia.errors import run_command

_COMMANDS = (build, index, verify, show, stats, duplicates, push, pull)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a data prep command; the exit code is 0, 1 for a failure, 2 for wrong usage."""
    return run_command(_run, argv)


def _run(argv: Sequence[str]) -> int | None:
    parser = Parser(prog="python -m dataprep", description="Turn annotated boxes into training shards.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add(commands)
    arguments = parser.parse_args(argv, argparse.Namespace(argv=list(argv)))
    return arguments.run(arguments)
