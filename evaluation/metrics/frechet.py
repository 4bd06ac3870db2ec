"""Distances of the set of results to a reference set: Fréchet of CLIP and Inception features, KID."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
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
from evaluation.scoring.set_figures import Reference, frechet_figure, kernel_figure, of_features

if TYPE_CHECKING:
    from evaluation.measures.measures import Measure
    from evaluation.scoring.store import ValueStore

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


@dataclass(frozen=True)
class Distances:
    """What distances are called.

    Attributes:
        name: end of the columns' names.
        title: title of the Fréchet distance.
        kernel: title of the kernel distance; empty = not computed.
    """

    name: str
    title: str
    kernel: str = ""


CLIP_DISTANCES = Distances("clip", "CLIP Fréchet")
INCEPTION_DISTANCES = Distances("inception", "FID", "KID ×10³")
_CLEAN = Distances("clean", "clean FID", "clean KID ×10³")
_CROPS = Distances("crops", "crop FID", "crop KID ×10³")


def distances(
    what: Distances,
    measure: Measure,
    reference: Reference | None,
    masked: bool = False,
    store: ValueStore | None = None,
) -> SetNumber:
    """The distances of results to a reference, by default to the bench's own pictures.

    Args:
        what: names and titles.
        measure: features of a result.
        reference: reference set, or None.
        masked: whether the measure takes the edit mask.
        store: values on disk.
    """

    def wanted(case: EditCase) -> Case:
        mask = case.mask if masked else None
        found = {"result": Request((case.files["result"],), measure, mask)}
        own = {} if reference else {"own": Request((case.files["image"],), measure, mask)}
        return found | own

    def figures(answers: SetAnswers) -> tuple[list[SetFigure], tuple[str, ...]]:
        against, results = reference, answers.values["result"]
        if against is None:
            own = answers.values["own"]
            digest = pictures_digest([case.files["image"] for case in answers.cases], store)
            against = of_features(OWN, measure.identity, own, digest, store)
        recipe = f"frechet/{measure.identity} to {against.described}"
        figure, notes = frechet_figure(
            results, against, ReportColumn(f"frechet_{what.name}", what.title, "down", recipe), store=store
        )
        if not what.kernel:
            return [figure], notes
        if against.features is None:
            kernel = what.kernel.split(" ×")[0]
            lost = f"{kernel} needs pictures, but {against.name} holds statistics: it is left out"
            return [figure], (*notes, lost)
        size = min(SUBSET_SIZE, len(results), len(against.features))
        kernel = "kid" if what is INCEPTION_DISTANCES else f"kid_{what.name}"
        recipe = f"kid-100x{size}/{measure.identity} to {against.described}"
        column = ReportColumn(kernel, what.kernel, "down", recipe)
        return [figure, kernel_figure(results, against, column, store=store)], notes

    return SetNumber(figures, wanted, least=2)


def _to_reference(
    what: Distances, features: str, measure: Measure, look: Measure, loading: Loading
) -> Sequence[SetNumber]:
    """Distances to the reference of these features; `look`: measure of a reference's pictures."""
    paths = parse_references(loading.options.reference)
    reference = load_references(paths, {features: look}, loading.score, loading.store).get(features)
    folders = {path for path in paths.values() if path.is_dir()}
    notes = (skipped_files(folder) for folder in sorted(folders))
    loading.remarks += [note for note in notes if note and note not in loading.remarks]
    return [distances(what, measure, reference, store=loading.store)]


def _clip(loading: Loading) -> Sequence[SetNumber]:
    from evaluation.measures.features import middle512

    whole = clip_b32(loading).whole
    return _to_reference(CLIP_DISTANCES, "clip", whole, middle512(whole), loading)


def _inception(loading: Loading) -> Sequence[SetNumber]:
    from evaluation.measures import features

    whole = loading.once(features.inception)
    return _to_reference(INCEPTION_DISTANCES, "inception", whole, features.middle512(whole), loading)


def _clean(loading: Loading) -> Sequence[SetNumber]:
    from evaluation.measures import features

    whole = features.clean(loading.once(features.inception))
    return _to_reference(_CLEAN, "inception", whole, whole, loading)


def _crops(loading: Loading) -> Sequence[SetNumber]:
    from evaluation.measures import features

    crop = features.of_crop(loading.once(features.inception))
    return [distances(_CROPS, crop, None, masked=True, store=loading.store)]


def _checked(options: argparse.Namespace, name: str) -> Sequence[str]:
    parse_references(options.reference)
    return [name]


CLIP_FRECHET = Metric(
    help="Fréchet distance of CLIP features, which Paint by Example calls FID",
    load=_clip,
    weights=lambda options: _checked(options, "clip-b32"),
    needs=("image",),
    add_options=(add_reference_option,),
)
FID = Metric(
    help="FID and KID of Inception's features",
    load=_inception,
    weights=lambda options: _checked(options, "inception"),
    needs=("image",),
    without="inception",
    add_options=(add_reference_option,),
)
FID_CLEAN = Metric(
    help="FID and KID with clean-fid's resizing",
    load=_clean,
    weights=lambda options: _checked(options, "inception"),
    needs=("image",),
    without="inception",
    add_options=(add_reference_option,),
)
CROP_FID = Metric(
    help="FID and KID of the mask's box, to the same box of the bench's pictures",
    load=_crops,
    weights=lambda options: ["inception"],
    needs=("image", "mask"),
    without="inception",
)
