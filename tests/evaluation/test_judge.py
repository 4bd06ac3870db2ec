"""A judge's scores: questions go out, scores come in by VIEScore's arithmetic, and reports are compared."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.cli import main
from evaluation.reports.judge import QUESTIONS, prompt_hash
from evaluation.scoring.report import Report, ReportColumn, pack_mask, read_report, write_report

HOLE = {"case0": pack_mask(np.eye(20, dtype=bool))}


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A report of four cases with pictures."""
    files, rows = {}, {}
    for number in range(4):
        paths = {}
        for kind in ("image", "exemplar", "result"):
            path = tmp_path / f"{number}-{kind}.png"
            Image.new("RGB", (20, 20), (60 * number, 90, 200)).save(path)
            paths[kind] = str(path)
        files[f"case{number}"], rows[f"case{number}"] = paths, {"score": 1.0}
    column = ReportColumn("score", "score", "up", "score/v1")
    write_report(Report("mine", "painter", 4, [column], rows, files=files), tmp_path / "report")
    return tmp_path / "report"


def export(scored: Path, out: Path) -> list[dict]:
    assert main(["judge", "export", str(scored), "--out", str(out)]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def answered(lines: list[dict], path: Path, shift: float = 0) -> Path:
    """Scores 4 and 9 of consistency, 8 and 9 - case of quality, in lines of the form of the questions."""
    answers = []
    for line in lines:
        number = int(line["case"][-1])
        own = [4 + shift, 9] if line["question"] == "semantic_consistency" else [8, 9 - number]
        answers.append(json.dumps(line | {"scores": own}))
    path.write_text("\n".join(answers))
    return path


def test_questions_name_their_pictures_and_scores_come_back(scored, tmp_path, capsys) -> None:
    lines = export(scored, tmp_path / "questions.jsonl")
    assert "2 questions about each of 4 cases" in capsys.readouterr().out
    assert [line["question"] for line in lines] == [*QUESTIONS] * 4
    assert all(Path(path).is_file() for line in lines for path in line["pictures"])
    assert [Path(path).name for path in lines[0]["pictures"]] == [
        "0-image.png",
        "0-exemplar.png",
        "0-result.png",
    ]
    scores = answered(lines, tmp_path / "scores.jsonl")
    asked = ["judge", "import", str(scored), "--scores", str(scores), "--judge", "model-1"]
    assert main([*asked, "--out", str(tmp_path / "a")]) == 0
    report = read_report(tmp_path / "a")
    for number in range(4):
        quality = min(8, 9 - number)
        row = report.rows[f"case{number}"]
        assert (row["semantic_consistency"], row["perceptual_quality"]) == (4, quality)
        assert row["overall"] == pytest.approx(math.sqrt(4 * quality))
    assert f"prompt {prompt_hash('perceptual_quality')}" in report.columns[2].recipe
    better = answered(lines, tmp_path / "better.jsonl", shift=1)
    again = ["judge", "import", str(scored), "--scores", str(better), "--judge", "model-1", "--name", "other"]
    assert main([*again, "--out", str(tmp_path / "b")]) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "beyond noise, other is better" in capsys.readouterr().out
    third = [*again[:-3], "model-2", "--name", "other", "--out", str(tmp_path / "c")]
    assert main(third) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "c")]) == 0
    assert "not comparable" in capsys.readouterr().out  # another judge is another recipe


