"""Options of `compare`: what reports do not share is not sorted by, and what is wrong is named."""

from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.cli import main
from evaluation.scoring.report import Report, ReportColumn, write_report


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    """Reports of four cases: with two columns, with the second alone, with none."""
    columns = [ReportColumn(name, name, "up", f"{name}/v1") for name in ("score", "error")]
    rows = {f"{number:03}": {"score": float(number), "error": 2.0 * number} for number in range(4)}
    errors = {key: {"error": row["error"] + 1} for key, row in rows.items()}
    whole = Report("mine", "whole", 4, columns, rows)
    part = replace(whole, name="part", columns=columns[1:], rows=errors)
    none = replace(whole, name="none", columns=[], rows={key: {} for key in rows})
    for report in (whole, part, none):
        write_report(report, tmp_path / report.name)
    return {report.name: str(tmp_path / report.name) for report in (whole, part, none)}


def test_the_page_sorts_by_a_column_of_all_reports(paths, tmp_path, capsys) -> None:
    out, page = ["--out", str(tmp_path / "out"), "--seed", "3"], tmp_path / "out" / "compare.html"
    assert main(["compare", paths["whole"], paths["part"], *out]) == 0
    assert "furthest ahead by error" in page.read_text()
    assert main(["compare", paths["whole"], paths["part"], *out, "--sort-by", "score"]) == 2
    message = "--sort-by score cannot be compared: only one of the reports has it; valid: error"
    assert message in capsys.readouterr().err
    assert main(["compare", paths["whole"], paths["none"], *out]) == 0
    assert "furthest ahead" not in page.read_text()
    assert main(["compare", paths["whole"], paths["none"], *out, "--cases", "001"]) == 0
    assert "<b>001</b>" in page.read_text()


def test_cases_are_checked_first(paths, capsys) -> None:
    assert main(["compare", paths["whole"], paths["part"], "--cases", "9"]) == 2
    shown = capsys.readouterr()
    assert "--cases 9: whole has no such case; cases.csv lists them" in shown.err
    assert not shown.out


@pytest.mark.parametrize("seed", ["-1", "1.5", "x"])
def test_a_seed_is_a_whole_number_of_0_or_more(paths, seed, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compare", paths["whole"], paths["part"], "--seed", seed])
    assert caught.value.code == 2
    assert f"argument --seed: '{seed}' is not a whole number of 0 or more" in capsys.readouterr().err
