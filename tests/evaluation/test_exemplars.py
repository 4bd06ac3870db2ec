"""COCOEE and lists of one's own: the numbers are those of the functions, and nothing is decoded twice."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from evaluation.benches.run import made_with
from evaluation.cli import main
from evaluation.measures import features, metrics
from evaluation.measures.measures import Measure, Network
from evaluation.metrics.evaluate import ScoringPlan, evaluate
from evaluation.metrics.frechet import CLIP_DISTANCES, INCEPTION_DISTANCES, distances
from evaluation.metrics.metric import EditCase
from evaluation.metrics.pixels import BACKGROUND_ERRORS
from evaluation.scoring import scoring
from evaluation.scoring.confidence import GROUPS
from evaluation.scoring.distributions import frechet_distance, quality_scores, read_mixture
from evaluation.scoring.moments import moments_of
from evaluation.scoring.scoring import score
from evaluation.scoring.store import ValueStore
from intarsia.weights import save_model
from sampling.pictures import read_mask, read_picture
from tests.evaluation.exemplar_bench import REAL, lay_out_real, write_bench, write_results, write_weights
from tests.sampling.tiny import tiny_model

MAKERS = [write_bench, *([lay_out_real] if REAL.is_dir() else [])]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("small")
    bench = write_bench(folder / "bench")
    return bench, write_results(bench, folder / "results", 5)


def run(command: list[str], results: Path, weights: Path, *more: str, without: str = "inception") -> int:
    store = str(results.parent / "store")
    common = ["--weights", str(weights), "--store", store, "--device", "cpu", "--without", without]
    return main([*command, "--results", str(results), *common, *more])


def read(results: Path) -> dict:
    return json.loads((results / "report" / "report.json").read_text())


@pytest.mark.parametrize("maker", MAKERS)
def test_the_numbers_are_those_of_the_functions(maker, weights, tmp_path, capsys) -> None:
    bench = maker(tmp_path / "bench")
    results = write_results(bench, tmp_path / "results", 5)
    assert run(["cocoee", "--bench", str(bench)], results, weights) == 0
    shown = capsys.readouterr().out
    report = read(results)
    keys = sorted(report["rows"])
    clip = features.clip("clip-b32", {"folder": weights})
    looks = {
        "pbe": clip.region("pbe"),
        "box": clip.region("bbox"),
        "exemplar": clip.exemplar,
        "whole": clip.whole,
    }

    def look(how: str, *arguments: np.ndarray) -> np.ndarray:
        return looks[how].network.run(looks[how].prepare(*arguments)[None])[0]

    mixture = read_mixture(weights / "coco-mixture.npz")
    seen: dict[str, list[np.ndarray]] = {"result": [], "image": []}
    for key in keys:
        image = read_picture(bench / f"GT_3500/{key}_GT.png")
        mask = read_mask(bench / f"Mask_bbox_3500/{key}_mask.png")
        result, row = read_picture(results / f"{key}.png"), report["rows"][key]
        exemplar = look("exemplar", read_picture(bench / f"Ref_3500/{key}_ref.png"))
        score_of = lambda how: float(metrics.clip_score(look(how, result, mask), exemplar))  # noqa: E731, B023
        assert row["clip_score"] == pytest.approx(score_of("pbe"), abs=1e-3)
        assert row["clip_score_box"] == pytest.approx(score_of("box"), abs=1e-3)
        seen["result"].append(look("whole", result))
        seen["image"].append(look("whole", image))
        quality = quality_scores(seen["result"][-1][None], mixture)[0]
        assert row["quality_score"] == pytest.approx(quality, abs=1e-2)
        assert row["background_mse"] == pytest.approx(1e4 * metrics.mse(result, image, ~mask))
        assert row["background_psnr"] == pytest.approx(metrics.psnr(result, image, ~mask))
        inner = metrics.inside(~mask)
        assert row["background_ssim"] == pytest.approx(100 * metrics.ssim(result, image, inner))
    distance = frechet_distance(*(moments_of([np.stack(seen[kind])]) for kind in ("result", "image")))
    frechet = report["figures"][0]
    assert frechet["value"] == pytest.approx(distance, rel=1e-3, abs=1e-5)
    assert "to the bench's own pictures" in frechet["column"]["recipe"]
    assert report["averages"]["all"]["clip_score"][0] == pytest.approx(
        np.mean([report["rows"][key]["clip_score"] for key in keys])
    )
    assert f"COCOEE, results: {len(keys)} of {len(keys)} cases" in shown
    assert "84.97 ≠" in shown  # never beside unlike numbers without saying so
    assert len((results / "report/cases.csv").read_text().splitlines()) == len(keys) + 1


def test_no_picture_is_decoded_twice(small, weights, tmp_path, monkeypatch, capsys) -> None:
    bench, results = small
    decoded: Counter = Counter()
    read_file = scoring.read_picture

    def counted(path):
        decoded[path] += 1
        return read_file(path)

    monkeypatch.setattr(scoring, "read_picture", counted)
    options = ["--store", str(tmp_path / "fresh"), "--out", str(tmp_path / "out")]
    assert run(["cocoee", "--bench", str(bench)], results, weights, *options) == 0
    assert set(decoded.values()) == {1}
    assert len(decoded) == 18  # six cases of a result, a picture and an exemplar
    decoded.clear()
    capsys.readouterr()
    assert run(["cocoee", "--bench", str(bench)], results, weights, *options) == 0
    assert not decoded


def test_another_reference_is_another_recipe(small, weights, tmp_path, capsys) -> None:
    bench, results = small
    command = ["cocoee", "--bench", str(bench)]
    out = ["--out", str(tmp_path / "a"), "--reference", str(bench / "Ref_3500")]
    assert run(command, results, weights, *out) == 0
    first = capsys.readouterr().out
    assert re.search(r"to Ref_3500#\w{12} \(6 pictures, clip-b32/middle512-bicubic224/v1@", first)
    statistics = tmp_path / "stats.npz"
    clip = features.clip("clip-b32", {"folder": weights})
    look = features.middle512(clip.whole)
    paths = sorted((bench / "Ref_3500").iterdir())
    rows = look.network.run(np.stack([look.prepare(read_picture(path)) for path in paths]))
    moments_of([rows]).save(statistics)
    assert (
        run(command, results, weights, "--out", str(tmp_path / "b"), "--reference", f"clip={statistics}") == 0
    )
    assert re.search(r"to stats#\w{12} \(6 pictures, unknown recipe\)", capsys.readouterr().out)
    values = [json.loads((tmp_path / n / "report.json").read_text())["figures"][0]["value"] for n in "ab"]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert run(command, results, weights, "--reference", str(statistics)) == 2
    assert "statistics need their features, as in clip=" in capsys.readouterr().err


def test_missing_files_are_refused_or_counted(small, weights, tmp_path, capsys) -> None:
    bench, results = small
    some = tmp_path / "some"
    some.mkdir()
    for path in sorted(results.glob("*.png"))[:4]:
        (some / path.name).write_bytes(path.read_bytes())
    command = ["cocoee", "--bench", str(bench)]
    assert run(command, some, weights) == 1
    assert "2 of 6 cases lack a file (first" in capsys.readouterr().err
    assert run(command, some, weights, "--only-present") == 0
    said = capsys.readouterr().out
    assert "2 of 6 results are missing: not comparable" in said
    lost = sorted(path.stem for path in results.glob("*.png"))[4:6]
    assert f"left out, for lack of a file: {', '.join(lost)}\n" in said
    assert run(command, tmp_path / "none", weights, "--only-present") == 1


def test_one_case_is_scored_without_distances_of_sets(small, weights, tmp_path, capsys) -> None:
    bench, results = small
    jobs = write_list(bench, tmp_path / "one.csv", truth=True)
    jobs.write_text("".join(jobs.read_text().splitlines(keepends=True)[:2]))
    assert run(["bench", str(jobs)], results, weights, "--out", str(tmp_path)) == 0
    assert "a single case has no distances between sets: they are left out" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert not any(figure["column"]["name"].startswith("frechet") for figure in report["figures"])
    assert len(report["rows"]) == 1
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 0
    assert "no interval: too few cases" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sort-by", "beauty"], "--sort-by beauty: there is no such column; valid: clip_score"),
        (["--cases", "000000000007,nope"], "--cases nope: COCOEE has no such case"),
    ],
)
def test_what_the_page_shows_is_checked_before_scoring(
    small, weights, tmp_path, words, message, monkeypatch, capsys
) -> None:
    bench, _ = small
    results = write_results(bench, tmp_path / "results", 5)
    monkeypatch.setattr(scoring, "read_picture", lambda path: pytest.fail("a picture was read"))
    assert run(["cocoee", "--bench", str(bench)], results, weights, *words) == 2
    assert message in capsys.readouterr().err


def test_missing_weights_name_the_file_its_source_and_the_options(small, weights, tmp_path, capsys) -> None:
    bench, results = small
    assert run(["cocoee", "--bench", str(bench)], results, weights, without="lpips") == 1
    message = capsys.readouterr().err
    for part in ("pt_inception-2015-12-05-6726825d.pth", "https://", "--weights inception=PATH"):
        assert part in message
    assert message.strip().endswith("--without inception leaves it out")
    assert message.count("\n") == 1


def test_a_run_looks_for_weights_before_its_first_edit(weights, tmp_path, capsys) -> None:
    bench = write_bench(tmp_path / "bench", count=1)
    save_model(tiny_model(6), tmp_path / "model")
    jobs = write_list(bench, tmp_path / "mine.csv", truth=False)
    for command in (["cocoee", "run", "--bench", str(bench)], ["bench", "run", str(jobs)]):
        command += ["--model", str(tmp_path / "model"), "--num-inference-steps", "1"]
        assert run(command, tmp_path / "out", weights, without="lpips") == 1
        assert "--without inception leaves it out" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


class Spy:
    """Inception's place: mean colours."""

    measure = Measure(
        "inception/mean/v1",
        lambda picture: picture.transpose(2, 0, 1).astype(np.float32),
        Network("inception", "w", lambda batch: batch.mean((2, 3))),
    )


