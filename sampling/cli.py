"""The sampling command line; libraries that take seconds to import are imported once they are needed."""

from collections.abc import Sequence

from intarsia.command_line import Parser
from intarsia.errors import run_command
from sampling.commands import batch, edit, export, import_, invert, merge_lora, pull, push, serve, show

_COMMANDS = (edit, merge_lora, batch, show, invert, serve, import_, export, push, pull)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sampling command; the exit code is 0, 1 for a failure, 2 for wrong usage."""
    return run_command(_run, argv)


def _run(argv: Sequence[str]) -> int | None:
    parser = Parser(
        prog="python -m sampling",
        description="Use a trained model: repaint parts of pictures after an exemplar.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add(commands)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments)
