"""PIE-Bench: the real record, the border rule, the conventions of the table, and the command."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.nets import fill, save, tiny_clip
from evaluation.cli import main
from evaluation.measures import features, metrics
from evaluation.measures.dino import DinoGeometry, DinoKeys
from evaluation.measures.lpips import Lpips
from evaluation.pie.piebench import decode_mask, read_bench
from evaluation.reports.published import published_rows
from evaluation.scoring.report import ReportColumn
from evaluation.scoring.result_files import named_format
from intarsia.errors import UserError
from sampling.pictures import read_picture
from tests.paths import ROOT, SHARED_DATA

REAL = SHARED_DATA / "piebench"


@pytest.mark.parametrize("folder", [REAL] if REAL.is_dir() else [])
def test_the_real_record_decodes_to_the_given_mask(folder: Path) -> None:
    [case] = read_bench(folder)
    wanted = np.asarray(Image.open(folder / "000000000001_mask_decoded.png")) > 0
    assert (case.edit_mask == wanted).all()
    assert case.edit_mask.sum() == 82_730
    assert case.target_prompt == "a square cake with orange frosting on a wooden plate"
    assert (case.category, case.image_path) == ("0", "0_random_140/000000000001.jpg")


def test_the_border_is_always_edited_and_runs_stop_at_the_end() -> None:
    mask = decode_mask([], 5)
    assert mask.sum() == 16
    assert not mask[1:4, 1:4].any()
    assert decode_mask([12, 1], 5)[2, 2]  # row-major
    assert (decode_mask([7, 1, 24, 1000], 5)[1:4, 1:4].nonzero()[0] == [0]).all()
    with pytest.raises(ValueError, match="3 entries are no pairs"):
        decode_mask([1, 2, 3], 5)
    with pytest.raises(ValueError, match="outside of 5 × 5"):
        decode_mask([25, 1], 5)


def test_a_bad_record_is_named(tmp_path) -> None:
    record = {"image_path": "a.jpg", "original_prompt": "x", "editing_prompt": "y", "mask": []}
    file = tmp_path / "mapping_file.json"
    file.write_text(json.dumps({"7": record}))
    with pytest.raises(UserError, match=r"mapping_file.json, record 7: KeyError\('editing_type_id'\)"):
        read_bench(tmp_path)
    file.write_text(json.dumps({"7": record | {"editing_type_id": "12"}}))
    with pytest.raises(UserError, match=r"record 7: KeyError\('12'\)"):
        read_bench(tmp_path)
    file.write_text("[]")
    with pytest.raises(UserError, match="has no records"):
        read_bench(tmp_path)


def photo(name: str) -> Image.Image:
    return Image.open(ROOT / "examples/coco-mini/images" / name).convert("RGB").resize((512, 512))


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Path:
    """Three records on bundled pictures: two categories, the third's mask covers everything."""
    folder = tmp_path_factory.mktemp("pie")
    names = sorted(path.name for path in (ROOT / "examples/coco-mini/images").iterdir())[:3]
    records = {}
    for number, name in enumerate(names):
        source = folder / "annotation_images" / "1_change" / f"{number:012}.jpg"
        source.parent.mkdir(parents=True, exist_ok=True)
        photo(name).save(source, quality=95)
        runs = [0, 512**2] if number == 2 else [512 * row + 100 for row in range(150, 300)]
        if number != 2:
            runs = [value for start in runs for value in (start, 200)]
        records[f"{number:012}"] = {
            "image_path": f"1_change/{number:012}.jpg",
            "original_prompt": "a [cat] on a mat",
            "editing_prompt": "a [dog] on a mat",
            "editing_type_id": str(1 + number % 2),
            "mask": runs,
        }
    (folder / "mapping_file.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def results(bench: Path) -> Path:
    """Results with a changed middle; one as a strip of two pictures, one under its key."""
    folder = bench.parent / f"{bench.name}-results"
    rng = np.random.default_rng(0)
    for number, source in enumerate(sorted((bench / "annotation_images").rglob("*.jpg"))):
        pixels = read_picture(source).astype(np.int64)
        pixels[150:300, 100:300] = rng.integers(0, 256, 3)
        pixels += rng.integers(-6, 7, pixels.shape)
        picture = pixels.clip(0, 255).astype(np.uint8)
        path = folder / (f"1_change/{source.stem}.png" if number else f"{source.stem}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        strip = np.concatenate([np.zeros_like(picture), picture], 1) if number == 1 else picture
        Image.fromarray(strip).save(path)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A folder of random weights under the usual names."""
    folder = tmp_path_factory.mktemp("weights")
    tiny_clip(folder / "clip-vit-large-patch14")
    dino = DinoKeys(DinoGeometry(width=64, depth=2, heads=1))
    backbone = Lpips("squeeze").features
    for module in (dino, backbone):
        fill(module)
    save(dino, folder / "dino_vitbase8_pretrain.pth")
    save(backbone, folder / "squeezenet1_1-b8a52dc0.pth", "features.")
    return folder


def run(bench: Path, results: Path, weights: Path, *more: str) -> int:
    store = str(results.parent / f"{results.name}-store")
    given = ["--bench", str(bench), "--results", str(results), "--weights", str(weights), "--store", store]
    return main(["piebench", *given, "--device", "cpu", *more])


def test_the_table_holds_what_the_conventions_say(bench, results, weights, tmp_path, capsys) -> None:
    assert run(bench, results, weights, "--out", str(tmp_path)) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^change object +2 ", shown, re.MULTILINE)
    assert "Direct Inversion + P2P" in shown
    assert "lpips-squeeze-0.1/last512-background-blank/v1@" in shown
    report = json.loads((tmp_path / "report.json").read_text())
    cases = report["rows"]
    case, key = read_bench(bench)[1], "000000000001"
    source = read_picture(bench / "annotation_images" / case.image_path)
    result = read_picture(results / "1_change" / f"{key}.png")[:, -512:]
    a, b = (metrics.blank(picture, case.edit_mask) for picture in (source, result))
    assert cases[key]["mse"] == pytest.approx(1e4 * metrics.mse(a, b))
    assert cases[key]["psnr"] == pytest.approx(metrics.psnr(a, b))
    assert cases[key]["ssim"] == pytest.approx(100 * metrics.ssim(a, b, channels="rgb"))
    given = {"folder": weights}
    lpips = features.lpips("squeeze", "whole", given)
    [perceived] = lpips.network.run(lpips.prepare(a, b)[None])
    assert cases[key]["lpips"] == pytest.approx(1e3 * float(perceived), rel=1e-4)
    structure = features.structure("published", given)
    keys = structure.network.run(structure.prepare(source, result)[None])[0]
    distance = metrics.structure_distance(*keys)
    assert cases[key]["structure_distance"] == pytest.approx(1e3 * distance, rel=1e-3)
    clip = features.clip("clip-l14", given)
    [text] = clip.texts(["a dog on a mat"])
    for column, picture in (("whole", result), ("edited", metrics.blank(result, ~case.edit_mask))):
        image = clip.whole.network.run(clip.whole.prepare(picture)[None])[0]
        similarity = float(metrics.text_similarity(image, text))
        assert cases[key][f"clip_{column}"] == pytest.approx(similarity, abs=1e-3)
    covered = cases["000000000002"]
    assert covered["mse"] is None  # nothing is background there
    assert covered["clip_edited"] == pytest.approx(covered["clip_whole"])
    both = [cases[f"{number:012}"]["mse"] for number in (0, 1)]
    assert report["averages"]["all"]["mse"][0] == pytest.approx(np.mean(both))
    assert report["averages"]["all"]["count"] == 3
    lines = (tmp_path / "cases.csv").read_text().splitlines()
    assert lines[0].startswith("key,category,structure_distance,psnr")
    assert len(lines) == 4


def test_a_second_run_decodes_nothing_and_gives_the_same(
    bench, results, weights, capsys, monkeypatch
) -> None:
    assert run(bench, results, weights) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr("evaluation.scoring.scoring.read_picture", None)  # whoever decodes, fails
    assert run(bench, results, weights) == 0
    assert capsys.readouterr().out == first


def test_structure_right_is_another_recipe(bench, results, weights, capsys) -> None:
    assert run(bench, results, weights, "--structure", "right") == 0
    assert "structure-dino-b8-key11/last512-antialias224/v1@" in capsys.readouterr().out


def test_missing_results_are_refused_or_counted(bench, results, weights, tmp_path, capsys) -> None:
    shutil.copytree(results, tmp_path / "some")
    (tmp_path / "some/000000000000.png").unlink()
    assert run(bench, tmp_path / "some", weights) == 1
    assert "lacks 1 of 3 results (first 1_change/000000000000.jpg)" in capsys.readouterr().err
    assert run(bench, tmp_path / "some", weights, "--only-present") == 0
    assert "1 of 3 results are missing: not comparable" in capsys.readouterr().out
    assert run(bench, tmp_path / "none", weights, "--only-present") == 1


def test_a_result_of_another_size_is_named(bench, results, weights, tmp_path, capsys) -> None:
    shutil.copytree(results, tmp_path / "small")
    Image.new("RGB", (256, 256)).save(tmp_path / "small/000000000000.png")
    assert run(bench, tmp_path / "small", weights) == 1
    message = capsys.readouterr().err
    assert "small/000000000000.png: the picture is 256 × 256 pixels; PIE-Bench needs 512 × 512" in message


def test_missing_weights_are_told_before_any_work(bench, results, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "empty").mkdir()
    assert run(bench, results, tmp_path / "empty") == 1
    assert "DINO ViT-B/8 (dino_vitbase8_pretrain.pth) is not on this machine" in capsys.readouterr().err


def test_the_published_rows_are_the_given_table() -> None:
    rows = published_rows("PIE-Bench")
    assert len(rows) == 11
    columns = ("structure_distance", "psnr", "lpips", "mse", "ssim", "clip_whole", "clip_edited")
    assert {tuple(row.values) for row in rows} == {columns}


@pytest.mark.parametrize("table", [REAL / "published/table1.csv"] if REAL.is_dir() else [])
def test_they_hold_its_digits(table: Path) -> None:
    with table.open() as file:
        printed = [[float(value) for value in line[2:]] for line in list(csv.reader(file))[1:]]
    assert [list(row.values.values()) for row in published_rows("PIE-Bench")] == printed


def test_dino_of_any_size_is_read_off_its_weights() -> None:
    from evaluation.measures.dino import load_dino

    network = DinoKeys(DinoGeometry(width=128, depth=3, heads=2, patch=16, size=64))
    fill(network)
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (load_dino(network.state_dict(), "x")(pixels) == network(pixels)).all()
    with pytest.raises(UserError, match="lacks pos_embed; give weights of a DINO"):
        load_dino({"x": torch.zeros(1)}, "x")


@pytest.mark.parametrize("field", ["editing_prompt", "original_prompt", "image_path"])
@pytest.mark.parametrize("value", [None, 7, ["a"]])
def test_a_field_that_is_not_a_text_is_named(tmp_path, field, value) -> None:
    record = {"image_path": "a.jpg", "original_prompt": "x", "editing_prompt": "y", "mask": []}
    content = {"7": record | {"editing_type_id": "1", field: value}}
    (tmp_path / "mapping_file.json").write_text(json.dumps(content))
    message = rf"record 7: {field} is {re.escape(json.dumps(value))}; it must be a text, as PIE-Bench has it"
    with pytest.raises(UserError, match=message):
        read_bench(tmp_path)


def test_two_results_of_one_case_are_refused(bench, results, weights, tmp_path, capsys) -> None:
    for name in ("1_change/000000000001.jpg", "000000000001.webp", "1_change/000000000001.webp"):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(results, folder)
        Image.new("RGB", (512, 512)).save(folder / name)
        assert run(bench, folder, weights) == 1
        error = capsys.readouterr().err
        assert "2 results of case 000000000001: 1_change/000000000001.png and" in error
        assert f"{name}; keep one" in error


def identities(bench: Path, folder: Path, ending: str, **options) -> Path:
    """Results that change nothing, in one of the formats."""
    for number, source in enumerate(sorted((bench / "annotation_images").rglob("*.jpg"))):
        path = folder / f"{source.stem}{ending}"
        folder.mkdir(exist_ok=True)
        pixels = read_picture(source)
        strip = np.concatenate([pixels] * 4, 1) if number == 1 else pixels
        Image.fromarray(strip).save(path, **options)
    return folder


def test_the_format_of_results_is_part_of_the_recipe(bench, weights, tmp_path, capsys) -> None:
    """An edit that changes nothing is far from perfect in the published JPEG, but stood beside it."""
    found = {}
    for name, ending, options, more in (
        ("png", ".png", {}, ()),
        ("jpeg75", ".jpg", {}, ()),
        ("again", ".png", {}, ("--recompress", "published")),
        ("kept", ".jpg", {}, ("--recompress", "published")),
        ("fine", ".jpg", {"quality": 95}, ()),
        ("full", ".jpg", {"subsampling": "4:4:4"}, ()),
    ):
        folder = identities(bench, tmp_path / name, ending, **options)
        assert run(bench, folder, weights, *more) == 0
        shown = capsys.readouterr().out
        content = json.loads((folder / "report/report.json").read_text())
        recipes = {column["name"]: column["recipe"] for column in content["columns"]}
        found[name] = recipes["psnr"], [row["psnr"] for row in content["rows"].values()]
        published = name in ("jpeg75", "again", "kept")
        assert recipes["psnr"].endswith(" of jpeg75 results") == published
        assert ("; here psnr/last512-background-blank/v1 of" in shown) != published
    assert found["png"][0].endswith("of png results")
    assert found["fine"][0].endswith("of jpeg q95 4:2:0 results")
    assert found["full"][0].endswith("of jpeg q75 4:4:4 results")
    assert found["png"][1][:2] == ["inf", "inf"]
    assert found["jpeg75"] == found["again"] == found["kept"]  # also of a strip
    assert all(value < 45 for value in found["jpeg75"][1][:2])


@pytest.mark.parametrize("size", [(1024, 1024), (256, 256), (2048, 1024)])
def test_results_of_another_size_can_be_resized_as_another_recipe(
    bench, weights, tmp_path, size, capsys
) -> None:
    folder = identities(bench, tmp_path / "results", ".png")
    for path in folder.iterdir():
        Image.open(path).convert("RGB").crop((0, 0, 512, 512)).resize((size[1], size[1])).resize(size).save(
            path
        )
    assert run(bench, folder, weights) == 1
    assert "PIE-Bench needs 512 × 512, or --resize" in capsys.readouterr().err  # a strip was cut to a corner
    assert run(bench, folder, weights, "--resize") == 0
    assert "psnr/last512-background-blank/v1 of png results resized by bicubic512" in capsys.readouterr().out


def named(folder: Path, *saved: tuple[str, int, dict], recompress: bool = False, resize: bool = False) -> str:
    """The recipe of results that are saved so: ending, side and options of each."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, (ending, side, options) in enumerate(saved):
        paths.append(folder / f"{number}.{ending}")
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[-1], **options)
    [column] = named_format([ReportColumn("psnr", "PSNR", "up", "psnr/v1")], paths, recompress, resize)
    return column.recipe.removeprefix("psnr/v1 of ")


def test_formats_and_sizes_that_decide_numbers_have_names_of_their_own(tmp_path) -> None:
    png, jpeg, best = ("png", 64, {}), ("jpg", 64, {}), ("webp", 64, {"lossless": True})
    assert named(tmp_path, png, png) == "png results"
    assert named(tmp_path, jpeg) == "jpeg75 results"
    assert named(tmp_path, jpeg, png, recompress=True) == "jpeg75 results"
    assert named(tmp_path, best) == "webp lossless results"
    fine, poor = ({"quality": quality} for quality in (95, 10))
    assert named(tmp_path, ("jpg", 64, fine)) == "jpeg q95 4:2:0 results"
    assert named(tmp_path, ("jpg", 64, poor)) == "jpeg q10 4:2:0 results"
    assert named(tmp_path, ("jpg", 64, poor), recompress=True) == "jpeg q10 4:2:0 then jpeg75 results"
    own = [("jpg", 64, {"qtables": [[value] * 64] * 2}) for value in (3, 9)]
    assert named(tmp_path, own[0]) != named(tmp_path, own[1])
    assert named(tmp_path, png, jpeg, jpeg, jpeg) == "3 jpeg75 and 1 png results"
    assert named(tmp_path, jpeg, png, png, png) == "1 jpeg75 and 3 png results"
    webp = [named(tmp_path, ("webp", 64, {"quality": quality})) for quality in (5, 90)]
    assert webp[0] != webp[1]  # no quality in the file: comparable with itself alone
    assert all(name.startswith("webp #") for name in webp)
    again = named(tmp_path, ("webp", 64, {"quality": 5}), recompress=True)
    assert re.fullmatch(r"webp #\w{12} then jpeg75 results", again)
    whole, small, tiny = ("png", 512, {}), ("png", 256, {}), ("png", 32, {})
    assert named(tmp_path, whole, resize=True) == "png results resized by bicubic512"
    assert named(tmp_path, small, resize=True) == "png results resized by bicubic512 from 256"
    assert named(tmp_path, tiny, resize=True) == "png results resized by bicubic512 from 32"
    mixed = named(tmp_path, tiny, whole, whole, resize=True)
    assert mixed == "png results resized by bicubic512 from 1 of 32 and 2 of 512"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_path", "/elsewhere/a.jpg", "it must be a path below annotation_images"),
        ("image_path", "../a.jpg", "it must be a path below annotation_images"),
        ("mask", [10**30, 1], "a run is outside of 512 × 512 pixels"),
    ],
)
def test_a_path_or_a_run_outside_is_named(tmp_path, field, value, message) -> None:
    record = {"image_path": "a.jpg", "original_prompt": "x", "editing_prompt": "y", "mask": []}
    content = {"7": record | {"editing_type_id": "1", field: value}}
    (tmp_path / "mapping_file.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"record 7: .*{message}"):
        read_bench(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_only_present_leaves_out_broken_results(bench, results, weights, tmp_path, content, capsys) -> None:
    shutil.copytree(results, tmp_path / "some")
    path = tmp_path / "some/000000000000.png"
    path.write_bytes(path.read_bytes()[:-60] if content is None else content)
    assert run(bench, tmp_path / "some", weights) == 1
    capsys.readouterr()
    assert run(bench, tmp_path / "some", weights, "--only-present") == 0
    shown = capsys.readouterr().out
    assert "1 of 3 results are missing: not comparable" in shown
    assert f"left out: 000000000000: {path}" in shown
