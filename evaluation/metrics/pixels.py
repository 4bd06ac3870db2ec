"""Errors of pixels: of the background against the picture, of the edit and of the whole against a truth."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.measures.measures import Measure, Region, pixel_error
from evaluation.metrics.metric import EditCase, Loading, Metric, Number, SetAnswers, SetNumber
from evaluation.scoring.report import ReportColumn
from evaluation.scoring.scoring import Request
from evaluation.scoring.set_figures import psnr_of_mean

_MSE_SCALE = 1e4


def of_pair(case: EditCase, against: str, measure: Measure, region: Region) -> Request:
    """The request of a measure of the result and another picture, in a region."""
    pair = case.files["result"], case.files[against]
    return Request(pair, measure) if region == "whole" else Request(pair, measure, case.mask)


def _number(region: Region, against: str, name: str, title: str, scale: float, up: bool) -> Number:
    # Windows that reach into the edit would lower the SSIM of a background that is equal bit for bit.
    within = name == "ssim" and region == "background"
    measure = pixel_error(name, region, "inside" if within else "only")  # type: ignore[arg-type]
    return Number(
        ReportColumn(f"{region}_{name}", f"{region} {title}", "up" if up else "down", measure.identity),
        lambda case: {name: of_pair(case, against, measure, region)},
        lambda case, values: scale * float(values[name]),
    )


def _errors(region: Region, against: str) -> list[Number | SetNumber]:
    mse = _number(region, against, "mse", "MSE ×10⁴", _MSE_SCALE, False)
    recipe = f"psnr-of-mean/{mse.column.recipe}"
    column = ReportColumn(f"{region}_psnr_of_mean", f"{region} PSNR of the mean MSE", "up", recipe)

    def decibels(answers: SetAnswers) -> tuple[list, list[str]]:
        errors = [row[mse.column.name] for row in answers.rows.values()]
        return [psnr_of_mean(errors, _MSE_SCALE, column)], []

    return [
        mse,
        _number(region, against, "psnr", "PSNR", 1.0, True),
        _number(region, against, "ssim", "SSIM ×10²", 1e2, True),
        SetNumber(decibels),
    ]


def _background(loading: Loading) -> Sequence[Number | SetNumber]:
    return _errors("background", "image")


def _edited(loading: Loading) -> Sequence[Number | SetNumber]:
    return _errors("edited", "truth")


def _whole(loading: Loading) -> Sequence[Number | SetNumber]:
    return _errors("whole", "truth")


BACKGROUND_ERRORS = Metric(
    help="MSE, PSNR and SSIM outside the mask", load=_background, needs=("image", "mask")
)
EDITED_ERRORS = Metric(help="MSE, PSNR and SSIM inside the mask", load=_edited, needs=("truth",))
WHOLE_ERRORS = Metric(help="MSE, PSNR and SSIM of the whole picture", load=_whole, needs=("truth",))