def test_sets_have_replicates_that_leave_out_a_group_each(weights, tmp_path) -> None:
    bench = write_bench(tmp_path / "bench", count=3 * GROUPS, size=24)
    results = write_results(bench, tmp_path / "results", 5)
    cases = [
        EditCase(
            path.stem,
            {
                "image": bench / f"GT_3500/{path.stem}_GT.png",
                "mask": bench / f"Mask_bbox_3500/{path.stem}_mask.png",
                "exemplar": bench / f"Ref_3500/{path.stem}_ref.png",
                "result": path,
            },
        )
        for path in sorted(results.glob("*.png"))
    ]
    clip = features.clip("clip-b32", {"folder": weights})
    looks = {CLIP_DISTANCES: clip.whole, INCEPTION_DISTANCES: Spy.measure}
    sets = [distances(what, measure, None) for what, measure in looks.items()]
    plan = ScoringPlan("mine", "x", len(cases), [*sets, *BACKGROUND_ERRORS.load(None)])
    store = ValueStore(tmp_path / "store")
    report = evaluate(cases, plan, lambda wanted, what: score(wanted, store))
    named = {figure.column.name: figure for figure in report.figures}
    assert list(named) == ["frechet_clip", "frechet_inception", "kid", "background_psnr_of_mean"]
    fid = named["frechet_inception"]
    colours = [np.stack([read_picture(c.files[k]).mean((0, 1)) for c in cases]) for k in ("result", "image")]
    own = moments_of([colours[1]])
    assert named["kid"].column.recipe.startswith(f"kid-100x{len(cases)}/inception/mean/v1")
    assert fid.value == pytest.approx(frechet_distance(moments_of([colours[0]]), own), rel=1e-3)
    assert len(fid.replicates) == GROUPS
    kept = np.arange(len(cases)) % GROUPS != 3
    assert fid.replicates[3] == pytest.approx(frechet_distance(moments_of([colours[0][kept]]), own), rel=1e-3)
    # The order in which cases come changes nothing.
    again = evaluate(cases[::-1], plan, lambda wanted, what: score(wanted, store))
    assert again.figures == report.figures


