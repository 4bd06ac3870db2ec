"""The benchmark of data prep runs, and its parts are those of the whole."""

import re

import pytest

from benchmarks.dataprep import BUNDLED, main
from benchmarks.stages import REST, STAGES


@pytest.mark.whole
def test_the_benchmark_prints_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(BUNDLED), "--rounds", "1"])
    printed = capsys.readouterr().out
    names = (
        "whole path",
        "floor: all that the tar needs",
        "floor of before",
        *(f"  {stage}" for stage in (*STAGES, REST)),
        "by the recipe",
        "by the code before",
        "loader, fresh draw: pictures",
        "still, profile tuple",
        "pair, profile tuple",
        "pair, profile source",
        "loader, fresh draw: pair",
    )
    figures = {name: float(re.search(rf"{name}.*? (\d+\.\d+) ms", printed)[1]) for name in names}  # type: ignore[index]
    assert 0 < figures["  decode"] < figures["floor of before"] < figures["floor: all that the tar needs"]
    assert figures["floor: all that the tar needs"] < 2 * figures["whole path"]
    assert sum(figures[f"  {stage}"] for stage in (*STAGES, REST)) < 3 * figures["whole path"]
    assert figures["by the recipe"] < 2 * figures["by the code before"]
    assert "share of the floor" in printed
    assert "Paint by Example" in printed
