"""From the arguments of a command to the report of an exemplar bench."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.benches.exemplar_options import OPTIONAL
from evaluation.benches.readable import broken_cases, left_out
from evaluation.benches.run import made_with
from evaluation.reports.output import deliver
from evaluation.scoring.references import load_references, parse_references, skipped_files
from evaluation.scoring.scorer import Score, scorer
from intarsia.errors import UserError
from intarsia.words import counted

if TYPE_CHECKING:
    from evaluation.benches.exemplars import BenchPlan
    from sampling.jobs import Job


COCOEE = "COCOEE"


def list_files(jobs: Sequence[Job], only_present: bool) -> dict[str, dict[str, Path]]:
    """Name -> kind -> file, of the rows without errors; unless `only_present`, every row must be one.

    Raises:
        UserError: for rows with errors, or truths for only some rows.
    """
    right = [job for job in jobs if not job.error]
    broken = [job for job in jobs if job.error]
    if broken and not (right and only_present):
        raise UserError(
            f"{counted(len(broken), 'row')} of the list cannot be done, first {broken[0].name}: "
            f"{broken[0].error}; correct it, or give --only-present to leave it out"
        )
    with_truth = [job for job in right if job.truth]
    if with_truth and len(with_truth) < len(right):
        raise UserError(
            f"{len(with_truth)} of {len(right)} rows have a truth; give one for all, or make two lists"
        )
    return {job.name: {**job.files, **({"truth": job.truth} if job.truth else {})} for job in right}


def score_exemplars(
    arguments: argparse.Namespace,
    files: Mapping[str, Mapping[str, Path]],
    bench: str,
    expected: int,
    failed: Collection[str] = (),
) -> None:
    """Score results, print the tables and write the report.

    Args:
        arguments: parsed options of `exemplar_options` and `scorer`.
        files: case -> kind -> file.
        bench: name of the bench.
        expected: number of cases that the bench has.
        failed: cases without a result, which are left out.

    Raises:
        UserError: for results or weights that are missing.
    """
    from evaluation.benches.cocoee import find_cases
    from evaluation.benches.exemplars import evaluate

    made = {key: own for key, own in files.items() if key not in failed}
    cases = find_cases(made, arguments.results, arguments.only_present)
    broken = broken_cases({case.key: case.files for case in cases}) if arguments.only_present else {}
    cases = [case for case in cases if case.key not in broken]
    if not cases:
        raise UserError(f"no case can be scored; {left_out(broken)[0]}")
    name = arguments.name or arguments.results.resolve().name
    truth = "truth" in cases[0].files
    check_plan(arguments, truth)
    score = scorer(arguments)
    plan = load_plan(arguments, bench, name, score, truth)
    report = evaluate(cases, plan, score, expected)
    folders = {path for path in parse_references(arguments.reference).values() if path.is_dir()}
    skipped = [note for folder in sorted(folders) if (note := skipped_files(folder))]
    remarks = (*report.remarks, *left_out(broken), *skipped)
    report = replace(report, settings=made_with(arguments.results, report.rows), remarks=remarks)
    deliver(report, arguments, arguments.results)


def check_plan(arguments: argparse.Namespace, truth: bool) -> None:
    """Look for everything that the options name, before anything long begins; nothing is loaded.

    Args:
        arguments: same as for `load_plan`.
        truth: whether the cases have truths; LPIPS is computed only with them.

    Raises:
        UsageError: for a name or a path that does not exist.
        UserError: for weights that were not found, with the file, its source and the option.
    """
    from evaluation.measures.weights import find_weights, parse_weights

    parse_references(arguments.reference)
    given = parse_weights(arguments.weights)
    find_weights("clip-b32", given)
    for what in _wanted(arguments, truth):
        try:
            for name in OPTIONAL[what]:
                find_weights(name, given)
        except UserError as error:
            raise UserError(f"{error}; --without {what} leaves it out") from None


def load_plan(
    arguments: argparse.Namespace, bench: str, name: str, score: Score, truth: bool = False
) -> BenchPlan:
    """Load the networks and the references that the options name.

    Args:
        arguments: parsed options of `exemplar_options` and `scorer`.
        bench: name of the bench; COCOEE also gets the published crop.
        name: name of the method that made the results.
        score: function that computes the references' features.
        truth: whether the cases have truths.

    Raises:
        UserError: for weights that were not found, or are of another network than their name says.
    """
    from evaluation.benches.exemplars import BenchPlan, Networks
    from evaluation.measures import features
    from evaluation.measures.weights import UNLISTED, find_weights, is_published, parse_weights
    from evaluation.scoring.distributions import read_mixture
    from intarsia.files import sha256_file
    from sampling.denoise.machine import pick_device

    given, device = parse_weights(arguments.weights), pick_device(arguments.device)
    wanted = _wanted(arguments, truth)

    def load_mixture() -> tuple:
        path = find_weights("mixture", given)
        listed = "" if is_published("mixture", path) else UNLISTED
        return read_mixture(path), listed + sha256_file(path)[:12]

    networks = Networks(
        features.clip("clip-b32", given, device),
        load_mixture() if "quality" in wanted else None,
        features.inception(given, device) if "inception" in wanted else None,
        features.lpips("alex", "edited", given, device, "only") if "lpips" in wanted else None,
        features.lpips("alex", "whole", given, device) if "lpips" in wanted else None,
    )
    looks = {"clip": features.middle512(networks.clip.whole)}
    if networks.inception:
        looks["inception"] = features.middle512(networks.inception)
    return BenchPlan(
        bench=bench,
        name=name,
        networks=networks,
        references=load_references(parse_references(arguments.reference), looks, score),
        published=bench == COCOEE,
    )


def _wanted(arguments: argparse.Namespace, truth: bool) -> list[str]:
    return [what for what in OPTIONAL if what not in arguments.without and (truth or what != "lpips")]