def write_list(bench: Path, path: Path, truth: bool, rows: int = 6) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "image", "mask", "exemplar", *(["truth"] if truth else [])])
        for image in sorted((bench / "GT_3500").iterdir()):
            key = image.name.removesuffix("_GT.png")
            files = [image, bench / f"Mask_bbox_3500/{key}_mask.png", bench / f"Ref_3500/{key}_ref.png"]
            known = [image if int(key) < 7 + 1000 * rows else ""] if truth else []
            writer.writerow([key, *files, *known])
    return path


def test_a_list_of_ones_own_gives_the_same_numbers(small, weights, tmp_path, capsys) -> None:
    bench, results = small
    assert run(["cocoee", "--bench", str(bench)], results, weights, "--out", str(tmp_path / "a")) == 0
    jobs = write_list(bench, tmp_path / "mine.csv", truth=True)
    assert run(["bench", str(jobs)], results, weights, "--out", str(tmp_path / "b")) == 0
    assert "mine, results: 6 of 6 cases" in capsys.readouterr().out
    ours, own = (json.loads((tmp_path / name / "report.json").read_text()) for name in "ab")
    for key, row in own["rows"].items():
        shared = row.keys() & ours["rows"][key].keys()
        assert shared == {"clip_score_box", "quality_score"} | {
            f"background_{n}" for n in ("mse", "psnr", "ssim")
        }
        assert all(row[name] == ours["rows"][key][name] for name in shared)
        mask = read_mask(bench / f"Mask_bbox_3500/{key}_mask.png")
        pair = read_picture(results / f"{key}.png"), read_picture(bench / f"GT_3500/{key}_GT.png")
        assert row["edited_mse"] == pytest.approx(1e4 * metrics.mse(*pair, mask))
        assert row["edited_lpips"] >= 0
        assert row["whole_mse"] == pytest.approx(1e4 * metrics.mse(*pair))
        assert row["whole_psnr"] == pytest.approx(metrics.psnr(*pair))
        assert row["whole_ssim"] == pytest.approx(100 * metrics.ssim(*pair))
        assert row["whole_lpips"] >= 0
    plain = write_list(bench, tmp_path / "plain.csv", truth=False)
    assert run(["bench", str(plain)], results, weights, "--out", str(tmp_path / "c")) == 0
    assert "edited" not in capsys.readouterr().out
    half = write_list(bench, tmp_path / "half.csv", truth=True, rows=3)
    assert run(["bench", str(half)], results, weights, "--out", str(tmp_path / "d")) == 1
    assert "3 of 6 rows have a truth" in capsys.readouterr().err


