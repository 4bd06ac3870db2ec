"""Distances between sets of features against torchmetrics, SciPy and scikit-learn."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg
from sklearn.mixture import GaussianMixture
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from benchmarks.nets import recorded_sets
from evaluation.scoring import set_figures
from evaluation.scoring.confidence import GROUPS
from evaluation.scoring.distributions import (
    Mixture,
    frechet_distance,
    kernel_distance,
    quality_scores,
    read_mixture,
)
from evaluation.scoring.moments import moments_of, read_moments
from evaluation.scoring.report import ReportColumn
from evaluation.scoring.set_figures import collect, frechet_figure, kernel_figure, of_features
from evaluation.scoring.store import ValueStore
from intarsia.errors import UserError


class AsTheyAre(torch.nn.Module):
    """Stands where a peer wants a network: its pictures are features already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def two_sets(width: int, count: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(width)
    mix = rng.normal(size=(width, width)) / width**0.5
    a = rng.normal(size=(count, width)) @ mix
    return a, rng.normal(0.1, 1.2, size=(count + 100, width)) @ mix + rng.normal(size=width) / 5


@pytest.mark.parametrize("width", [3, 64, 512])
def test_frechet_equals_torchmetrics_and_the_formula_with_scipy_root(width: int) -> None:
    a, b = two_sets(width)
    ours = frechet_distance(moments_of([a]), moments_of([b]))
    peer = FrechetInceptionDistance(feature=AsTheyAre(width)).set_dtype(torch.float64)
    peer.update(torch.from_numpy(a), real=True)
    peer.update(torch.from_numpy(b), real=False)
    assert ours == pytest.approx(float(peer.compute()), rel=1e-6)
    root = linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    traces = np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root)
    assert ours == pytest.approx(((a.mean(0) - b.mean(0)) ** 2).sum() + traces, rel=1e-6)


@pytest.mark.parametrize("width", [64, 512])
def test_frechet_gives_what_pytorch_fid_gave(width: int) -> None:
    a, b = (moments_of([features]) for features in recorded_sets(width))
    recorded = json.loads(Path(__file__).with_name("peers.json").read_text())
    assert frechet_distance(a, b) == pytest.approx(recorded[f"frechet-{width}"], rel=1e-6)


def test_frechet_is_zero_of_a_set_and_itself_and_symmetric() -> None:
    a, b = (moments_of([features]) for features in two_sets(16))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_too_few_pictures_are_told() -> None:
    a, _ = two_sets(64)
    with pytest.warns(UserWarning, match=r"64 pictures leave a covariance of 64 .* use 65 pictures or more"):
        frechet_distance(moments_of([a[:64]]), moments_of([a]))


def test_moments_are_numpys_and_do_not_depend_on_the_pieces() -> None:
    a, _ = two_sets(20, 1000)
    a += 1e4  # a plain sum of squares would lose eight digits here
    whole = moments_of([a])
    np.testing.assert_allclose(whole.mean, a.mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(a, rowvar=False), rtol=1e-9, atol=1e-9)
    for sizes in ([1] * 1000, [7, 993], [256, 300, 444]):
        parts = moments_of(np.split(a, np.cumsum(sizes)[:-1]))
        assert parts.count == 1000
        assert (parts.covariance == whole.covariance).all()
        assert (parts.mean == whole.mean).all()


def test_moments_go_to_a_file_and_come_back(tmp_path) -> None:
    moments = moments_of([two_sets(5)[0]])
    moments.save(tmp_path / "stats.npz")
    back = read_moments(tmp_path / "stats.npz")
    assert back.count == moments.count
    assert (back.covariance == moments.covariance).all()
    np.savez(tmp_path / "theirs.npz", mu=moments.mean, sigma=moments.covariance)
    assert read_moments(tmp_path / "theirs.npz").count == 0
    np.savez(tmp_path / "mixed.npz", mu=np.zeros(3), sigma=np.eye(2))
    with pytest.raises(UserError, match=r"mixed\.npz: mu of shape \[3\] and sigma of \[2, 2\]"):
        read_moments(tmp_path / "mixed.npz")
    np.savez(tmp_path / "nan.npz", mu=np.full(2, np.nan), sigma=np.eye(2))
    with pytest.raises(UserError, match=r"nan\.npz holds NaN or infinity"):
        read_moments(tmp_path / "nan.npz")


def test_features_that_cannot_be_summed_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        moments_of([np.full((3, 2), np.nan)])
    with pytest.raises(ValueError, match="two pictures at least, not 1"):
        moments_of([np.zeros((1, 2))])
    with pytest.raises(UserError, match="statistics of 2 and of 3 dimensions"):
        frechet_distance(moments_of([np.eye(2)]), moments_of([np.eye(3)]))


def test_kid_equals_torchmetrics() -> None:
    a, b = two_sets(32, 300)
    peer = KernelInceptionDistance(feature=AsTheyAre(32), subsets=1, subset_size=300)
    peer.update(torch.from_numpy(a), real=True)
    peer.update(torch.from_numpy(b[:300]), real=False)
    ours = kernel_distance(a, b[:300], subsets=1, subset_size=300)
    assert ours.mean == pytest.approx(float(peer.compute()[0]), rel=1e-6)


