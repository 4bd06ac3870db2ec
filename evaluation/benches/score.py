"""From a bench and a folder of results to the report."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from evaluation.benches.bench import Bench, BenchCases
from evaluation.benches.readable import broken_cases, lacking, left_out
from evaluation.benches.run import made_with
from evaluation.metrics.evaluate import ScoringPlan, check_weights, evaluate, load_numbers, wanted_metrics
from evaluation.metrics.metric import METRICS, EditCase, Loading, metric_of
from evaluation.reports.output import add_output_options
from evaluation.scoring.report import Report
from evaluation.scoring.result_files import name_formats
from evaluation.scoring.scorer import add_scoring_options, scorer
from evaluation.scoring.store import ValueStore
from intarsia.errors import UserError
from intarsia.files import sha256_bytes

_DIGITS = 16  # of a hash that tells two files apart


def add_bench_options(parser: argparse.ArgumentParser, bench: Bench, device: bool = True) -> None:
    """Add the options of numbers, report and machine; `device`: whether --device is among them."""
    metrics = [metric_of(name) for name in bench.metrics]
    every = {name: metric_of(name) for name in METRICS} if bench.extendable else {}
    added = {name: metric for name, metric in every.items() if not metric.of_one_bench}
    group = parser.add_argument_group("numbers")
    for add in dict.fromkeys(add for metric in (*metrics, *added.values()) for add in metric.add_options):
        add(group)
    group.add_argument(
        "--without",
        action="append",
        default=[],
        choices=list(dict.fromkeys(metric.without for metric in metrics if metric.without)),
        help="leave out numbers whose weights are missing; may be repeated",
    )
    parser.set_defaults(extra=[])
    if added:
        _add_with(group, added)
    add_output_options(parser)
    add_scoring_options(parser, device)


def _add_with(group: argparse._ArgumentGroup, names: Iterable[str]) -> None:
    group.add_argument(
        "--with",
        dest="extra",
        action="append",
        default=[],
        choices=list(names),
        help="also compute this number, if the bench does not report it anyway; may be repeated",
    )


def check_bench_weights(bench: Bench, content: BenchCases, arguments: argparse.Namespace) -> None:
    """Look for everything that the options name, before anything long begins; nothing is loaded.

    Raises:
        UsageError: for a name or a path that does not exist.
        UserError: for weights that were not found, with the file, its source and the option.
    """
    check_weights(wanted_metrics(bench.metrics, arguments, content.kinds), arguments)


def score_bench(
    bench: Bench,
    content: BenchCases,
    arguments: argparse.Namespace,
    folder: Path,
    name: str,
    failed: Collection[str] = (),
) -> Report:
    """Score a folder of results.

    Args:
        bench: bench.
        content: its cases, all or those that were asked for.
        arguments: parsed options of `add_bench_options` and of the bench.
        folder: folder of results.
        name: name of the method.
        failed: cases without a result, which are left out.

    Raises:
        UserError: for files, results or weights that are missing.
    """
    from evaluation.measures.weights import parse_weights
    from sampling.denoise.device import pick_device

    if content.refused and not (content.cases and arguments.only_present):
        raise UserError(content.refused)
    made = [case for case in content.cases if case.key not in failed]
    cases = bench.find(arguments, made, folder)
    files = {case.key: case.files for case in cases}
    broken = broken_cases(files, bench.one_size) if arguments.only_present else {}
    cases = [case for case in cases if case.key not in broken]
    if not cases:
        raise UserError(f"no case can be scored; {left_out(broken)[0]}")
    metrics = wanted_metrics(bench.metrics, arguments, set.intersection(*map(set, files.values())))
    check_weights(metrics, arguments)
    store, given = ValueStore(arguments.store, arguments.hash_again), parse_weights(arguments.weights)
    score = scorer(arguments, store)
    loading = Loading(arguments, cases, given, str(pick_device(arguments.device)), score, store)
    numbers = load_numbers(metrics, loading)
    if bench.treat:
        numbers = list(bench.treat(arguments, cases, numbers))
    plan = ScoringPlan(content.title, name, content.expected, numbers, bench.sort)
    report = evaluate(cases, plan, score)
    if not bench.treat:
        report = name_formats(report, [case.files["result"] for case in cases])
    lost = lacking([case.key for case in made if case.key not in files])
    remarks = (*report.remarks, *lost, *left_out(broken), *loading.remarks)
    inputs = {case.key: inputs_of(case, arguments, store) for case in cases}
    store.keep()
    return replace(report, settings=made_with(folder, report.rows), remarks=remarks, inputs=inputs)


def inputs_of(case: EditCase, options: argparse.Namespace, store: ValueStore) -> dict[str, str]:
    """Kind -> digest of all that a case is made of but its result, which compared reports must share.

    Args:
        case: a case.
        options: parsed options, among them folders of masks where the bench has numbers of identity.
        store: knows the hashes of files.

    Returns:
        The first 16 digits of the sha256 of files; of the mask that is not a file, and of the prompts.
    """
    from evaluation.metrics.identity import mask_file

    files = {kind: path for kind, path in case.files.items() if kind not in ("result", "result_mask")}
    if getattr(options, "exemplar_masks", None):
        files["exemplar_mask"] = mask_file(case, "exemplar_mask", options)
    found = {kind: store.hash_of(path)[:_DIGITS] for kind, path in sorted(files.items()) if path.is_file()}
    if case.edit_mask is not None:
        shape = "×".join(map(str, case.edit_mask.shape)).encode()
        found["mask"] = sha256_bytes(shape + np.packbits(case.edit_mask).tobytes())[:_DIGITS]
    if any(case.prompts):
        found["prompts"] = sha256_bytes("\n".join(case.prompts).encode())[:_DIGITS]
    return found