def test_run_makes_what_is_missing_in_parts_and_the_last_scores(weights, tmp_path, capsys) -> None:
    bench = write_bench(tmp_path / "bench", count=3)
    save_model(tiny_model(6), tmp_path / "model")
    command = ["cocoee", "run", "--bench", str(bench), "--model", str(tmp_path / "model")]
    steps = ("--num-inference-steps", "1")
    assert run(command, tmp_path / "whole", weights, *steps) == 0
    parts = tmp_path / "parts"
    assert run(command, parts, weights, *steps, "--shard", "0/2") == 0
    assert "1 of 3 edits are still to be made; the last part scores" in capsys.readouterr().out
    assert not (parts / "report").exists()
    assert run(command, parts, weights, *steps, "--shard", "1/2") == 0
    assert read(parts)["rows"] == read(tmp_path / "whole")["rows"]
    seeds = [json.loads(line)["seed"] for line in (tmp_path / "whole/results.jsonl").read_text().splitlines()]
    assert seeds == [0, 1, 2]  # each case has a noise of its own
    made = read(parts)["settings"]
    assert made["settings"]["num_inference_steps"] == 1
    assert (
        f"made by {tmp_path / 'model'} ({made['model']['sha256'][:12]}): num_inference_steps 1"
        in (parts / "report/report.md").read_text()
    )
    capsys.readouterr()
    assert run(command, parts, weights, *steps) == 0
    assert "0 made, 3 already there, 0 failed" in capsys.readouterr().out


