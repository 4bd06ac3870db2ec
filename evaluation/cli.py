"""The evaluation command line; libraries that take seconds to import are imported once they are needed."""

from collections.abc import Sequence

from evaluation.benches.bench import BENCHES
from evaluation.benches.bench_commands import add_bench
from evaluation.commands import cocoee_sources, compare, fid, judge_export, judge_import, piebench_run
from intarsia.command_line import Parser
from intarsia.errors import run_command

_COMMANDS = (piebench_run, cocoee_sources, fid, compare, judge_export, judge_import)


def main(argv: Sequence[str] | None = None) -> int:
    """Run an evaluation command; the exit code is 0, 1 for a failure, 2 for wrong usage."""
    return run_command(_run, argv)


def _run(argv: Sequence[str]) -> int | None:
    parser = Parser(
        prog="python -m evaluation",
        description="Score results: each number with the recipe that made it.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in BENCHES:
        add_bench(commands, name)
    for module in _COMMANDS:
        module.add(commands)
    words = list(argv)
    if " ".join(words[:2]) in commands.choices:  # `cocoee run` is one command
        words[:2] = [" ".join(words[:2])]
    arguments = parser.parse_args(words)
    return arguments.run(arguments)
