"""Numbers stand beside others only if they were made alike: statistics, weights, references."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.nets import tiny_clip
from evaluation.cli import main
from evaluation.measures import features
from evaluation.measures.measures import Measure, Network
from evaluation.measures.weights import WEIGHT_SOURCES, find_weights, is_published
from evaluation.reports.compare import differences
from evaluation.reports.published import published_rows
from evaluation.reports.tables import all_columns
from evaluation.scoring.moments import Origin, moments_of, read_moments
from evaluation.scoring.references import load_references
from evaluation.scoring.report import Report, ReportColumn, read_report, write_report
from intarsia.errors import UserError
from intarsia.files import sha256_file
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
    figure, *_ = json.loads((out / "report.json").read_text())["figures"]
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
    assert re.search(r"Paint by Example .*3\.18 ≠", capsys.readouterr().out)


def test_statistics_of_another_width_are_named(small, weights, tmp_path, capsys) -> None:
    path = tmp_path / "narrow.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    assert cocoee(small, weights, tmp_path, "--reference", f"clip={path}") == 1
    message = (
        "CLIP Fréchet: the reference narrow has statistics of 3 dimensions, and the results have features"
    )
    assert message in capsys.readouterr().err


def test_formats_of_results_that_are_no_png_in_spite_of_their_names_are_in_each_recipe(
    small, weights, tmp_path
) -> None:
    """The losses of a JPEG file called KEY.png stood beside those of true PNG files without a mark."""
    bench, results = small
    shutil.copytree(results, tmp_path / "mixed")
    first = min((tmp_path / "mixed").glob("*.png"))
    Image.open(first).save(first, format="JPEG", quality=75)
    reports = []
    for folder in (results, tmp_path / "mixed"):
        assert cocoee((bench, folder), weights, tmp_path / "out") == 0
        reports.append(read_report(tmp_path / "out"))
    plain, mixed = (all_columns(report) for report in reports)
    assert [column.recipe for column in mixed] == [
        f"{column.recipe} of 1 jpeg75 and 5 png results" for column in plain
    ]
    assert all(difference.unlike.startswith("recipes differ") for difference in differences(*reports))


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


def test_statistics_of_another_resizing_are_refused_by_the_clean_distance(tmp_path, capsys) -> None:
    """The distance between two resizings was called clean FID, and clean statistics served the other FID."""
    measures = {}
    for how in ("bilinear299", "clean299", "middle512-bilinear299"):
        network = Network("inception", "abc", lambda pixels: pixels)
        measures[how] = Measure(f"inception/{how}/v1", np.asarray, network)
        moments = replace(
            moments_of([np.eye(3)]), origin=Origin(measures[how].identity, "0", ("a", "b", "c"))
        )
        moments.save(tmp_path / f"{how}.npz")

    def recipe(statistics: str, look: str) -> str:
        given = {"inception": tmp_path / f"{statistics}.npz"}
        found = load_references(given, {"inception": measures[look]}, lambda cases, what: iter(()))
        return found["inception"].recipe

    assert recipe("clean299", "clean299") == "inception/clean299/v1@abc"
    assert recipe("bilinear299", "middle512-bilinear299") == "inception/bilinear299/v1@abc"
    for statistics, look in (("bilinear299", "clean299"), ("clean299", "middle512-bilinear299")):
        with pytest.raises(UserError, match=f"statistics of inception/{statistics}/.* and the results have"):
            recipe(statistics, look)
    assert main(["fid", str(tmp_path / "bilinear299.npz"), str(tmp_path / "clean299.npz")]) == 1
    assert "give features of one network, weights and resizing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mu", "sigma", "recipe", "digest", "pictures"])
def test_statistics_that_were_edited_are_refused(tmp_path, name) -> None:
    origin = Origin("clip-b32/bicubic224/v1@0", "0" * 12, ("a", "b", "c"))
    moments = replace(moments_of([np.random.default_rng(0).normal(size=(3, 4))]), origin=origin)
    moments.save(tmp_path / "s.npz")
    assert read_moments(tmp_path / "s.npz").origin == origin
    with np.load(tmp_path / "s.npz") as file:
        arrays = dict(file)
    own = arrays[name]
    change = np.eye(4) if own.ndim == 2 else 1.0
    edited = own + change if own.dtype.kind == "f" else np.char.add(own, "x")
    np.savez(tmp_path / "t.npz", **arrays | {name: edited})
    with pytest.raises(UserError, match=r"t.npz was changed after it was written: .* compute the statistics"):
        read_moments(tmp_path / "t.npz")
    del arrays["numbers"]  # as earlier versions wrote it
    np.savez(tmp_path / "old.npz", **arrays)
    assert read_moments(tmp_path / "old.npz").origin == origin


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
    assert "give statistics of the same network, weights and resizing" in capsys.readouterr().err
    assert fid(small, weights, str(path), str(bench / "GT_3500"), "--features", "clip-b32") == 1
    assert "give features of one network, weights and resizing" in capsys.readouterr().err
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


def test_a_mixture_is_named_by_its_numbers_and_must_fit_clip(small, weights, tmp_path, capsys) -> None:
    with np.load(weights / "coco-mixture.npz") as file:
        arrays = dict(file)
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    asked = ["--without", "lpips", "--weights", f"mixture={tmp_path / 'small.npz'}"]
    recipes = []
    for more in ([], asked[2:]):
        assert cocoee(small, weights, tmp_path, "--without", "lpips", *more) == 0
        columns = read_report(tmp_path).columns
        recipes.append(next(column.recipe for column in columns if column.name == "quality_score"))
    assert recipes[0] == recipes[1]
    means, roots = np.zeros((3, 16)), np.stack([np.eye(16)] * 3)
    np.savez(tmp_path / "small.npz", weights=arrays["weights"], means=means, precisions_cholesky=roots)
    assert cocoee(small, weights, tmp_path, *asked) == 1
    message = "is a mixture of 16 dimensions, and CLIP's features have 8; give the mixture of this CLIP"
    assert message in capsys.readouterr().err


def test_weights_are_compared_with_what_is_published(small, weights, tmp_path, monkeypatch, capsys) -> None:
    """Random weights stood beside published rows as if they were OpenAI's."""
    assert cocoee(small, weights, tmp_path) == 0
    shown = capsys.readouterr().out
    assert "@~" in frechet_recipe(tmp_path)
    assert re.search(
        r"quality score.*: weights that are not on the list of published files \(@~ in the", shown
    )
    assert re.search(r"Paint by Example .*84\.97 ≠", shown)
    assert "check yourself that weights, reference set and cases are the publishers'" in shown
    hashes = (sha256_file(weights / "clip-vit-base-patch32" / "model.safetensors"),)
    listed = replace(WEIGHT_SOURCES["clip-b32"], hashes=hashes)
    monkeypatch.setitem(WEIGHT_SOURCES, "clip-b32", listed)
    assert cocoee(small, weights, tmp_path) == 0
    assert "@~" in frechet_recipe(tmp_path)  # the file, but not the network
    capsys.readouterr()
    monkeypatch.setattr(features, "is_published_clip", lambda *network: True)
    assert cocoee(small, weights, tmp_path, "--store", str(tmp_path / "store")) == 0
    shown = capsys.readouterr().out
    assert "@~" not in frechet_recipe(tmp_path)
    assert "quality score: weights that are not on the list" in shown  # the mixture has no published hash
    assert "check yourself" in shown