def test_run_tells_edits_that_failed_and_scores_the_others_when_told(weights, tmp_path, capsys) -> None:
    bench = write_bench(tmp_path / "bench", count=3)
    (bench / "Ref_3500/000000001007_ref.png").write_bytes(b"no picture")
    jobs = write_list(bench, tmp_path / "mine.csv", truth=False)
    save_model(tiny_model(6), tmp_path / "model")
    command = ["bench", "run", str(jobs), "--model", str(tmp_path / "model"), "--num-inference-steps", "1"]
    assert run(command, tmp_path / "out", weights) == 1
    assert "1 of 3 edits could not be made, see" in capsys.readouterr().err
    assert run(command, tmp_path / "out", weights, "--only-present") == 1
    told = capsys.readouterr()
    assert "000000001007_ref.png is not a picture" in told.err
    assert "1 of 3 results are missing: not comparable" in told.out

    (bench / "Ref_3500/000000001007_ref.png").unlink()
    rows = jobs.read_text().replace("000000001007,", "one: bad,").splitlines(keepends=True)
    jobs.write_text("".join([*rows, "empty,,,\n"]))
    assert run(command, tmp_path / "out", weights, "--only-present") == 1
    assert "2 of 4 results are missing: not comparable" in capsys.readouterr().out
    score = ["bench", str(jobs)]
    assert run(score, tmp_path / "out", weights) == 1
    assert "1 row of the list cannot be done, first empty: the row has no image, mask; correct" in (
        capsys.readouterr().err
    )
    assert run(score, tmp_path / "out", weights, "--only-present") == 0
    assert "2 of 4 results are missing: not comparable" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", [b"null", b"[1]", b'{"name": 7}', b'{"name": "a", "status": "ok"}', b"\xff\xfe{}"]
)
def test_records_of_another_kind_are_left_out_with_a_warning(tmp_path, line, caplog) -> None:
    record = {"name": "a", "status": "ok", "model": {"path": "m"}, "settings": {"seed": 1}}
    (tmp_path / "results.jsonl").write_bytes(json.dumps(record).encode() + b"\n" + line + b"\n")
    assert made_with(tmp_path, "a") == {"model": {"path": "m"}, "settings": {"seed": 1}}
    assert "line 2, is not a record of `sampling batch`; 1 such line left out" in caplog.text


def test_how_results_were_made_is_read_off_their_records(tmp_path) -> None:
    def record(name: str, steps: int, status: str = "ok") -> str:
        content = {"name": name, "status": status, "model": {"path": "m", "sha256": "0"}}
        return json.dumps(content | {"settings": {"num_inference_steps": steps}})

    assert made_with(tmp_path, "ab") == {}
    lines = [record("a", 1), record("a", 2), record("b", 2), record("c", 9), '{"name": "cut']
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    assert made_with(tmp_path, "ab")["settings"] == {"num_inference_steps": 2}  # the newest of each counts
    assert made_with(tmp_path, "abc") == {"differ": 2}
