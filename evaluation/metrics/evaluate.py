"""From cases and metrics to a report; a picture is decoded once for all numbers."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.measures.measures import Value
from evaluation.metrics.metric import EditCase, Loading, Metric, Number, SetAnswers, SetNumber, metric_of
from evaluation.reports.output import check_column
from evaluation.scoring.report import Report, SetFigure, incomplete, pack_mask
from evaluation.scoring.scorer import Score
from evaluation.scoring.scoring import Case
from intarsia.errors import UsageError, UserError


@dataclass(frozen=True)
class ScoringPlan:
    """What is computed, and for whom.

    Attributes:
        bench: name of the bench.
        name: name of the method that made the results.
        expected: number of cases that the bench has.
        numbers: numbers, in the order of the report.
        sort: whether the report has the cases in the order of their keys; else as they are given.
    """

    bench: str
    name: str
    expected: int
    numbers: Sequence[Number | SetNumber]
    sort: bool = True


def wanted_metrics(names: Iterable[str], options: argparse.Namespace, kinds: Iterable[str]) -> list[Metric]:
    """The metrics that are computed.

    Args:
        names: names in METRICS that the bench reports, in order.
        options: `without`, words of `--without`, and `extra`, names of `--with`.
        kinds: kinds of files that all cases have.

    Raises:
        UsageError: for a name of `--with` whose files the cases lack, or if nothing is left.
    """
    have = set(kinds)
    own = {name: metric for name in names if have.issuperset((metric := metric_of(name)).needs)}
    chosen = {name: m for name, m in own.items() if not (m.without and m.without in options.without)}
    for name in options.extra:
        metric = metric_of(name)
        if lost := set(metric.needs) - have:
            raise UsageError(
                f"--with {name} needs a file of each case that there is not: {', '.join(sorted(lost))}"
            )
        chosen.setdefault(name, replace(metric, without=""))
    if not chosen and options.without:
        raise UsageError("no number is left to compute; omit one --without")
    return list(chosen.values())


def check_weights(metrics: Iterable[Metric], options: argparse.Namespace) -> None:
    """Look for all weights, and check the metrics' options, before anything long begins; nothing is loaded.

    Raises:
        UsageError: for a name or a path that does not exist.
        UserError: for weights that were not found, with the file, its source and the option.
    """
    from evaluation.measures.weights import find_weights, parse_weights

    given = parse_weights(options.weights)
    for metric in metrics:
        for name in metric.weights(options):
            try:
                find_weights(name, given)
            except UserError as error:
                if not metric.without:
                    raise
                raise UserError(f"{error}; --without {metric.without} leaves it out") from None


def load_numbers(metrics: Iterable[Metric], loading: Loading) -> list[Number | SetNumber]:
    """The numbers of metrics, with their networks loaded.

    Raises:
        UsageError: if `--sort-by` is not one of the cases' numbers.
    """
    numbers = [number for metric in metrics for number in metric.load(loading)]
    if name := getattr(loading.options, "sort_by", None):
        check_column(name, [number.column.name for number in numbers if isinstance(number, Number)])
    return numbers


def evaluate(cases: Sequence[EditCase], plan: ScoringPlan, score: Score) -> Report:
    """Score the results of a bench.

    Args:
        cases: those with a result.
        plan: numbers and names.
        score: computes values.
    """
    cases = sorted(cases, key=lambda case: case.key) if plan.sort else cases
    numbers = [number for number in plan.numbers if isinstance(number, Number)]
    sets = [number for number in plan.numbers if isinstance(number, SetNumber)]
    enough = [number for number in sets if len(cases) >= number.least]
    rows, answers = _answers(cases, numbers, enough, plan.bench, score)
    figures: list[SetFigure] = []
    remarks: list[str] = []
    for number, answer in zip(enough, answers, strict=True):
        found, notes = number.figures(SetAnswers(cases, answer, rows))
        figures += found
        remarks += notes
    if len(enough) < len(sets):
        remarks.append("a single case has no distances between sets: they are left out")
    return Report(
        bench=plan.bench,
        name=plan.name,
        expected=plan.expected,
        columns=[number.column for number in numbers],
        rows=rows,
        figures=figures,
        groups={case.key: case.group for case in cases if case.group},
        files={case.key: {kind: str(path) for kind, path in case.files.items()} for case in cases},
        masks={case.key: pack_mask(case.edit_mask) for case in cases if case.edit_mask is not None},
        captions={case.key: " → ".join(case.prompts) for case in cases if any(case.prompts)},
        remarks=(*incomplete(len(cases), plan.expected), *remarks),
    )


def _answers(
    cases: Sequence[EditCase], numbers: Sequence[Number], sets: Sequence[SetNumber], what: str, score: Score
) -> tuple[dict[str, dict[str, float]], list[dict[str, Value]]]:
    """Case -> column -> number; and for each of `sets`, name of a request -> values [N, ...]."""
    parts: list[Number | SetNumber] = [*numbers, *sets]
    requests = [_requests(case, parts) for case in cases]
    rows: dict[str, dict[str, float]] = {}
    kept: list[dict[str, list[Value]]] = [defaultdict(list) for _ in sets]
    for case, flat in zip(cases, score(requests, what), strict=True):
        values: list[dict[str, Value]] = [{} for _ in parts]
        for full, value in flat.items():
            place, _, name = full.partition(" ")
            values[int(place)][name] = value
        rows[case.key] = {
            number.column.name: number.value(case, own) for number, own in zip(numbers, values, strict=False)
        }
        for features, answers in zip(kept, values[len(numbers) :], strict=True):
            for name, value in answers.items():
                features[name].append(value)
    return rows, [{name: np.stack(own) for name, own in features.items()} for features in kept]


def _requests(case: EditCase, parts: Sequence[Number | SetNumber]) -> Case:
    """The requests of all numbers; a name begins with the number's place."""
    wanted = (part.wanted(case) for part in parts)
    return {f"{place} {name}": r for place, own in enumerate(wanted) for name, r in own.items()}
