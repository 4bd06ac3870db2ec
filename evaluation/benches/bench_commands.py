"""The commands of every bench: `NAME` scores results, `NAME run` makes them first."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from evaluation.benches.bench import Bench, BenchCases, bench_of
from evaluation.benches.run import add_run_options, run_jobs
from evaluation.benches.score import add_bench_options, check_bench_weights, score_bench
from evaluation.reports.output import check_cases, deliver
from intarsia.command_line import Commands

if TYPE_CHECKING:
    from sampling.jobs import Job


def add_bench(commands: Commands, name: str) -> None:
    """Declare the commands of a bench, a row of BENCHES."""
    bench = bench_of(name)
    parser = commands.add_parser(name, help=bench.help, description=bench.description)
    bench.add_files(parser)
    add_bench_options(parser, bench)
    parser.set_defaults(run=partial(_score, bench))
    if not bench.run_description:
        return
    parser = commands.add_parser(f"{name} run", help=bench.run_help, description=bench.run_description)
    bench.add_files(parser)
    add_run_options(parser)
    add_bench_options(parser, bench, device=False)
    parser.set_defaults(run=partial(_run, bench))


def _score(bench: Bench, arguments: argparse.Namespace, failed: Collection[str] = ()) -> None:
    content = bench.read(arguments)
    check_bench_cases(content, arguments)
    _deliver(bench, content, arguments, failed)


def _run(bench: Bench, arguments: argparse.Namespace) -> int:
    content = bench.read(arguments)
    check_bench_weights(bench, content, arguments)
    check_bench_cases(content, arguments)
    jobs = _own_jobs(content, arguments.seed) if content.jobs is None else content.jobs
    return run_jobs(arguments, jobs, lambda failed: _deliver(bench, content, arguments, failed))


def check_bench_cases(content: BenchCases, arguments: argparse.Namespace) -> None:
    """Refuse a case of `--cases` that a bench does not have, before anything long begins.

    Raises:
        UsageError: for such a case.
    """
    check_cases(arguments.cases, {case.key for case in content.cases}, content.title)


def _own_jobs(content: BenchCases, seed: int) -> list[Job]:
    """An edit of each case, with its own noise, the same for every model."""
    from sampling.jobs import FILES, Job

    files = [{kind: path for kind, path in case.files.items() if kind in FILES} for case in content.cases]
    return [
        Job(case.key, own, seed + place, {})
        for place, (case, own) in enumerate(zip(content.cases, files, strict=True))
    ]


def _deliver(
    bench: Bench, content: BenchCases, arguments: argparse.Namespace, failed: Collection[str]
) -> None:
    name = arguments.name or arguments.results.resolve().name
    report = score_bench(bench, content, arguments, arguments.results, name, failed)
    deliver(report, arguments, arguments.results)
