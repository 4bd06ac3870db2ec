"""Numbers of regions measure what they say: no reach into the edit, no growth with the mask, no lost ∞."""

import math

import numpy as np
import pytest

from benchmarks.nets import fill, save
from evaluation.measures import features, metrics
from evaluation.measures.lpips import Lpips
from evaluation.measures.measures import NothingLeft, pixel_error
from evaluation.reports.compare import differences
from evaluation.scoring.confidence import GROUPS, bootstrap_mean, compare_cases
from evaluation.scoring.distributions import kernel_distance
from evaluation.scoring.report import Report, ReportColumn, summarise
from evaluation.scoring.set_figures import psnr_of_mean

PSNR = ReportColumn("psnr", "PSNR", "up", "psnr/background-only/v1")


def squares(side: int, size: int = 96) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    start = (size - side) // 2
    mask[start : start + side, start : start + side] = True
    return mask


def picture(seed: int, size: int = 96) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def shapes() -> dict[str, np.ndarray]:
    ring = squares(60) & ~squares(30)
    corner = np.zeros((96, 96), bool)
    corner[:40, 50:] = True
    return {"square": squares(40), "ring": ring, "corner": corner, "dot": squares(1)}


@pytest.mark.parametrize("name", list(shapes()))
def test_an_untouched_background_has_an_ssim_of_1(name) -> None:
    """It had .9898: windows at the border of the edit reached into it."""
    mask, image = shapes()[name], picture(0)
    result = np.where(mask[..., None], picture(1), image)
    for kind in ("ssim", "ssim-rgb"):
        assert pixel_error(kind, "background", "inside").prepare(result, image, mask) == 1
        assert pixel_error(kind, "background").prepare(result, image, mask) < 1


