"""Paint by Example's CLIP score: how alike the repainted part and the exemplar are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from evaluation.measures.metrics import clip_score
from evaluation.metrics.metric import EditCase, Loading, Metric, Number
from evaluation.scoring.report import ReportColumn
from evaluation.scoring.scoring import Case, Request

if TYPE_CHECKING:
    from evaluation.measures.features import Clip


def clip_b32(loading: Loading) -> Clip:
    """CLIP ViT-B/32, which several metrics share."""
    from evaluation.measures import features

    return loading.once(features.clip, "clip-b32")


def _number(clip: Clip, kind: Literal["pbe", "bbox"]) -> Number:
    region, exemplar = clip.region(kind), clip.exemplar
    name, title = ("clip_score", "CLIP score") if kind == "pbe" else ("clip_score_box", "CLIP score, box")

    def wanted(case: EditCase) -> Case:
        return {
            "region": Request((case.files["result"],), region, case.mask),
            "exemplar": Request((case.files["exemplar"],), exemplar),
        }

    return Number(
        ReportColumn(name, title, "up", f"clip-score/{region.identity} and {exemplar.identity}"),
        wanted,
        lambda case, values: float(clip_score(values["region"], values["exemplar"])),
    )


def _published(loading: Loading) -> Sequence[Number]:
    return [_number(clip_b32(loading), "pbe")]


def _box(loading: Loading) -> Sequence[Number]:
    return [_number(clip_b32(loading), "bbox")]


CLIP_SCORE_PUBLISHED = Metric(
    help="CLIP score of the published crop, for rectangular masks",
    load=_published,
    weights=lambda options: ["clip-b32"],
    needs=("mask", "exemplar"),
)
CLIP_SCORE = Metric(
    help="CLIP score of the mask's bounding box",
    load=_box,
    weights=lambda options: ["clip-b32"],
    needs=("mask", "exemplar"),
)
