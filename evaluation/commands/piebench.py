"""`python -m evaluation piebench`: results of a method on PIE-Bench, in the published table's columns."""

from __future__ import annotations

import argparse

from evaluation.benches.pie_score import add_pie_options, check_weights, score_piebench
from evaluation.reports.output import deliver
from intarsia.command_line import Commands


def add(commands: Commands) -> None:
    """Declare `piebench`."""
    parser = commands.add_parser(
        "piebench",
        help="score results on PIE-Bench, per edit category",
        description="Score results on PIE-Bench: structure distance, background errors and similarity to the "
        "prompt, by the conventions of the published table. Prints it, with 95 % intervals, above the "
        "published rows. `piebench run` makes the results first.",
    )
    add_pie_options(parser, "folder of results, by the sources' paths or KEY.png")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from evaluation.benches.piebench import read_bench

    cases = read_bench(arguments.bench)
    check_weights(arguments)
    name = arguments.name or arguments.results.resolve().name
    report = score_piebench(arguments, cases, arguments.results, name, len(cases))
    deliver(report, arguments, arguments.results)
