"""The benchmark of data prep runs, and its parts are those of the whole."""

import re

import pytest

from benchmarks.dataprep import BUNDLED, main


@pytest.mark.long
def test_the_benchmark_prints_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(BUNDLED), "--rounds", "1"])
    printed = capsys.readouterr().out
    stages = (
        "whole path",
        "decode",
        "crop",
        "mask",
        "exemplar",
        "encode",
        "tar",
        "floor",
        "loader",
        "by the recipe",
        "by the code before",
    )
    figures = {name: float(re.search(rf"{name}.*? (\d+\.\d+) ms", printed)[1]) for name in stages}  # type: ignore[index]
    assert 0 < figures["decode"] < figures["floor"] < 2 * figures["whole path"]
    assert figures["by the recipe"] < 2 * figures["by the code before"]
    assert "share of the floor" in printed
    assert "Paint by Example" in printed