def test_a_second_judge_does_not_take_the_first_ones_place(scored, tmp_path, capsys) -> None:
    scores = answered(export(scored, tmp_path / "questions.jsonl"), tmp_path / "scores.jsonl")
    asked = ["judge", "import", str(scored), "--scores", str(scores), "--judge"]
    assert [main([*asked, judge]) for judge in ("first", "first", "second")] == [0, 0, 1]
    message = "judged has a report of geometric mean of viescore-sc/first/v1"
    told = capsys.readouterr().err
    assert message in told
    assert "give --out DIR for this one, of geometric mean of viescore-sc/second/v1" in told
    assert "first" in read_report(scored / "judged").columns[0].recipe
    assert main([*asked, "second", "--out", str(tmp_path / "second")]) == 0


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"exemplar": "2"}, "case case0 has not the same exemplar in b as in a"),
        (None, "b is a report of an earlier version, which noted no files: score again"),
    ],
)
def test_scores_about_other_exemplars_are_not_compared(scored, tmp_path, capsys, inputs, reason) -> None:
    """A judged report forgot of what its cases are made, so any two were comparable."""
    report = read_report(scored)
    for name, own in (("a", {"exemplar": "1"}), ("b", inputs)):
        noted = None if own is None else dict.fromkeys(report.rows, own)
        folder = tmp_path / name
        write_report(replace(report, inputs=noted, masks=HOLE), folder)
        scores = answered(export(folder, tmp_path / "questions.jsonl"), tmp_path / "scores.jsonl")
        asked = ["judge", "import", str(folder), "--scores", str(scores), "--judge", "m", "--name", name]
        assert main([*asked, "--out", str(tmp_path / f"judged-{name}"), "--sort-by", "overall"]) == 0
        assert read_report(tmp_path / f"judged-{name}").masks == HOLE
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "judged-a"), str(tmp_path / "judged-b")]) == 0
    assert f"≠ √(SC · PQ): {reason}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [3, 11]}, "line 1: [3, 11] is outside of 0 to 10"),
        ({"scores": [3, math.nan]}, "line 1: [3, nan] is outside of 0 to 10"),
        ({"scores": 9}, "line 1: scores are 9; give a list of two numbers, as asked"),
        ({"scores": []}, "line 1: scores are []; give a list of two numbers, as asked"),
        ({"scores": [1, 2, 3]}, "line 1: scores are [1, 2, 3]; give a list of two numbers"),
        ({"scores": [True, "7"]}, 'line 1: scores are [true, "7"]; give a list of two numbers'),
        (
            {"pictures_hash": "0" * 12},
            "these scores are about other pictures than those of case case0",
        ),
        ({"prompt_hash": "abc"}, "line 1: the prompt abc is not that of this version"),
        ({"case": "case9"}, "line 1: painter has no case case9"),
        ({"question": "beauty"}, "line 1: 'beauty' is not one of semantic_consistency"),
        ({"case": "case1"}, "these scores are about other pictures than those of case case1"),
    ],
)
def test_lines_that_are_wrong_are_named(scored, tmp_path, capsys, change, message) -> None:
    lines = export(scored, tmp_path / "questions.jsonl")
    scores = answered(lines, tmp_path / "scores.jsonl")
    answers = [json.loads(line) for line in scores.read_text().splitlines()]
    answers[0] |= change
    (tmp_path / "scores.jsonl").write_text("\n".join(map(json.dumps, answers)))
    asked = ["judge", "import", str(scored), "--scores", str(tmp_path / "scores.jsonl"), "--judge", "m"]
    capsys.readouterr()
    assert main(asked) == 1
    assert message in capsys.readouterr().err


def test_a_question_that_is_answered_twice_is_named(scored, tmp_path, capsys) -> None:
    lines = export(scored, tmp_path / "questions.jsonl")
    scores = answered([*lines, lines[0]], tmp_path / "scores.jsonl")
    assert main(["judge", "import", str(scored), "--scores", str(scores), "--judge", "m"]) == 1
    assert "semantic_consistency of case case0 appears twice" in capsys.readouterr().err


def test_a_line_without_its_pictures_hash_is_named(scored, tmp_path, capsys) -> None:
    lines = export(scored, tmp_path / "questions.jsonl")
    del lines[0]["pictures_hash"]
    scores = answered(lines, tmp_path / "scores.jsonl")
    asked = ["judge", "import", str(scored), "--scores", str(scores), "--judge", "m"]
    assert main(asked) == 1
    expected = "line 1 has no case, question, prompt_hash, pictures_hash and scores"
    assert expected in capsys.readouterr().err


def test_answers_about_other_results_are_refused(scored, tmp_path, capsys) -> None:
    """Another folder's results have the same cases and questions, but are other pictures."""
    lines = export(scored, tmp_path / "questions.jsonl")
    scores = answered(lines, tmp_path / "scores.jsonl")
    report = read_report(scored)
    files = {}
    for key, paths in report.files.items():
        other = tmp_path / f"other-{key}.png"
        Image.new("RGB", (20, 20), (1, 2, 3)).save(other)
        files[key] = {**paths, "result": str(other)}
    write_report(replace(report, files=files), tmp_path / "others")
    asked = ["judge", "import", str(tmp_path / "others"), "--scores", str(scores), "--judge", "m"]
    assert main(asked) == 1
    assert "are about other pictures than those of case case0 of painter; export" in capsys.readouterr().err


def test_missing_scores_and_pictures_are_named(scored, tmp_path, capsys) -> None:
    lines = export(scored, tmp_path / "questions.jsonl")
    scores = answered(lines[2:], tmp_path / "scores.jsonl")
    asked = ["judge", "import", str(scored), "--scores", str(scores), "--judge", "m"]
    assert main(asked) == 1
    assert "lacks scores of 1 of 4 cases (first case0)" in capsys.readouterr().err
    assert main([*asked, "--only-present"]) == 0
    assert "1 of 4 results are missing: not comparable" in capsys.readouterr().out
    report = read_report(scored)
    no_scene = {key: {k: p for k, p in files.items() if k != "image"} for key, files in report.files.items()}
    write_report(replace(report, files=no_scene), tmp_path / "two-folders")
    assert main(["judge", "export", str(tmp_path / "two-folders"), "--out", str(tmp_path / "x.jsonl")]) == 1
    message = "mine has no image of case case0, which semantic_consistency asks about; judge results"
    assert message in capsys.readouterr().err
    (tmp_path / "2-exemplar.png").unlink()
    assert main(["judge", "export", str(scored), "--out", str(tmp_path / "x.jsonl")]) == 1
    assert "case case2 has no exemplar where it was when it was scored" in capsys.readouterr().err