def test_file_names_with_a_hash_give_the_hash_to_compare_with() -> None:
    for source in WEIGHT_SOURCES.values():
        if digits := re.search(r"-([0-9a-f]{8})\.pth$", source.file):
            assert source.hashes == (digits[1],)
        assert all(re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", hash) for hash in source.hashes)


def test_the_linear_weights_of_lpips_are_the_published_ones() -> None:
    for net in ("alex", "vgg", "squeeze"):
        assert is_published(f"lpips-{net}", find_weights(f"lpips-{net}"))


def test_another_activation_is_another_network(tmp_path) -> None:
    fingerprints = []
    for activation in ("quick_gelu", "gelu"):
        folder = tiny_clip(tmp_path / activation)
        config = json.loads((folder / "config.json").read_text())
        for part in ("text_config", "vision_config"):
            config[part]["hidden_act"] = activation
        (folder / "config.json").write_text(json.dumps(config))
        fingerprints.append(features.clip("clip-b32", {"clip-b32": folder}).whole.identity)
    assert fingerprints[0] != fingerprints[1]


def test_a_report_of_an_earlier_version_stands_beside_nothing(tmp_path) -> None:
    [ours, *_] = published_rows("COCOEE")
    rows = {f"{i:012}": {"clip_score": 80.0} for i in range(3500)}
    column = ReportColumn(
        "clip_score", "CLIP score", "up", ours.methods["clip_score"].replace("/v1", "/v1@0f0f")
    )
    path = write_report(Report("COCOEE", "x", 3500, [column], rows), tmp_path)
    assert ours.unlike(column, read_report(path)) == ""
    content = json.loads(path.read_text())
    del content["weights_checked"]
    path.write_text(json.dumps(content))
    assert "of an earlier version, which did not check weights" in ours.unlike(column, read_report(path))


@pytest.mark.parametrize("lost", [("vocab.json",), ("merges.txt",), ("vocab.json", "merges.txt")])
def test_a_clip_folder_without_its_tokenizer_is_named(tmp_path, lost) -> None:
    folder = tiny_clip(tmp_path / "clip")
    for name in lost:
        (folder / name).unlink()
    clip = features.clip("clip-l14", {"clip-l14": folder})
    with pytest.raises(UserError, match=r"clip has no tokenizer .* give a whole folder of CLIP"):
        clip.texts(["a dog"])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": "b"}'])
def test_a_damaged_tokenizer_is_named(tmp_path, content) -> None:
    folder = tiny_clip(tmp_path / "clip")
    (folder / "vocab.json").write_text(content)
    clip = features.clip("clip-l14", {"clip-l14": folder})
    with pytest.raises(UserError, match=r"clip: the tokenizer cannot be read .* give a whole folder of CLIP"):
        clip.texts(["a dog"])


def test_a_long_prompt_is_cut_where_the_tokenizer_has_no_config(tmp_path) -> None:
    clip = features.clip("clip-l14", {"clip-l14": tiny_clip(tmp_path / "clip")})
    texts = clip.texts(["a " * 40, "a " * 90, "dog " * 200])
    assert len(texts) == 3
    assert np.isfinite(texts).all()
