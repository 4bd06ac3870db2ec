"""Reports: kept and read again, shown as tables and pages, compared with each other and published ones."""

import argparse
import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.cli import main
from evaluation.reports.charts import histograms, scatters, trade_offs
from evaluation.reports.compare import compare_tables, differences
from evaluation.reports.output import log_to_wandb
from evaluation.reports.page import best_and_worst, chosen_cases, largest_changes, page, strip
from evaluation.reports.published import published_rows
from evaluation.reports.tables import all_columns, as_latex, as_markdown, as_text, cases_csv, report_tables
from evaluation.scoring.confidence import GROUPS, group_of, jackknife
from evaluation.scoring.report import (
    Report,
    ReportColumn,
    SetFigure,
    pack_mask,
    read_report,
    summarise,
    unpack_mask,
    write_report,
)
from evaluation.scoring.set_figures import psnr_of_mean
from intarsia.errors import UserError

SCORE = ReportColumn("score", "score", "up", "score/x/v1@abc")
ERROR = ReportColumn("error", "error ×10³", "down", "error/x/v1")
FRECHET = ReportColumn("frechet", "Fréchet", "down", "frechet/x/v1@abc to y (9 pictures, x/v1@abc)")


def make(name: str = "a", shift: float = 0.0, count: int = 60, seed: int = 0) -> Report:
    """Cases whose own level differs far more than `shift`, and noise of their own that is smaller."""
    rng, own = np.random.default_rng(0), np.random.default_rng([seed, 1])
    levels = rng.normal(50, 20, count)
    rows = {
        f"{i:03}": {"score": level + shift + own.normal(0, 0.5), "error": float(i)}
        for i, level in enumerate(levels)
    }
    replicates = tuple(10 + shift + rng.normal(0, 1) for _ in range(GROUPS))
    figure = SetFigure(FRECHET, 10 + shift, replicates)
    return Report("mine", name, count, [SCORE, ERROR], rows, [figure])


def odd() -> Report:
    """With infinity, NaN, categories, and one case of three."""
    rows = {"x": {"score": float("inf"), "error": float("nan")}, "y": {"score": 3.0, "error": float("nan")}}
    groups = {"x": "first", "y": "second | b"}
    return Report("mine", "<odd>", 3, [SCORE, ERROR], rows, [], groups, captions={"x": "a <b> & c"})


def test_a_report_is_read_as_it_was_written(tmp_path) -> None:
    for report in (make(), odd()):
        write_report(report, tmp_path / "report")
        again = read_report(tmp_path)  # the results' folder, the report's, or the file
        assert again == read_report(tmp_path / "report") == read_report(tmp_path / "report/report.json")
        assert summarise(again)[-1].count == len(report.rows)
        assert np.array_equal(
            [list(row.values()) for row in again.rows.values()],
            [list(row.values()) for row in report.rows.values()],
            equal_nan=True,
        )
        assert replace(again, rows={}) == replace(report, rows={})
    content = json.loads((tmp_path / "report/report.json").read_text())  # strict JSON: no NaN
    assert content["rows"]["x"] == {"score": "inf", "error": None}


def test_what_is_no_report_is_told(tmp_path) -> None:
    with pytest.raises(UserError, match=r"neither .* nor its report/ has a report.json; score the results"):
        read_report(tmp_path)
    with pytest.raises(UserError, match=r"gone.json does not exist"):
        read_report(tmp_path / "gone.json")
    (tmp_path / "report.json").write_text('{"version": 0}')
    with pytest.raises(UserError, match="written by another version; score the results again"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"rows": {}}')
    with pytest.raises(UserError, match=r"is not a report of `python -m evaluation`: KeyError\('version'\)"):
        read_report(tmp_path)


