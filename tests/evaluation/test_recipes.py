"""Numbers stand beside others only if they were made alike: statistics, weights, references."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.cli import main
from tests.evaluation.exemplar_bench import WIDTH, write_bench, write_results, write_weights

TEST2017 = 40_670


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("recipes")
    bench = write_bench(folder / "bench")
    return bench, write_results(bench, folder / "results", 5)


def cocoee(small: tuple[Path, Path], weights: Path, out: Path, *more: str) -> int:
    bench, results = small
    files = ["--bench", str(bench), "--results", str(results), "--out", str(out)]
    machine = ["--weights", str(weights), "--store", str(results.parent / "store"), "--device", "cpu"]
    return main(["cocoee", *files, *machine, "--without", "inception", *more])


def fid(small: tuple[Path, Path], weights: Path, *words: str) -> int:
    store = ["--weights", str(weights), "--store", str(small[1].parent / "store"), "--device", "cpu"]
    return main(["fid", *words, *store])


def frechet_recipe(out: Path) -> str:
    [figure] = json.loads((out / "report.json").read_text())["figures"]
    return figure["column"]["recipe"]


def statistics(path: Path, **changes: np.ndarray) -> Path:
    arrays = {"mu": np.zeros(WIDTH), "sigma": np.eye(WIDTH), "count": np.array(TEST2017)}
    np.savez(path, **arrays | changes)
    return path


@pytest.mark.parametrize("name", ["st.npz", "test2017.npz", "a#b@c.npz"])
def test_statistics_without_a_recipe_are_of_an_unknown_one(small, weights, tmp_path, name, capsys) -> None:
    """Zeros and an identity of 40,670 pictures were "test2017", and stood beside 3.18."""
    path = statistics(tmp_path / name)
    assert cocoee(small, weights, tmp_path, "--reference", f"clip={path}") == 0
    recipe = frechet_recipe(tmp_path)
    assert "unknown recipe" in recipe
    assert " to test2017" not in recipe
    assert "middle512" not in recipe
    assert re.search(r"Paint by Example +3\.18 ≠", capsys.readouterr().out)


def test_statistics_keep_the_recipe_that_made_them(small, weights, tmp_path, capsys) -> None:
    bench, _ = small
    recipes = []
    for kind in ("clip-b32", "clip-b32-test2017"):
        path = tmp_path / f"{kind}.npz"
        words = [str(bench / "GT_3500"), str(bench / "Ref_3500"), "--features", kind, "--save", str(path)]
        assert fid(small, weights, *words) == 0
        assert cocoee(small, weights, tmp_path / kind, "--reference", f"clip={path}") == 0
        recipes.append(frechet_recipe(tmp_path / kind).partition(" to ")[2])
        with np.load(path) as saved:
            assert list(saved["pictures"]) == sorted(p.name for p in (bench / "GT_3500").iterdir())
    assert "clip-b32/bicubic224/v1@" in recipes[0]  # was called middle512
    assert "clip-b32/middle512-bicubic224/v1@" in recipes[1]
    assert cocoee(small, weights, tmp_path / "f", "--reference", f"clip={bench / 'GT_3500'}") == 0
    folder = frechet_recipe(tmp_path / "f").partition(" to ")[2]
    assert folder.replace("GT_3500", "clip-b32-test2017") == recipes[1]  # the same set, by its contents
    capsys.readouterr()
    assert (
        fid(small, weights, str(tmp_path / "clip-b32.npz"), str(bench / "GT_3500"), "--features", "clip-b32")
        == 0
    )
    assert "clip-b32.npz: statistics, clip-b32/bicubic224/v1@" in capsys.readouterr().out
    unknown = statistics(tmp_path / "other.npz")
    assert fid(small, weights, str(unknown), str(unknown)) == 0
    told = capsys.readouterr()
    assert f"{unknown}: statistics, unknown recipe" in told.out
    assert "the distance is comparable with no other" in told.err


def test_statistics_of_another_network_are_refused(small, weights, tmp_path, capsys) -> None:
    bench, _ = small
    origin = {
        "recipe": "clip-b32/middle512-bicubic224/v1@000000000000",
        "digest": "0" * 12,
        "pictures": ["a", "b"],
    }
    arrays = {name: np.array(value) for name, value in origin.items()}
    path = statistics(tmp_path / "theirs.npz", count=np.array(2), **arrays)
    assert cocoee(small, weights, tmp_path, "--reference", f"clip={path}") == 1
    assert "give statistics of the same network and weights" in capsys.readouterr().err
    assert fid(small, weights, str(path), str(bench / "GT_3500"), "--features", "clip-b32") == 1
    assert "give features of one network and weights" in capsys.readouterr().err
    short = statistics(tmp_path / "short.npz", **arrays)
    assert fid(small, weights, str(short), str(short)) == 1
    assert (
        "do not fit 40,670 pictures; compute the statistics again with `fid --save`"
        in capsys.readouterr().err
    )


def test_two_references_of_one_name_are_two(small, weights, tmp_path) -> None:
    recipes = []
    for number in range(2):
        folder = tmp_path / str(number) / "pictures"
        folder.mkdir(parents=True)
        for place in range(3):
            Image.new("RGB", (40, 40), (80 * number, 80 * place, 7)).save(folder / f"{place}.png")
        assert cocoee(small, weights, tmp_path / "out", "--reference", f"clip={folder}") == 0
        recipes.append(frechet_recipe(tmp_path / "out"))
    assert recipes[0] != recipes[1]


_SKEW = np.eye(WIDTH) + np.triu(np.ones((WIDTH, WIDTH)), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": -np.eye(WIDTH)}, "sigma has the negative eigenvalue -1, so it is not a covariance"),
        ({"sigma": _SKEW}, "sigma is not symmetric (entries differ from their mirror images by up to 1)"),
        ({"sigma": np.diag([1.0] * (WIDTH - 1) + [-0.1])}, "negative eigenvalue -0.1"),
        ({"sigma": np.ones((WIDTH, WIDTH)) - np.eye(WIDTH)}, "negative eigenvalue -1"),
        ({"count": np.array(-3)}, "count must be a whole number of pictures"),
        ({"count": np.array([1, 2])}, "count must be a whole number of pictures"),
        ({"mu": np.array(["x"] * WIDTH)}, "mu has values of type <U1; real numbers are needed"),
        ({"sigma": np.eye(WIDTH) * 1j}, "sigma has values of type complex128; real numbers are needed"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "are not statistics; [D] and [D, D] are needed"),
    ],
)
def test_what_is_not_a_covariance_is_refused(small, weights, tmp_path, changes, message, capsys) -> None:
    path = statistics(tmp_path / "bad.npz", **changes)
    good = statistics(tmp_path / "good.npz")
    assert fid(small, weights, str(path), str(good)) == 1
    assert message in capsys.readouterr().err


def test_statistics_in_single_precision_are_read(small, weights, tmp_path, capsys) -> None:
    rows = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32)  # rank 4 of 8
    path = statistics(
        tmp_path / "f.npz", mu=rows.mean(0), sigma=np.cov(rows, rowvar=False).astype(np.float32)
    )
    assert fid(small, weights, str(path), str(path)) == 0
    assert capsys.readouterr().out.startswith("Fréchet distance 0.0000")


@pytest.mark.parametrize(
    ("weights_of", "message"),
    [
        ([0.5, 0.5, 0.0], ""),
        ([1.0, 0.0, 0.0], ""),
        ([0.7, 0.7, -0.4], "weights from -0.4 with the sum 1 are not those of a mixture"),
        ([0.5, 0.1, 0.1], "weights from 0.1 with the sum 0.7 are not those of a mixture"),
        ([0.5, float("nan"), 0.5], "has NaN or infinity; convert the mixture again"),
    ],
)
def test_a_component_without_weight_adds_nothing(small, tmp_path, weights_of, message, capsys) -> None:
    folder = write_weights(tmp_path / "weights")
    path = folder / "coco-mixture.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"weights": np.array(weights_of)})
    assert cocoee(small, folder, tmp_path) == (1 if message else 0)
    assert message in capsys.readouterr().err
