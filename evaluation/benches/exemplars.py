"""Scoring of edits with an exemplar: the values of each case and of the set, and the report of them.

It serves COCOEE and any list of (image, mask, exemplar[, truth]). A picture is decoded once for all its
values, the features of the set and of the reference included.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluation.measures.measures import Measure, Region, Value, pixel_error
from evaluation.measures.metrics import clip_score
from evaluation.scoring.distributions import SUBSET_SIZE, Mixture, quality_scores
from evaluation.scoring.references import pictures_digest
from evaluation.scoring.report import Report, ReportColumn, SetFigure, incomplete
from evaluation.scoring.scorer import Score
from evaluation.scoring.scoring import Case, Request
from evaluation.scoring.set_figures import Reference, collect, frechet_figure, kernel_figure, psnr_of_mean

if TYPE_CHECKING:
    from evaluation.measures.features import Clip

OWN = "the bench's own pictures"
_MSE_SCALE = 1e4


@dataclass(frozen=True)
class EditCase:
    """A case and its result.

    Attributes:
        key: name of the case.
        files: "image", "mask", "exemplar", "result" and, where it is known, "truth".
        group: its category, where the bench has them.
    """

    key: str
    files: Mapping[str, Path]
    group: str = ""


@dataclass(frozen=True)
class Networks:
    """The feature networks; None = the number is left out.

    Attributes:
        clip: ViT-B/32.
        mixture: mixture of the quality score, with its fingerprint.
        inception: Inception network of FID and KID.
        lpips: LPIPS of two pictures in the region `edited`, averaged over it; for benches with truths.
        lpips_whole: LPIPS of whole pictures, likewise.
    """

    clip: "Clip"
    mixture: tuple[Mixture, str] | None = None
    inception: Measure | None = None
    lpips: Measure | None = None
    lpips_whole: Measure | None = None


@dataclass(frozen=True)
class BenchPlan:
    """The plan of a bench's scoring.

    Attributes:
        bench: name of the bench.
        name: name of the method that made the results.
        networks: feature networks.
        references: features, "clip" or "inception", -> reference set; without one, the bench's own pictures.
        published: also Paint by Example's crop of the repainted region, which needs rectangles.
    """

    bench: str
    name: str
    networks: Networks
    references: Mapping[str, Reference] = field(default_factory=dict)
    published: bool = False


@dataclass(frozen=True)
class _Number:
    """A column, its requests of a case, and its value from the answers."""

    column: ReportColumn
    wanted: Callable[[Mapping[str, Path]], Case]
    value: Callable[[Mapping[str, Value]], float]


def evaluate(cases: Sequence[EditCase], plan: BenchPlan, score: Score, expected: int) -> Report:
    """Score the results of a bench.

    Args:
        cases: those with a result, all of them with a truth or none.
        plan: numbers, networks and references.
        score: computes it.
        expected: number of cases that the bench has.
    """
    cases = sorted(cases, key=lambda case: case.key)
    numbers = _numbers(plan, truth="truth" in cases[0].files)
    sets = _sets(plan.networks)
    wanted: list[Case] = []
    for case in cases:
        requests = {name: r for number in numbers for name, r in number.wanted(case.files).items()}
        for name, measure in sets.items():
            requests[f"set {name}"] = Request((case.files["result"],), measure)
            if name not in plan.references:
                requests[f"own {name}"] = Request((case.files["image"],), measure)
        wanted.append(requests)
    rows: dict[str, dict[str, float]] = {}
    features: dict[str, list[Value]] = {name: [] for request in wanted[:1] for name in request if " " in name}
    for case, values in zip(cases, score(wanted, plan.bench), strict=True):
        rows[case.key] = {number.column.name: number.value(values) for number in numbers}
        for name, kept in features.items():
            kept.append(values[name])
    stacked = {name: np.stack(kept) for name, kept in features.items()}
    own = [case.files["image"] for case in cases]
    figures, remarks = _figures(plan, sets, stacked, own)
    figures += _decibels(numbers, rows)
    return Report(
        bench=plan.bench,
        name=plan.name,
        expected=expected,
        columns=[number.column for number in numbers],
        rows=rows,
        figures=figures,
        groups={case.key: case.group for case in cases if case.group},
        files={case.key: {kind: str(path) for kind, path in case.files.items()} for case in cases},
        remarks=incomplete(len(cases), expected) + remarks,
    )


def _numbers(plan: BenchPlan, truth: bool) -> list[_Number]:
    networks = plan.networks
    numbers = [_clip_number(networks.clip, "pbe")] if plan.published else []
    numbers.append(_clip_number(networks.clip, "bbox"))
    if networks.mixture:
        numbers.append(_quality_number(networks.clip.whole, *networks.mixture))
    numbers += _errors("background", "image")
    if truth:
        numbers += _errors("edited", "truth")
        if networks.lpips:
            numbers.append(_lpips_number(networks.lpips, "edited"))
        numbers += _errors("whole", "truth")
        if networks.lpips_whole:
            numbers.append(_lpips_number(networks.lpips_whole, "whole"))
    return numbers


def _clip_number(clip: "Clip", kind: str) -> _Number:
    region, exemplar = clip.region("pbe" if kind == "pbe" else "bbox"), clip.exemplar
    name, title = ("clip_score", "CLIP score") if kind == "pbe" else ("clip_score_box", "CLIP score, box")
    return _Number(
        ReportColumn(name, title, "up", f"clip-score/{region.identity} and {exemplar.identity}"),
        lambda files: {
            kind: Request((files["result"],), region, files["mask"]),
            "exemplar": Request((files["exemplar"],), exemplar),
        },
        lambda values: float(clip_score(values[kind], values["exemplar"])),
    )


def _quality_number(whole: Measure, mixture: Mixture, fingerprint: str) -> _Number:
    recipe = f"quality-gmm{len(mixture.weights)}@{fingerprint}/{whole.identity}"
    return _Number(
        ReportColumn("quality_score", "quality score", "up", recipe),
        lambda files: {"set clip": Request((files["result"],), whole)},
        lambda values: float(quality_scores(values["set clip"][None], mixture)[0]),
    )


def _errors(region: Region, against: str) -> list[_Number]:
    def number(name: str, title: str, scale: float, up: bool) -> _Number:
        # Windows that reach into the edit would lower the SSIM of a background that is equal bit for bit.
        within = name == "ssim" and region == "background"
        measure = pixel_error(name, region, "inside" if within else "only")  # type: ignore[arg-type]
        key = f"{region}_{name}"
        return _Number(
            ReportColumn(key, f"{region} {title}", "up" if up else "down", measure.identity),
            lambda files: {key: _of_pair(files, against, measure, region)},
            lambda values: scale * float(values[key]),
        )

    return [
        number("mse", "MSE ×10⁴", _MSE_SCALE, False),
        number("psnr", "PSNR", 1.0, True),
        number("ssim", "SSIM ×10²", 1e2, True),
    ]


def _lpips_number(measure: Measure, region: Region) -> _Number:
    key = f"{region}_lpips"
    return _Number(
        ReportColumn(key, f"{region} LPIPS ×10³", "down", measure.identity),
        lambda files: {key: _of_pair(files, "truth", measure, region)},
        lambda values: 1e3 * float(values[key]),
    )


def _of_pair(files: Mapping[str, Path], against: str, measure: Measure, region: Region) -> Request:
    pair = files["result"], files[against]
    return Request(pair, measure) if region == "whole" else Request(pair, measure, files["mask"])


def _decibels(numbers: Sequence[_Number], rows: Mapping[str, Mapping[str, float]]) -> list[SetFigure]:
    """The PSNR of the mean error, beside the mean of the PSNR, of each region."""
    found = []
    for column in (number.column for number in numbers if number.column.name.endswith("_mse")):
        region = column.name.removesuffix("_mse")
        recipe = f"psnr-of-mean/{column.recipe}"
        own = ReportColumn(f"{region}_psnr_of_mean", f"{region} PSNR of the mean MSE", "up", recipe)
        found.append(psnr_of_mean([row[column.name] for row in rows.values()], _MSE_SCALE, own))
    return found


def _sets(networks: Networks) -> dict[str, Measure]:
    found = {"clip": networks.clip.whole}
    return found | ({"inception": networks.inception} if networks.inception else {})


def _figures(
    plan: BenchPlan, sets: Mapping[str, Measure], features: Mapping[str, Value], images: Sequence[Path]
) -> tuple[list[SetFigure], tuple[str, ...]]:
    figures: list[SetFigure] = []
    remarks: tuple[str, ...] = ()
    if len(features["set clip"]) < 2:
        return figures, ("a single case has no distances between sets: they are left out",)
    for name, measure in sets.items():
        reference = plan.references.get(name)
        if reference is None:
            own = features[f"own {name}"]
            digest = pictures_digest(images)
            reference = collect(OWN, measure.identity, (row[None] for row in own), len(own), digest)
        results = features[f"set {name}"]
        title = "CLIP Fréchet" if name == "clip" else "FID"
        column = f"frechet/{measure.identity} to {reference.described}"
        figure, notes = frechet_figure(
            results, reference, ReportColumn(f"frechet_{name}", title, "down", column)
        )
        figures.append(figure)
        remarks += notes
        if name == "inception" and reference.features is not None:
            size = min(SUBSET_SIZE, len(results), len(reference.features))
            recipe = f"kid-100x{size}/{measure.identity} to {reference.described}"
            figures.append(kernel_figure(results, reference, ReportColumn("kid", "KID ×10³", "down", recipe)))
        elif name == "inception":
            remarks += (f"KID needs pictures, but {reference.name} holds statistics: it is left out",)
    return figures, remarks