def test_tables_show_what_is_missing_and_every_recipe() -> None:
    tables = report_tables(odd())
    text = "\n".join(map(as_text, tables))
    assert "mine, <odd>: 2 of 3 cases" in text
    assert re.search(r"^score ↑ +3.00 +2, 1 ∞$", text, re.MULTILINE)  # infinite ones are counted
    assert "infinite values (equal pixels) are counted and left out of averages" in text
    assert "no background" in text  # every case is NaN
    assert "score ↑  score/x/v1@abc" in text
    assert re.search(r"^second \| b +1 +3.00", text, re.MULTILINE)
    markdown = as_markdown(tables[1])
    pipes = [len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("|")]
    assert pipes == [5] * 4
    rows = list(csv.DictReader(io.StringIO(cases_csv(odd()))))
    assert rows[0] == {"key": "x", "category": "first", "score": "inf", "error": ""}


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(3, 2, 4000)
    groups = np.array([group_of(place) for place in range(4000)])
    replicates = [float(values[groups != group].mean()) for group in range(GROUPS)]
    estimate = jackknife(float(values.mean()), replicates, 4000)
    middles = np.array([values[groups == group].mean() for group in range(GROUPS)])
    error = middles.std(ddof=1) / GROUPS**0.5  # exact for a number that is linear in the cases
    assert estimate.high - estimate.low == pytest.approx(2 * 2.093 * error)
    assert np.isnan(jackknife(1.0, replicates[:3], 4000).low)


def test_pairs_show_a_difference_that_the_levels_hide() -> None:
    first, other = make(), make("b", shift=1.0, seed=1)
    frechet, score, error = differences(first, other)
    assert score.change.low > 0.5
    assert score.verdict == "beyond noise, b is better"
    assert score.change.high < summarise(first)[-1].values["score"].high - 50  # far narrower than the levels'
    assert error.verdict == "within noise"
    assert frechet.verdict == "beyond noise, a is better"  # its replicates move together
    assert frechet.change.value == pytest.approx(1.0)
    same = differences(first, make("c"))
    assert {difference.verdict for difference in same} == {"within noise"}


def test_noise_alone_is_rarely_called_a_difference() -> None:
    first = make()
    verdicts = [differences(first, make("b", seed=seed), seed)[1].verdict for seed in range(1, 41)]
    assert sum(verdict == "within noise" for verdict in verdicts) > 0
    assert sum(verdict != "within noise" for verdict in verdicts) <= 6


def test_unlike_numbers_are_not_compared_and_what_one_lacks_is_told() -> None:
    first, other = make(), make("b", shift=1.0)
    new = ReportColumn("extra", "extra", "up", "extra/v1")
    others = [replace(SCORE, recipe="score/x/v2@abc"), ERROR, new]
    rows = {key: {**row, "extra": 1.0} for key, row in other.rows.items() if key != "000"}
    other = replace(other, columns=others, rows=rows)
    frechet, score, error = differences(first, other)
    assert score.unlike == "recipes differ: score/x/v1@abc; score/x/v2@abc"
    assert frechet.unlike == "a has 60 cases, b has 59, and 1 is not in both"
    assert error.verdict.endswith("; 1 case not in both")
    text = "\n".join(map(as_text, compare_tables([first, other])))
    assert "≠ score: recipes differ" in text
    assert "only b has extra" in text
    assert "b: 59 of 60 cases" in text
    with pytest.raises(UserError, match="a is of mine and b of other; compare results of one bench"):
        compare_tables([first, replace(other, bench="other")])


def test_published_numbers_are_marked_unless_recipe_and_cases_agree() -> None:
    [ours, *_] = published_rows("COCOEE")
    rows = {f"{i:012}": {"clip_score": 80.0} for i in range(3500)}
    column = ReportColumn(
        "clip_score", "CLIP score", "up", ours.methods["clip_score"].replace("/v1", "/v1@0f0f")
    )
    report = Report("COCOEE", "x", 3500, [column], rows)
    assert ours.unlike(column, report) == ""
    assert "here 3,499 of 3,500" in ours.unlike(column, replace(report, rows=dict(list(rows.items())[1:])))
    assert "box224" in ours.unlike(replace(column, recipe="clip-score/clip-b32/box224/v1"), report)
    text = as_text(report_tables(report)[1])
    assert re.search(r"^Paint by Example +84.97$", text, re.MULTILINE)
    assert "check yourself that weights, reference set and cases are the publishers'" in text


