"""`python -m slurm`: jobs on a Slurm cluster, and checks of the cluster."""

from collections.abc import Sequence

from intarsia.command_line import Parser
from intarsia.errors import run_command
from slurm import doctor, submit

_COMMANDS = (submit, doctor)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(_run, argv)


def _run(argv: Sequence[str]) -> int | None:
    parser = Parser(prog="python -m slurm", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add(commands)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments)
