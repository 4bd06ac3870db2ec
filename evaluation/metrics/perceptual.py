"""LPIPS of results and truths: inside the mask, and of the whole picture."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.measures.measures import Region
from evaluation.metrics.metric import Loading, Metric, Number
from evaluation.metrics.pixels import of_pair
from evaluation.scoring.report import ReportColumn


def _number(loading: Loading, region: Region) -> Number:
    from evaluation.measures import features

    measure = features.lpips("alex", region, loading.given, loading.device, "only", loading.store)
    return Number(
        ReportColumn(f"{region}_lpips", f"{region} LPIPS ×10³", "down", measure.identity),
        lambda case: {"lpips": of_pair(case, "truth", measure, region)},
        lambda case, values: 1e3 * float(values["lpips"]),
    )


def _edited(loading: Loading) -> Sequence[Number]:
    return [_number(loading, "edited")]


def _whole(loading: Loading) -> Sequence[Number]:
    return [_number(loading, "whole")]


EDITED_LPIPS = Metric(
    help="LPIPS averaged over the mask",
    load=_edited,
    weights=lambda options: ["alex", "lpips-alex"],
    needs=("truth",),
    without="lpips",
)
WHOLE_LPIPS = Metric(
    help="LPIPS of the whole picture",
    load=_whole,
    weights=lambda options: ["alex", "lpips-alex"],
    needs=("truth",),
    without="lpips",
)