@pytest.mark.parametrize("unlike", ["first", "second", "neither", "both"])
def test_every_compared_report_stands_beside_the_published_rows(unlike) -> None:
    """Only the first did: a second one of another recipe or with missing cases was not marked."""
    [ours, *_] = published_rows("COCOEE")
    recipe = ours.methods["clip_score"].replace("/v1", "/v1@0f0f")
    reports = []
    for name in ("first", "second"):
        wrong = unlike in (name, "both")
        rows = {f"{i:012}": {"clip_score": 80.0} for i in range(3499 if wrong else 3500)}
        column = ReportColumn("clip_score", "CLIP score", "up", recipe)
        reports.append(Report("COCOEE", name, 3500, [column], rows))
    table = compare_tables(reports)[-1]
    assert [row[0] for row in table.rows[:3]] == ["first", "second", "Paint by Example"]
    assert ("≠" in table.rows[2][1]) == (unlike != "neither")
    notes = [note for note in table.notes if note.startswith("≠") and "not in both" not in note]
    said = {"first": "first: ", "second": "second: ", "both": ""}  # a reason that all have is said once
    assert len(notes) == (unlike != "neither")
    for note in notes:
        assert f"not comparable. {said[unlike]}Paint by Example (Yang et al. 2022)" in note


@pytest.fixture
def pictured(tmp_path: Path) -> list[Report]:
    """Two reports with pictures, one of which is gone."""
    reports = []
    for name, shift in (("a", 0.0), ("b", 1.0)):
        files = {}
        for number in range(4):
            path = tmp_path / f"{name}{number}.png"
            Image.new("RGB", (300, 200), (60 * number, 90, 200)).save(path)
            files[f"{number:03}"] = {"image": str(path), "result": str(path), "truth": str(tmp_path / "gone")}
        reports.append(replace(make(name, shift, 4), files=files, captions={"000": "a <b> & c"}))
    return reports


def test_the_page_needs_no_other_file(pictured) -> None:
    report = pictured[0]
    galleries = best_and_worst(report, SCORE, count=2)
    content = page("x <y>", report_tables(report), galleries)
    assert "x &lt;y&gt;" in content
    assert not re.search(r'(src|href)="(?!data:image/jpeg;base64,)', content)
    assert content.count("<img") == 8  # four cases of picture and result; the truth is gone
    order = [case.caption[:3] for gallery in galleries for case in gallery.cases]
    ranked = sorted(report.rows, key=lambda key: report.rows[key]["score"])
    assert order == [ranked[0], ranked[1], ranked[3], ranked[2]]
    few = best_and_worst(report, SCORE, count=9)
    assert len(few) == 1  # nothing is shown twice


def test_the_page_of_two_shows_where_each_is_ahead(pictured) -> None:
    first, other = pictured
    [ahead] = largest_changes(first, other, SCORE)
    assert ahead.title == "where b is furthest ahead by score ↑"
    assert list(ahead.cases[0].pictures) == ["picture", "a", "b"]
    assert {gallery.title for gallery in largest_changes(first, first, SCORE)} == set()


def test_compare_from_the_command_line(pictured, tmp_path, capsys) -> None:
    for report in pictured:
        write_report(report, tmp_path / report.name)
    paths = [str(tmp_path / report.name) for report in pictured]
    assert main(["compare", *paths, "--out", str(tmp_path / "out")]) == 0
    assert "b minus a" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "compare.md",
        "compare.tex",
        "compare.html",
    }
    write_report(replace(pictured[1], name="a"), tmp_path / "b")
    assert main(["compare", *paths]) == 0
    assert f"{paths[1]} minus {paths[0]}" in capsys.readouterr().out  # told apart where names are alike
    assert main(["compare", paths[0]]) == 2
    assert "two reports or more" in capsys.readouterr().err
    assert main(["compare", *paths, "--sort-by", "nothing"]) == 2
    assert "there is no such column; valid: score, error" in capsys.readouterr().err