def test_kid_follows_its_seed_and_knows_a_set_from_another() -> None:
    a, b = two_sets(16, 400)
    assert kernel_distance(a, b, 5, 100, seed=1) == kernel_distance(a, b, 5, 100, seed=1)
    assert kernel_distance(a, b, 5, 100, seed=1) != kernel_distance(a, b, 5, 100, seed=2)
    assert abs(kernel_distance(a[:200], a[200:], 5, 100).mean) < kernel_distance(a, b, 5, 100).mean


@pytest.fixture
def fitted() -> tuple[GaussianMixture, np.ndarray]:
    a, _ = two_sets(12)
    return GaussianMixture(4, random_state=0).fit(a), a


def save_mixture(path, peer: GaussianMixture) -> None:
    np.savez(path, weights=peer.weights_, means=peer.means_, precisions_cholesky=peer.precisions_cholesky_)


def test_likelihood_equals_scikit_learn(tmp_path, fitted) -> None:
    peer, features = fitted
    save_mixture(tmp_path / "gmm.npz", peer)
    mixture = read_mixture(tmp_path / "gmm.npz")
    np.testing.assert_allclose(mixture.log_likelihood(features), peer.score_samples(features), rtol=1e-12)


def test_quality_is_the_likelihood_over_300_between_0_and_100() -> None:
    mixture = Mixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None] * 1e30)
    peak = 2 * np.log(1e30) - np.log(2 * np.pi)  # log density at the mean: 136.3
    scores = quality_scores(np.array([[0.0, 0.0], [1.0, 1.0]]), mixture)
    assert scores == pytest.approx([100 * peak / 300, 0])


def test_a_pickle_is_never_read(tmp_path, fitted) -> None:
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    import pickle

    (tmp_path / "gmm").write_bytes(pickle.dumps(Trap()))
    np.savez(tmp_path / "objects.npz", weights=np.array([Trap()]), means=0, precisions_cholesky=0)
    (tmp_path / "sprung").unlink(missing_ok=True)
    for name in ("gmm", "objects.npz"):
        with pytest.raises(UserError, match="pickles are never read"):
            read_mixture(tmp_path / name)
    assert not (tmp_path / "sprung").exists()
    np.savez(tmp_path / "short.npz", weights=np.ones(1))
    with pytest.raises(UserError, match="lacks means, precisions_cholesky"):
        read_mixture(tmp_path / "short.npz")
    np.savez(
        tmp_path / "diagonal.npz",
        weights=np.ones(1),
        means=np.ones((1, 2)),
        precisions_cholesky=np.ones((1, 2)),
    )
    with pytest.raises(UserError, match="not a mixture with full covariances"):
        read_mixture(tmp_path / "diagonal.npz")


def test_a_reference_of_features_at_hand_is_the_one_of_a_stream(tmp_path, monkeypatch) -> None:
    """Its moments are computed once, and again only for a distance that is not stored."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=(700, 12)).astype(np.float32)
    monkeypatch.setattr(set_figures, "KEPT", 300)
    stream = collect("own", "x/v1", (row[None] for row in own), len(own), "0")
    for store in (None, ValueStore(tmp_path / "a")):
        found = of_features("own", "x/v1", own, "0", store)
        assert (found.count, found.width, found.described) == (700, 12, stream.described)
        assert found.moments_digest == stream.moments_digest == stream.moments().digest
        assert found.moments().digest == stream.moments_digest
        assert np.array_equal(found.features, stream.features)
        assert len(found.features) == 300
    store = ValueStore(tmp_path / "b")
    of_features("own", "x/v1", own, "0", store)
    store.keep()
    monkeypatch.setattr(set_figures, "moments_of", None)
    again = of_features("own", "x/v1", own, "0", ValueStore(tmp_path / "b"))
    assert again.moments_digest == stream.moments_digest


def test_distances_of_sets_are_computed_once(tmp_path, monkeypatch) -> None:
    """From the store they are equal to the bit, with their cautions; other features are computed."""
    rng = np.random.default_rng(0)
    results, own = (rng.normal(size=(3 * GROUPS, 70)).astype(np.float32) for _ in range(2))
    reference = collect("own", "x/v1", (row[None] for row in own), len(own), "0")
    column = ReportColumn("frechet", "Fréchet", "down", "frechet/x/v1")
    calls: list[int] = []
    for name in ("frechet_to", "kernel_distance"):
        function = getattr(set_figures, name)
        spy = lambda *a, function=function, **k: calls.append(1) or function(*a, **k)  # noqa: E731
        monkeypatch.setattr(set_figures, name, spy)

    def figures(features: np.ndarray) -> tuple:
        store = ValueStore(tmp_path)
        return (
            frechet_figure(features, reference, column, store=store),
            kernel_figure(features, reference, column, store=store),
        )

    first = figures(results)
    assert len(calls) == 2
    assert figures(results) == first
    assert len(calls) == 2
    assert first[0] == frechet_figure(results, reference, column)  # without a store
    assert first[0][0].weak
    assert "60 pictures leave a covariance of 70 dimensions" in first[0][1][0]
    calls.clear()
    assert figures(results + 1) != first
    assert len(calls) == 2
