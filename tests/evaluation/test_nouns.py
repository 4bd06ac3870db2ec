"""Metrics and benches as others add them: the examples of docs/extending.md, and the tables."""

import argparse
import importlib
import json
import re
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evaluation.benches.bench import BENCHES, bench_of
from evaluation.benches.score import add_bench_options
from evaluation.cli import main
from evaluation.metrics.evaluate import wanted_metrics
from evaluation.metrics.metric import METRICS, metric_of
from intarsia.weights import save_model
from sampling.pictures import read_mask, read_picture
from tests.evaluation.exemplar_bench import write_bench, write_results, write_weights
from tests.extending import write_example
from tests.sampling.tiny import tiny_model

EXAMPLES = {
    "sharpness": ("evaluation/metrics/sharpness.py", "evaluation/metrics/metric.py"),
    "folders": ("evaluation/benches/folders.py", "evaluation/benches/bench.py"),
}


@pytest.fixture(scope="module", autouse=True)
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for module, files in EXAMPLES.items():
            write_example(folder, f"own_{module}", *files)
            importlib.import_module(f"own_{module}")
        yield
    METRICS.pop("sharpness")
    BENCHES.pop("folders")
    for module in EXAMPLES:
        sys.modules.pop(f"own_{module}")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A bench in the layout of the example."""
    bench = write_bench(tmp_path / "cocoee", count=3)
    for image in sorted((bench / "GT_3500").iterdir()):
        key = image.name.removesuffix("_GT.png")
        own = tmp_path / "folders" / key
        own.mkdir(parents=True)
        shutil.copy(image, own / "picture.png")
        shutil.copy(bench / f"Mask_bbox_3500/{key}_mask.png", own / "mask.png")
        shutil.copy(bench / f"Ref_3500/{key}_ref.png", own / "exemplar.png")
    write_results(bench, tmp_path / "results", 5)
    write_weights(tmp_path / "weights")
    return tmp_path / "folders"


def words(folder: Path) -> list[str]:
    common = ["--results", str(folder / "results"), "--weights", str(folder / "weights"), "--device", "cpu"]
    return [*common, "--store", str(folder / "store"), "--without", "inception"]


def test_the_bench_of_the_example_has_the_numbers_of_cocoee_and_the_metric_of_the_other(
    folders, tmp_path, capsys
) -> None:
    asked = ["folders", "--bench", str(folders), *words(tmp_path), "--with", "sharpness"]
    assert main([*asked, "--out", str(tmp_path / "own")]) == 0
    assert "folders, results: 3 of 3 cases" in capsys.readouterr().out
    cocoee = ["cocoee", "--bench", str(tmp_path / "cocoee"), *words(tmp_path)]
    assert main([*cocoee, "--out", str(tmp_path / "theirs")]) == 0
    own, theirs = (json.loads((tmp_path / n / "report.json").read_text()) for n in ("own", "theirs"))
    for key, row in own["rows"].items():
        result, mask = read_picture(tmp_path / f"results/{key}.png"), read_mask(folders / key / "mask.png")
        grey = np.pad(result.mean(2), 1, mode="edge")
        sides = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        assert row.pop("edited_sharpness") == pytest.approx(np.var((sides - 4 * grey[1:-1, 1:-1])[mask]))
        assert row.items() <= theirs["rows"][key].items()


def test_the_bench_of_the_example_makes_its_edits(folders, tmp_path, capsys) -> None:
    save_model(tiny_model(6), tmp_path / "model")
    shutil.rmtree(tmp_path / "results")
    asked = ["folders", "run", "--bench", str(folders), *words(tmp_path), "--num-inference-steps", "1"]
    assert main([*asked, "--model", str(tmp_path / "model")]) == 0
    assert "3 made, 0 already there, 0 failed" in capsys.readouterr().out
    assert len(list((tmp_path / "results").glob("*.png"))) == 3


def test_a_number_that_a_bench_reports_may_be_asked_for_and_comes_once() -> None:
    bench, options = bench_of("dreambooth"), {"without": ["dino-s16", "lpips"]}
    kinds = {"image", "mask", "exemplar"}
    plain = wanted_metrics(bench.metrics, Namespace(**options, extra=[]), kinds)
    assert wanted_metrics(bench.metrics, Namespace(**options, extra=["clip-i-b32"] * 2), kinds) == plain
    asked = wanted_metrics(bench.metrics, Namespace(**options, extra=["dino-s16", "fid-clean"]), kinds)
    assert asked[:-2] == plain  # a name of --with counts for more than the word of --without
    assert [metric.help for metric in asked[-2:]] == [metric_of(n).help for n in ("dino-s16", "fid-clean")]
    parser = argparse.ArgumentParser()
    add_bench_options(parser, bench)
    assert parser.parse_args(["--with", "clip-i-b32"]).extra == ["clip-i-b32"]


def test_a_metric_without_its_files_is_refused(folders, tmp_path, capsys) -> None:
    BENCHES["plain"] = "tests.evaluation.test_nouns:PLAIN"
    try:
        assert main(["plain", "--bench", str(folders), *words(tmp_path)[:-2], "--with", "whole"]) == 2
    finally:
        BENCHES.pop("plain")
    assert "--with whole needs a file of each case that there is not: truth" in capsys.readouterr().err


def __getattr__(name: str) -> object:
    """PLAIN, the bench of the example with one metric only; the example is imported by a fixture."""
    if name != "PLAIN":
        raise AttributeError(name)
    from dataclasses import replace

    return replace(bench_of("folders"), metrics=("background",))


def test_every_row_of_the_tables_is_one_and_says_what_it_needs() -> None:
    for name in METRICS:
        metric = metric_of(name)
        assert metric.help
        assert re.fullmatch(r"[a-z0-9-]+", name)
    for name in BENCHES:
        bench = bench_of(name)
        assert set(bench.metrics) <= METRICS.keys()
        assert len(set(bench.metrics)) == len(bench.metrics)