@pytest.mark.processes
def test_tables_and_pictures_go_to_wandb(pictured, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = argparse.Namespace(wandb="offline", wandb_project="p")
    report = pictured[0]
    log_to_wandb(options, "title", report_tables(report), best_and_worst(report, SCORE, 1), [report])
    [media] = tmp_path.glob("wandb/offline-run-*/files/media")
    tables = [json.loads(path.read_text()) for path in media.glob("table/*.json")]
    assert len(tables) == 2  # averages, all cases
    assert max(len(table["data"]) for table in tables) == 4
    sizes = [Image.open(path).size for path in media.glob("images/*.png")]
    assert sizes == [(2 * (224 + 6), 224)] * 2  # the worst and the best: picture and result


def test_the_best_value_is_bold_in_every_form_and_unlike_ones_do_not_count() -> None:
    [ours, *_] = published_rows("COCOEE")
    column = ReportColumn("clip_score", "CLIP score", "up", ours.methods["clip_score"])
    rows = {f"{i:012}": {"clip_score": 90.0} for i in range(3500)}
    report = Report("COCOEE", "x_1", 3500, [column], rows)
    table = compare_tables([report, replace(report, name="y")])[-1]
    assert table.best == {(0, 1), (1, 1)}  # equal, and above the published 84.97
    assert "| x_1 | **90.00** |" in as_markdown(table)
    assert "<td><b>90.00</b></td>" in page("x", [table], [])
    assert r"x\_1 & \textbf{90.00} \\" in as_latex(table)
    assert r"CLIP score $\uparrow$" in as_latex(table)
    first, other = make(), make("b", shift=1.0)
    names = [column.name for column in all_columns(first)]
    side_by_side = compare_tables([first, other])[0]
    assert {(names.index("score"), 2), (names.index(first.figures[0].column.name), 1)} <= side_by_side.best
    unlike = replace(column, recipe="clip-score/other/v1")
    worse = {key: {"clip_score": 80.0} for key in rows}
    table = compare_tables([replace(report, columns=[unlike], rows=worse)] * 2)[-1]
    assert "≠" in table.rows[2][1]
    assert table.best == {(0, 1), (1, 1)}


def test_a_number_of_fewer_cases_than_features_stands_last_here_and_after_reading(tmp_path) -> None:
    report = make()
    weak = replace(report, figures=[replace(figure, weak=True) for figure in report.figures])
    assert report_tables(report)[0].rows[0][0].startswith(report.figures[0].column.title)
    write_report(weak, tmp_path)
    for own in (weak, read_report(tmp_path)):
        assert report_tables(own)[0].rows[-1][0].startswith(report.figures[0].column.title)
        assert all_columns(own)[-1] == report.figures[0].column
        rows = compare_tables([own, replace(own, name="b")])
        assert [row[0] for row in rows[0].rows] == [column.heading for column in all_columns(own)]
        assert [row[0] for row in rows[1].rows] == [column.heading for column in all_columns(own)]
        assert rows[1].rows[-1][1] == "0.00"


def test_cases_are_chosen_by_hand(pictured, tmp_path, capsys) -> None:
    assert [case.caption[:3] for case in chosen_cases(pictured[0], ["003", "001"])[0].cases] == ["003", "001"]
    for report in pictured:
        write_report(report, tmp_path / report.name)
    paths = [str(tmp_path / report.name) for report in pictured]
    out = ["--out", str(tmp_path / "out")]
    assert main(["compare", *paths, *out, "--cases", "003,001"]) == 0
    shown = (tmp_path / "out" / "compare.html").read_text()
    assert shown.index("<b>003</b> ·") < shown.index("<b>001</b> ·")
    assert "<b>002</b>" not in shown
    assert "<svg" in shown
    assert main(["compare", *paths, *out, "--cases", "9"]) == 2
    assert "--cases 9: a has no such case; cases.csv lists them" in capsys.readouterr().err


def test_a_mask_that_is_not_a_file_is_shown_and_pictures_are_kept_large(pictured) -> None:
    mask = np.zeros((200, 300), bool)
    mask[:100] = True
    report = replace(pictured[0], masks={"000": pack_mask(mask)})
    [gallery] = chosen_cases(report, ["000"])
    picture = gallery.cases[0].pictures["picture with the hole"]
    assert picture.size == (300, 200)
    assert picture.getpixel((5, 5)) == (128, 128, 128)
    assert strip(gallery.cases[0]).height == 224
    assert "width:224px" in page("x", [], [gallery])


def test_a_mask_that_is_not_a_file_is_shown_by_compare_too(pictured, tmp_path) -> None:
    """PIE-Bench's masks are in its mapping file, so the report keeps them."""
    mask = np.zeros((200, 300), bool)
    mask[20:50, 7:101] = True
    paths = [write_report(replace(r, masks={"000": pack_mask(mask)}), tmp_path / r.name) for r in pictured]
    first, other = map(read_report, paths)
    assert (unpack_mask(first.masks["000"]) == mask).all()
    [gallery] = largest_changes(first, other, first.columns[0], keys=["000"])
    picture = np.asarray(gallery.cases[0].pictures["picture with the hole"])
    assert ((picture == 128).all(-1) == mask).all()
    assert "masks" not in json.loads(write_report(pictured[0], tmp_path / "files").read_text())
    with pytest.raises(UserError, match="a mask of the report is damaged; score the results again"):
        unpack_mask("bm90IGEgcGljdHVyZQ==")


def test_a_mean_without_its_infinite_cases_is_marked_and_is_not_the_best() -> None:
    """Infinite cases are the best ones: the mean of the others says little beside another report's."""
    first, other = make(), make("b", shift=1.0)
    rows = {
        key: {**row, "score": math.inf if key < "050" else row["score"]} for key, row in first.rows.items()
    }
    first = replace(first, rows=rows)
    table = compare_tables([first, other])[0]
    [place] = [place for place, row in enumerate(table.rows) if row[0] == "score ↑"]
    assert table.rows[place][1].endswith(" (50 ∞)")
    assert "∞" not in table.rows[place][2]
    assert place not in {row for row, _ in table.best}
    rows = {key: {**row, "score": math.inf} for key, row in first.rows.items()}
    everywhere = compare_tables([replace(first, rows=rows), other])[0]
    assert everywhere.rows[place][1] == "∞"
    assert (place, 1) in everywhere.best


def test_a_number_of_no_background_says_so_everywhere() -> None:
    """The PSNR of the mean error of masks that cover everything was shown as nan."""
    column = ReportColumn("psnr", "PSNR of the mean", "up", "psnr-of-mean/x/v1")
    report = replace(odd(), figures=[psnr_of_mean([math.nan, math.nan], 1.0, column)])
    text = as_text(report_tables(report)[0])
    assert "nan" not in text
    assert {line.split()[0] for line in text.splitlines() if "no background" in line} == {"PSNR", "error"}


def test_compare_prints_recipes_and_the_reports_own_cautions() -> None:
    unlisted = ReportColumn("score", "score", "up", "score/x/v1@~abc")
    first = replace(make(), columns=[unlisted, ERROR], remarks=("both say it", "only a says it"))
    other = replace(make("b"), columns=[unlisted, ERROR], remarks=("both say it",))
    table = compare_tables([first, other])[0]
    assert table.header[-1] == "recipe"
    assert [row[-1] for row in table.rows] == [column.recipe for column in all_columns(first)]
    caution = "score: weights that are not on the list of published files (@~ in the recipe)"
    assert list(table.notes) == ["both say it", caution, "a: only a says it"]
    assert "score ↑  score/x/v1@~abc" in as_text(table)


def test_charts_have_every_finite_value() -> None:
    first, other = make(), make("b", shift=1.0)
    bars = [float(h) for h in re.findall(r'height="([\d.]+)"/>', histograms(first)[0].svg)]
    assert len(bars) == 24
    counts = np.histogram(list(first.values("score").values()), 24)[0]
    assert np.array(bars) / max(bars) == pytest.approx(counts / counts.max(), abs=0.01)
    equal = {
        key: {**row, "score": 100 + 1e-14 * place} for place, (key, row) in enumerate(first.rows.items())
    }
    assert len(histograms(replace(first, rows=equal))) == 2  # values that only rounding separates
    scatter = scatters(first, other)[0]
    assert scatter.svg.count("<circle") == 60
    assert scatter.title.endswith("60 of 60 cases drawn")
    infinite = {
        key: {**row, "score": math.inf if key == "000" else row["score"]} for key, row in first.rows.items()
    }
    assert "59 cases, 1 infinite not drawn" in histograms(replace(first, rows=infinite))[0].title
    columns = [ReportColumn(name, name, "up", "x/v1") for name in ("dinov2_b14", "background_psnr")]
    rows = {key: {"dinov2_b14": 60.0, "background_psnr": 30.0} for key in ("a", "b")}
    better = {key: {"dinov2_b14": 80.0, "background_psnr": 20.0} for key in ("a", "b")}
    reports = [Report("mine", name, 2, columns, own) for name, own in (("a", rows), ("<b>", better))]
    [chart] = trade_offs(reports)
    assert chart.title == "dinov2_b14 against background_psnr"
    places = [tuple(map(float, p)) for p in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', chart.svg)]
    assert places[0][0] > places[1][0]  # a keeps more of the background,
    assert places[0][1] > places[1][1]  # b has more of the identity: further up
    assert "&lt;b&gt;" in chart.svg
    assert trade_offs([first, other]) == []
