"""The numbers of PIE-Bench's table, by its conventions.

Background errors are of pictures whose edited part is painted black, averaged over *all* pixels; a mask that
covers everything leaves NaN, which averages leave out. Similarity to the prompt is of the whole result, and
of the result whose background is painted black, both with the whole prompt. Of a strip of several pictures
the rightmost square is used.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Literal, get_args

from evaluation.measures.measures import Feed, Measure, in_region, pixel_error
from evaluation.measures.metrics import Picture, text_similarity
from evaluation.metrics.metric import EditCase, Loading, Metric, Number
from evaluation.scoring.report import ReportColumn
from evaluation.scoring.scoring import Case, Request

PIE_SIZE = 512


def _number(
    name: str, title: str, better: Literal["up", "down"], scale: float, measure: Measure, masked: bool = True
) -> Number:
    """A number of the source and the result, multiplied by `scale`."""
    measure = of_squares(measure)

    def wanted(case: EditCase) -> Case:
        pair = case.files["image"], case.files["result"]
        return {"pair": Request(pair, measure, case.mask if masked else None)}

    column = ReportColumn(name, title, better, measure.identity)
    return Number(column, wanted, lambda case, values: scale * float(values["pair"]))


def _structure(loading: Loading) -> Sequence[Number]:
    from evaluation.measures import features

    measure = features.structure(loading.options.structure, loading.given, loading.device, loading.store)
    return [_number("structure_distance", "structure ×10³", "down", 1e3, measure, masked=False)]


def _psnr(loading: Loading) -> Sequence[Number]:
    return [_number("psnr", "PSNR", "up", 1.0, pixel_error("psnr", "background", "blank"))]


def _lpips(loading: Loading) -> Sequence[Number]:
    from evaluation.measures import features

    measure = features.lpips("squeeze", "background", loading.given, loading.device, kept=loading.store)
    return [_number("lpips", "LPIPS ×10³", "down", 1e3, measure)]


def _errors(loading: Loading) -> Sequence[Number]:
    return [
        _number("mse", "MSE ×10⁴", "down", 1e4, pixel_error("mse", "background", "blank")),
        _number("ssim", "SSIM ×10²", "up", 1e2, pixel_error("ssim-rgb", "background", "blank")),
    ]


def _clip(loading: Loading) -> Sequence[Number]:
    from evaluation.measures import features

    clip = features.clip("clip-l14", loading.given, loading.device, loading.store)
    texts = clip.texts([case.prompts[1] for case in loading.cases])
    prompts = {case.key: text for case, text in zip(loading.cases, texts, strict=True)}
    what, how, version = clip.whole.recipe.split("/")
    blank = in_region(clip.whole.prepare, "edited")
    edited = Measure(f"{what}/edited-blank-{how}/{version}", blank, clip.whole.network)

    def number(name: str, title: str, measure: Measure, masked: bool) -> Number:
        measure = of_squares(measure)
        return Number(
            ReportColumn(name, title, "up", measure.identity),
            lambda case: {"result": Request((case.files["result"],), measure, case.mask if masked else None)},
            lambda case, values: float(text_similarity(values["result"], prompts[case.key])),
        )

    return [
        number("clip_whole", "CLIP whole", clip.whole, False),
        number("clip_edited", "CLIP edited", edited, True),
    ]


def of_squares(measure: Measure) -> Measure:
    """The same on the rightmost square of strips that hold several pictures, as published results are."""
    what, how, version = measure.recipe.split("/")

    def prepare(*arguments: Any) -> Any:
        return measure.prepare(*(_square(a) if a.ndim == 3 else a for a in arguments))

    return Measure(f"{what}/last{PIE_SIZE}-{how}/{version}", prepare, measure.network, measure.finish)


def _square(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    if height != PIE_SIZE or width < PIE_SIZE:  # a strip of larger squares would be cut to a corner of one
        raise ValueError(
            f"the picture is {width} × {height} pixels; PIE-Bench needs {PIE_SIZE} × {PIE_SIZE}, or --resize"
        )
    return picture[-PIE_SIZE:, -PIE_SIZE:]


def _add_structure(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--structure",
        choices=get_args(Feed),
        default="published",
        help="preprocessing of the structure distance: as in the published table, or as the network was "
        "trained (default %(default)s)",
    )


STRUCTURE = Metric(
    help="distance of the layouts of source and result",
    load=_structure,
    weights=lambda options: ["dino-b8"],
    without="structure",
    of_one_bench=True,
    add_options=(_add_structure,),
)
PSNR = Metric(help="PSNR of the background", load=_psnr, of_one_bench=True)
LPIPS = Metric(
    help="LPIPS of the background",
    load=_lpips,
    weights=lambda options: ["squeeze", "lpips-squeeze"],
    without="lpips",
    of_one_bench=True,
)
ERRORS = Metric(help="MSE and SSIM of the background", load=_errors, of_one_bench=True)
CLIP = Metric(
    help="similarity of the result, and of its edited part, to the prompt",
    load=_clip,
    weights=lambda options: ["clip-l14"],
    without="clip",
    of_one_bench=True,
)
