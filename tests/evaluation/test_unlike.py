"""Which numbers of two reports stand beside each other unmarked: those of equal recipes, cases and inputs."""

import json
import math
import re
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from evaluation.benches.own_list import OWN_LIST
from evaluation.cli import main
from evaluation.reports.charts import scatters, trade_offs
from evaluation.reports.compare import compare_tables, differences
from evaluation.reports.published import published_rows
from evaluation.reports.tables import Table, as_latex
from evaluation.reports.unlike import why_unlike
from evaluation.scoring.report import Report, ReportColumn, read_report, write_report
from tests.evaluation.pie_bench import write_pie_bench
from tests.evaluation.test_report import ERROR, FRECHET, SCORE, make
from tests.paths import ROOT

EDITS = ROOT / "examples/edits"


def noted(report: Report, **kinds: str) -> Report:
    """The report with the same inputs for each case."""
    return replace(report, inputs=dict.fromkeys(report.rows, kinds))


@pytest.mark.parametrize(
    ("ours", "theirs", "kind"),
    [
        ({"image": "1", "mask": "2"}, {"image": "1", "mask": "2"}, ""),
        ({"image": "1"}, {"image": "1", "exemplar_mask": "3"}, ""),  # which the first did not need
        (
            {"image": "1", "mask": "2"},
            {"image": "1", "mask": "3"},
            "mask",
        ),
        (
            {"exemplar_mask": "1"},
            {"exemplar_mask": "2"},
            "exemplar mask",
        ),
    ],
)
def test_other_inputs_of_the_same_cases_are_found(ours, theirs, kind) -> None:
    reason = f"case 000 has not the same {kind} in b as in a" if kind else ""
    first, other = noted(make(), **ours), noted(make("b"), **theirs)
    assert [why_unlike(column, first, other) for column in (SCORE, ERROR, FRECHET)] == [reason] * 3
    assert {d.change is None for d in differences(first, other)} == {bool(reason)}


def test_a_report_that_noted_no_inputs_is_to_be_scored_again(tmp_path: Path) -> None:
    write_report(replace(make(), inputs=None), tmp_path)
    old = read_report(tmp_path)
    assert old.inputs is None
    assert why_unlike(SCORE, make("b"), old).endswith("which noted no files: score again")


def test_means_over_other_cases_are_marked_and_the_shared_ones_are_still_compared() -> None:
    first, other = make(), make("b", shift=1.0)
    other = replace(other, rows={key: row for key, row in other.rows.items() if key != "000"})
    table, changes, *_ = compare_tables([first, other])
    assert all(row[2].endswith(" ≠") for row in table.rows)
    assert not {place for place in table.best if place[1] == 2}
    assert "≠ score: a has 60 cases, b has 59, and 1 is not in both" in table.notes
    score = next(row for row in changes.rows if row[0].startswith("score"))
    assert score[3] == "59" and score[4].endswith("b is better; 1 case not in both")


def test_beside_published_rows_reports_are_marked_against_each_other() -> None:
    [published, *_] = published_rows("COCOEE")
    recipe = published.methods["clip_score"].replace("/v1", "/v1@0f0f")
    column = replace(SCORE, name="clip_score", title="CLIP score", recipe=recipe)
    rows = {f"{i:012}": {"clip_score": 80.0} for i in range(3500)}
    first = Report("COCOEE", "a", 3500, [column], rows)
    others = {
        "weights": replace(column, recipe=recipe.replace("0f0f", "~beef")),
        "few": column,
    }
    better = {key: {"clip_score": 99.0} for key in rows}
    for name, own in others.items():
        kept = better if name == "weights" else dict(list(better.items())[1:])
        table = compare_tables([first, Report("COCOEE", name, 3500, [own], kept)])[-1]
        assert table.rows[0][1] == "80.00"
        assert table.rows[1][1].startswith("99.00 ≠")
        assert (1, 1) not in table.best
        assert r"\textbf{99" not in as_latex(table)
        if name == "few":
            assert "few: 3,499 of 3,500 cases" in table.notes


def test_pages_rank_and_draw_only_numbers_that_can_be_compared(tmp_path, capsys) -> None:
    """The tables marked them; galleries, captions and scatters showed them side by side without a mark."""
    first, weights = noted(make(), image="1"), replace(SCORE, recipe="score/x/v1@def")
    others = {
        "weights": (replace(noted(make("weights", 1.0), image="1"), columns=[weights, ERROR]), ["error"]),
        "pictures": (noted(make("pictures", 1.0), image="2"), []),
    }
    write_report(first, tmp_path / "a")
    page = tmp_path / "page" / "compare.html"
    for name, (other, valid) in others.items():
        write_report(other, tmp_path / name)
        compare = ["compare", str(tmp_path / "a"), str(tmp_path / name), "--out", str(page.parent)]
        assert [chart.title.split()[0] for chart in scatters(first, other)] == valid
        assert main([*compare, "--cases", "001"]) == 0
        assert ("a: 1.00 ·" in page.read_text()) == bool(valid)  # the error of the case
        assert main(compare) == 0
        assert "furthest ahead" not in page.read_text()  # the errors are equal, and the scores another's
        capsys.readouterr()
        assert main([*compare, "--sort-by", "score"]) == 2
        assert "--sort-by score cannot be compared: " in capsys.readouterr().err