def test_a_changed_background_is_seen_and_a_narrow_one_has_no_value() -> None:
    image, mask = picture(0), squares(40)
    noisy = (image // 2 + picture(1) // 2).astype(np.uint8)
    assert pixel_error("ssim", "background", "inside").prepare(noisy, image, mask) < 0.95
    with pytest.raises(NothingLeft, match="no window is background as a whole"):
        pixel_error("ssim", "background", "inside").prepare(noisy, image, squares(88))
    assert not metrics.inside(np.ones((8, 40), bool)).any()
    slow = np.zeros((96, 96), bool)  # a pixel counts if its whole window does
    for y in range(5, 91):
        for x in range(5, 91):
            slow[y, x] = not mask[y - 5 : y + 6, x - 5 : x + 6].any()
    assert (metrics.inside(~mask) == slow).all()


@pytest.fixture(scope="module")
def lpips(tmp_path_factory: pytest.TempPathFactory) -> dict:
    path = tmp_path_factory.mktemp("lpips") / "alexnet-owt-7be5be79.pth"
    backbone = Lpips("alex").features
    fill(backbone)
    save(backbone, path, "features.")
    return {"alex": path}


def test_edited_lpips_does_not_grow_with_the_mask(lpips) -> None:
    """The same noise gave .80 to 63.7, by the mask's area alone."""
    y, x = np.mgrid[:192, :192]
    truth = (127 + 60 * np.sin(x / 17)[..., None] + 40 * np.cos(y / 23)[..., None] * np.ones(3)).astype(
        np.uint8
    )
    noise = np.random.default_rng(0).integers(-40, 41, truth.shape)
    found: dict[str, list[float]] = {"only": [], "blank": []}
    for side in (48, 96, 160):
        mask = squares(side, 192)
        noisy = np.where(mask[..., None], (truth + noise).clip(0, 255), truth).astype(np.uint8)
        for how, values in found.items():
            measure = features.lpips("alex", "edited", lpips, how=how)
            values.append(float(measure.network.run(measure.prepare(noisy, truth, mask)[None])[0]))
    assert max(found["only"]) / min(found["only"]) < 2
    assert max(found["blank"]) / min(found["blank"]) > 4
    whole = features.lpips("alex", "whole", lpips)
    everything = features.lpips("alex", "edited", lpips, how="only")
    full = float(everything.network.run(everything.prepare(noisy, truth, np.ones((192, 192), bool))[None])[0])
    plain = float(whole.network.run(whole.prepare(noisy, truth)[None])[0])
    assert full == pytest.approx(plain, rel=0.3)  # enlarged layers weigh their borders a little otherwise


def reports(first: list[float], other: list[float]) -> list[Report]:
    made = []
    for name, values in (("a", first), ("b", other)):
        rows = {f"{place:03}": {"psnr": value} for place, value in enumerate(values)}
        made.append(Report("mine", name, len(rows), [PSNR], rows))
    return made


def test_one_infinite_psnr_leaves_the_mean_of_the_others() -> None:
    found = bootstrap_mean(np.array([30.0, 32.0, math.inf, math.nan]))
    assert (found.value, found.count, found.infinite) == (31.0, 3, 1)
    assert 30 <= found.low <= found.high <= 32
    everything = bootstrap_mean(np.array([math.inf, math.inf]))
    assert (everything.value, everything.infinite) == (math.inf, 2)
    one = bootstrap_mean(np.array([math.inf, 3.0]))
    assert (one.value, one.infinite, math.isnan(one.low)) == (3.0, 1, True)


@pytest.mark.parametrize(
    ("first", "other", "words"),
    [
        ([30, 31, math.inf], [32, 33, math.inf], "1 case infinite in both, left out"),
        ([30, 31, math.inf], [32, 33, 34], "1 case infinite in a alone, left out"),
        ([30, 31, 29, 28], [32, math.inf, 33, math.inf], "2 cases infinite in b alone, left out"),
        (
            [math.inf] * 2,
            [math.inf] * 2,
            "no case has a finite value in both; 2 cases infinite in both, left out",
        ),
    ],
)
def test_cases_with_an_infinite_value_are_not_called_missing(first, other, words) -> None:
    [found] = differences(*reports(first, other))
    assert words in found.verdict
    assert "not in both" not in found.verdict
    assert summarise(reports(first, other)[0])[-1].values["psnr"].count == len(first)


def test_a_case_without_a_value_is_missing() -> None:
    found = compare_cases({"x": 1.0, "y": math.nan, "z": 2.0}, {"x": 2.0, "y": 2.0, "w": 1.0})
    assert found.missing == ("w", "y", "z")
    assert found.infinite == (0, 0, 0)


def test_the_psnr_of_the_mean_error_is_finite_where_one_case_is_not() -> None:
    errors = [0.0, 1e4 * 1e-3, 1e4 * 3e-3]
    figure = psnr_of_mean(errors, 1e4, PSNR)
    assert figure.value == pytest.approx(-10 * math.log10(4e-3 / 3))
    assert psnr_of_mean([0.0, 0.0], 1e4, PSNR).value == math.inf
    assert psnr_of_mean([math.nan, 10.0], 1e4, PSNR).value == pytest.approx(30)
    assert math.isnan(psnr_of_mean([math.nan], 1e4, PSNR).value)
    many = psnr_of_mean(list(np.linspace(1, 9, 3 * GROUPS)), 1e4, PSNR)
    assert len(many.replicates) == GROUPS
    assert min(many.replicates) < many.value < max(many.replicates)


@pytest.mark.parametrize(
    ("a", "b", "varies"), [(30, 30, False), (20, 30, True), (50, 50, True), (30, 50, True)]
)
def test_kid_has_a_spread_only_where_subsets_differ(a, b, varies) -> None:
    """It was printed as ± 0.00 where each subset had all pictures."""
    rng = np.random.default_rng(0)
    found = kernel_distance(rng.normal(size=(a, 4)), rng.normal(size=(b, 4)), subsets=20, subset_size=30)
    assert (found.deviation is not None) == varies
    if varies:
        assert found.deviation > 0
