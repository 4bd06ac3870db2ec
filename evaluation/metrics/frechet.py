"""Distances of the set of results to a reference set: Fréchet of CLIP and Inception features, KID."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluation.metrics.clip_score import clip_b32
from evaluation.metrics.metric import EditCase, Loading, Metric, SetAnswers, SetNumber
from evaluation.scoring.distributions import SUBSET_SIZE
from evaluation.scoring.references import (
    load_references,
    parse_references,
    pictures_digest,
    skipped_files,
)
from evaluation.scoring.report import ReportColumn, SetFigure
from evaluation.scoring.scoring import Case, Request
from evaluation.scoring.set_figures import Reference, collect, frechet_figure, kernel_figure

if TYPE_CHECKING:
    from evaluation.measures.measures import Measure

OWN = "the bench's own pictures"


def add_reference_option(group: argparse._ArgumentGroup) -> None:
    """Add `--reference`."""
    group.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="[FEATURES=]PATH",
        help="reference set of the Fréchet distances: a folder of pictures for all features, or clip=PATH "
        "and inception=PATH with a folder or an npz of `fid --save`. The published numbers need "
        "COCO's test2017. Default: the bench's pictures",
    )


def distances(name: str, measure: Measure, reference: Reference | None) -> SetNumber:
    """The distances of results to a reference, by default to the bench's own pictures.

    Args:
        name: features, "clip" or "inception"; the latter also have KID.
        measure: features of a result.
        reference: reference set, or None.
    """

    def wanted(case: EditCase) -> Case:
        found = {"result": Request((case.files["result"],), measure)}
        own = {} if reference else {"own": Request((case.files["image"],), measure)}
        return found | own

    def figures(answers: SetAnswers) -> tuple[list[SetFigure], tuple[str, ...]]:
        against, results = reference, answers.values["result"]
        if against is None:
            own = answers.values["own"]
            digest = pictures_digest([case.files["image"] for case in answers.cases])
            against = collect(OWN, measure.identity, (row[None] for row in own), len(own), digest)
        title = "CLIP Fréchet" if name == "clip" else "FID"
        recipe = f"frechet/{measure.identity} to {against.described}"
        figure, notes = frechet_figure(
            results, against, ReportColumn(f"frechet_{name}", title, "down", recipe)
        )
        if name != "inception":
            return [figure], notes
        if against.features is None:
            return [figure], (
                *notes,
                f"KID needs pictures, but {against.name} holds statistics: it is left out",
            )
        size = min(SUBSET_SIZE, len(results), len(against.features))
        column = ReportColumn(
            "kid", "KID ×10³", "down", f"kid-100x{size}/{measure.identity} to {against.described}"
        )
        return [figure, kernel_figure(results, against, column)], notes

    return SetNumber(figures, wanted, least=2)


def _to_reference(name: str, measure: Measure, loading: Loading) -> Sequence[SetNumber]:
    from evaluation.measures import features

    paths = parse_references(loading.options.reference)
    looks = {name: features.middle512(measure)}
    reference = load_references(paths, looks, loading.score).get(name)
    folders = {path for path in paths.values() if path.is_dir()}
    notes = (skipped_files(folder) for folder in sorted(folders))
    loading.remarks += [note for note in notes if note and note not in loading.remarks]
    return [distances(name, measure, reference)]


def _clip(loading: Loading) -> Sequence[SetNumber]:
    return _to_reference("clip", clip_b32(loading).whole, loading)


def _inception(loading: Loading) -> Sequence[SetNumber]:
    from evaluation.measures import features

    return _to_reference("inception", loading.once(features.inception), loading)


def _checked(options: argparse.Namespace, name: str) -> Sequence[str]:
    parse_references(options.reference)
    return [name]


CLIP_FRECHET = Metric(
    help="Fréchet distance of CLIP features, which Paint by Example calls FID",
    load=_clip,
    weights=lambda options: _checked(options, "clip-b32"),
    add_options=add_reference_option,
)
FID = Metric(
    help="FID and KID of Inception's features",
    load=_inception,
    weights=lambda options: _checked(options, "inception"),
    without="inception",
    add_options=add_reference_option,
)
