"""The texts whose figures `python -m benchmarks.calculated` calculates again."""

import re

import pytest

from benchmarks import calculated
from tests.paths import ROOT

ROWS = calculated.read_rows()
HOLE, FIGURE = re.compile(r"\{[^}]*\}"), r"[-+]?\d[\d.,]*"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.file}-{row.recipe}")
def test_each_text_is_in_its_file_with_some_figures(row: calculated.Row) -> None:
    pattern = FIGURE.join(re.escape(part) for part in HOLE.split(row.text))
    text = calculated.words_of((ROOT / row.file).read_text(encoding="utf-8"))
    assert re.search(pattern, text), row.text
    assert (ROOT / "configs" / "train" / f"{row.recipe}.yaml").is_file()


def test_every_recipe_whose_header_is_calculated_has_a_row() -> None:
    headers = {path.stem: path.read_text() for path in (ROOT / "configs" / "train").glob("*.yaml")}
    told = {row.recipe for row in ROWS if row.file.startswith("configs/")}
    assert {name for name, text in headers.items() if "calculated by `estimate`" in text} <= told


def test_a_text_with_another_figure_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calculated, "calculated", lambda row: row.text.replace("}", "}0"))
    monkeypatch.setattr("sys.argv", ["calculated", "--only", "lora-1024"])
    assert calculated.main() == 1
    said = capsys.readouterr()
    assert said.out.count("NOT IN THE FILE") == 3
    assert "3 of 3 texts are not what is calculated now" in said.err