def test_a_trade_off_names_reports_that_cannot_stand_in_it() -> None:
    columns = [ReportColumn(name, name, "up", "x/v1") for name in ("dinov2_b14", "background_psnr")]

    def report(name: str, shift: float, count: int = 3) -> Report:
        rows = {str(n): {"dinov2_b14": 60 + shift, "background_psnr": 30 - shift + n} for n in range(count)}
        return Report("mine", name, 3, columns, rows)

    first, second = report("a", 0), report("b", 5)
    infinite = {**second.rows, "2": {**second.rows["2"], "background_psnr": math.inf}}
    others = [
        report("few", 5, count=2),
        replace(second, name="weights", columns=[replace(c, recipe="x/v1@def") for c in columns]),
        replace(second, name="infinite", rows=infinite),
    ]
    [chart] = trade_offs([first, second, *others])
    assert chart.title == "dinov2_b14 against background_psnr; not drawn: few, weights, infinite"
    assert chart.svg.count("<circle") == 2
    texts = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">([ab])</text>', chart.svg)
    assert [(anchor, name) for _, anchor, name in texts] == [("end", "a"), ("start", "b")]  # inwards
    assert all(trade_offs([first, other]) == [] for other in others)


def test_results_made_in_several_ways_are_noted() -> None:
    mixed = replace(make("b"), settings={"differ": 2})
    table = compare_tables([make(), mixed])[0]
    assert "b: results made in 2 different ways, see results.jsonl" in table.notes


def test_a_name_cannot_write_into_a_latex_file() -> None:
    table = Table("a\n\\input{x}", ["", "x^2"], [["~\nb", "1"]], ["n\n\\input{y}"])
    lines = as_latex(table).splitlines()
    assert [line for line in lines if "input" in line] == [r"% a \input{x}", r"% n \input{y}"]
    assert r"\textasciitilde{} b & 1 \\" in lines
    assert r" & x\textasciicircum{}2 \\" in lines


def scored(bench: Path, name: str) -> Report:
    """The report of a command that needs no weights."""
    out = ["--out", str(bench.parent / name), "--store", str(bench.parent / "store"), "--device", "cpu"]
    without = [word for name in ("structure", "lpips", "clip") for word in ("--without", name)]
    results = ["--bench", str(bench), "--results", str(bench.parent / "results"), "--name", name]
    assert main(["piebench", *results, *out, *without]) == 0
    return read_report(bench.parent / name)


def test_changed_masks_prompts_and_pictures_of_a_bench_are_found(tmp_path: Path) -> None:
    bench = write_pie_bench(tmp_path / "bench", 2)
    shutil.copytree(bench / "annotation_images", tmp_path / "results")
    first, again = scored(bench, "first"), scored(bench, "again")
    assert {why_unlike(column, first, again) for column in first.columns} == {""}
    mapping = bench / "mapping_file.json"
    records = json.loads(mapping.read_text())

    def change(**fields: object) -> set[str]:
        own = records | {"000000000001": records["000000000001"] | fields}
        mapping.write_text(json.dumps(own))
        other = scored(bench, "other")
        return {why_unlike(column, first, other) for column in first.columns}

    assert change(mask=[5, 900]) == {"case 000000000001 has not the same mask in other as in first"}
    assert change(editing_prompt="a [cow]") == {
        "case 000000000001 has not the same prompts in other as in first"
    }
    picture = bench / "annotation_images/1_change/000000000001.jpg"
    Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(picture)
    assert change() == {"case 000000000001 has not the same image in other as in first"}


def test_a_list_of_ones_own_is_not_the_published_bench_of_its_name(tmp_path: Path) -> None:
    picture, mask = EDITS / "dog.exemplar.jpg", EDITS / "dog.mask.png"
    rows = f"image,mask,exemplar\n{picture},{mask},{picture}\n"
    for name, title in (("COCOEE", "COCOEE (own list)"), ("mine", "mine")):
        (tmp_path / f"{name}.csv").write_text(rows)
        content = OWN_LIST.read(Namespace(jobs=tmp_path / f"{name}.csv"))
        assert content.title == title
        assert not published_rows(content.title)
