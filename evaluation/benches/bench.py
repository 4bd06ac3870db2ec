"""The interface of benches: cases with their layout, and the numbers that are reported of results on them.

A bench is a row of BENCHES and becomes the commands `NAME`, which scores a folder of results, and `NAME run`,
which makes them first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from evaluation.metrics.metric import EditCase, Number, SetNumber
from intarsia.errors import UserError

if TYPE_CHECKING:
    from sampling.jobs import Job

# Benches by the name of their command: the module and the name in it.
BENCHES = {
    "cocoee": "evaluation.benches.cocoee:COCOEE",
    "bench": "evaluation.benches.own_list:OWN_LIST",
    "anyinsertion": "evaluation.benches.anyinsertion:ANY_INSERTION",
    "dreambooth": "evaluation.benches.dreambooth:DREAMBOOTH",
    "identity": "evaluation.benches.pairs:IDENTITY",
    "piebench": "evaluation.pie.pie_score:PIE_BENCH",
}

# What benches of edits with an exemplar report; numbers that need a truth are left out where there is none.
EXEMPLAR_METRICS = (
    "clip-frechet",
    "fid",
    "clip-score",
    "quality",
    "background",
    "edited",
    "edited-lpips",
    "whole",
    "whole-lpips",
)

Numbers: TypeAlias = Sequence[Number | SetNumber]


@dataclass(frozen=True)
class BenchCases:
    """A bench as it was read.

    Attributes:
        title: name in reports; reports of one title can be compared.
        cases: cases without results.
        expected: number of cases that the bench has.
        jobs: edits of `NAME run`; None = one for each case, each with its own noise.
        refused: why not all cases can be scored; empty, or an error unless --only-present is given.
    """

    title: str
    cases: Sequence[EditCase]
    expected: int
    jobs: Sequence[Job] | None = None
    refused: str = ""

    @property
    def kinds(self) -> set[str]:
        """The kinds of files that every case has."""
        return set.intersection(*(set(case.files) for case in self.cases)) if self.cases else set()


def results_by_key(options: argparse.Namespace, cases: Sequence[EditCase], results: Path) -> list[EditCase]:
    """The cases whose files and result, KEY.png, exist.

    Args:
        options: parsed options; with `only_present` others are left out, instead of refusing.
        cases: cases of a bench.
        results: folder of results.

    Raises:
        UserError: if any file is missing (with `only_present`, if no case is whole), saying which.
    """
    found, missing = [], []
    for case in cases:
        own = {**case.files, "result": results / f"{case.key}.png"}
        lost = [path for path in own.values() if not path.is_file()]
        missing += lost
        if not lost:
            found.append(replace(case, files=own))
    if missing and not (found and options.only_present):
        raise UserError(
            f"{len(cases) - len(found)} of {len(cases)} cases lack a file (first {missing[0]}); complete "
            "them, or give --only-present for numbers that are not comparable"
        )
    return found


@dataclass(frozen=True)
class Bench:
    """One kind of bench.

    Attributes:
        help: line of its command in `--help`.
        description: first lines of the command's own `--help`.
        metrics: names in METRICS of the numbers, in the order of the report.
        add_files: function that adds the options that name the bench and the results.
        read: function from these options to the cases.
        run_help: line of `NAME run`.
        run_description: first lines of its own `--help`; empty = it has none, or a command of its own.
        find: function (options, cases, folder of results) -> the cases that have a result.
        treat: function (options, cases, numbers) -> the numbers, for benches that treat results first, and
            name their formats; for others recipes name formats that are not PNG.
        one_size: kinds of files that must have one size.
        extendable: whether `--with` adds numbers to it.
        sort: whether reports have the cases in the order of their keys.
    """

    help: str
    description: str
    metrics: tuple[str, ...]
    add_files: Callable[[argparse.ArgumentParser], None]
    read: Callable[[argparse.Namespace], BenchCases]
    run_help: str = ""
    run_description: str = ""
    find: Callable[[argparse.Namespace, Sequence[EditCase], Path], list[EditCase]] = results_by_key
    treat: Callable[[argparse.Namespace, Sequence[EditCase], Numbers], Numbers] | None = None
    one_size: tuple[str, ...] = ("image", "result", "truth", "mask")
    sort: bool = True
    extendable: bool = True


def bench_of(name: str) -> Bench:
    """The bench called `name` in BENCHES."""
    module, _, constant = BENCHES[name].partition(":")
    return cast(Bench, getattr(import_module(module), constant))


def add_bench_folder(parser: argparse.ArgumentParser, bench: str, results: str) -> argparse._ArgumentGroup:
    """Add the folder of a bench and that of results, which `bench` and `results` describe; their group."""
    group = parser.add_argument_group("files")
    group.add_argument("--bench", type=Path, required=True, metavar="DIR", help=bench)
    add_results(group, results)
    return group


def add_results(group: argparse._ArgumentGroup, what: str) -> None:
    """Add the folder of results and `--only-present`; `what`: description of the folder."""
    group.add_argument("--results", type=Path, required=True, metavar="DIR", help=what)
    group.add_argument(
        "--only-present", action="store_true", help="continue if files are missing, and report how many"
    )
