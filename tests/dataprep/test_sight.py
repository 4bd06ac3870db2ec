"""What is shown of a folder is what it holds: choices, the page, histograms, the card, the W&B artifact."""

import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataprep.cli import main
from dataprep.look.page import contact_page
from dataprep.look.pick import WORST, Choice, pick_samples
from dataprep.look.stats import folder_stats
from dataprep.look.view import sample_cells
from dataprep.look.wandb_artifact import log_folder
from dataprep.shards.figures import AXES, bar_lines, block_line, histogram_lines, quantiles
from dataprep.shards.tally import BINS, mask_coverage
from intarsia.errors import UsageError
from intarsia.sample import Sample
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import toy_request

Inputs = tuple[Path, Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy_coco: Inputs) -> Path:
    out = tmp_path_factory.mktemp("sight") / "out"
    build_alone(toy_request(out, out, inputs=toy_coco, draws_per_image=4, max_aspect=9, min_side=20))
    return out


@pytest.fixture(scope="module")
def everything(folder: Path) -> list[Sample]:
    return pick_samples(folder, Choice(10_000))


def keys(samples: list[Sample]) -> list[str]:
    return [sample.meta.key for sample in samples]


def test_a_class_is_shown_whole_or_by_a_seeded_choice(folder: Path, everything: list[Sample]) -> None:
    cars = [sample.meta.key for sample in everything if sample.meta.label == "car"]
    assert 5 < len(cars) < len(everything)
    assert keys(pick_samples(folder, Choice(10_000, label="car"))) == cars
    few = {seed: keys(pick_samples(folder, Choice(3, seed, "car"))) for seed in range(30)}
    assert all(len(set(some)) == 3 and set(some) <= set(cars) for some in few.values())
    assert few[0] == keys(pick_samples(folder, Choice(3, 0, "car"))) != few[1]
    assert {key for some in few.values() for key in some} == set(cars)


def badness(sample: Sample, worst: str) -> float:
    box, window = sample.meta.box, sample.meta.window
    return {
        "smallest-mask": mask_coverage(sample.edit_mask),
        "largest-mask": -mask_coverage(sample.edit_mask),
        "largest-squash": -max(window.width / window.height, window.height / window.width),
        "longest-box": -max(box.width / box.height, box.height / box.width),
        "fewest-pixels": box.area,
    }[worst]


@pytest.mark.parametrize("worst", WORST)
@pytest.mark.parametrize("label", [None, "car"])
@pytest.mark.parametrize("number", [1, 5, 1000])
def test_the_worst_are_the_worst_of_all(
    folder: Path, everything: list[Sample], worst: str, label: str | None, number: int
) -> None:
    shown = pick_samples(folder, Choice(number, label=label, worst=worst))
    values = sorted(badness(s, worst) for s in everything if label in (None, s.meta.label))
    assert [badness(sample, worst) for sample in shown] == values[:number]
    assert len(set(keys(shown))) == len(shown)


def test_what_is_not_there_is_refused_with_what_is(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"--class 'cars': .* has no sample of it, but of car"):
        pick_samples(folder, Choice(3, label="cars"))
    with pytest.raises(UsageError, match=r"--worst ugliest: give one of smallest-mask, "):
        pick_samples(folder, Choice(3, worst="ugliest"))


class Figures(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.figures: list[dict[str, str | None]] = []
        self.options: list[str | None] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "figure":
            self.figures.append(values)
        if tag == "option":
            self.options.append(values["value"])
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:")]


def test_the_page_tells_each_figures_class_and_mask_and_offers_all_of_them(
    folder: Path, everything: list[Sample]
) -> None:
    page, cells = Figures(), [sample_cells(sample) for sample in everything]
    page.feed(contact_page(everything, cells, "<&>"))
    assert Counter(f["data-label"] for f in page.figures) == Counter(s.meta.label for s in everything)
    kinds = {f["data-mask"] for f in page.figures}
    assert {kind.partition(",")[0] for kind in kinds if kind} == {"box", "bezier"}
    assert set(page.options) == {"", "car", "stop sign"} | kinds
    assert page.outside == []
    assert "<&>" not in contact_page(everything[:1], cells[:1], "<&>")


@given(st.lists(st.integers(0, 1000), min_size=BINS, max_size=BINS), st.integers(1, BINS))
def test_a_line_of_blocks_shows_what_is_there_and_nothing_else(histogram: list[int], columns: int) -> None:
    line = block_line(histogram, columns)
    assert len(line) == columns
    edges = np.linspace(0, BINS, columns + 1).round().astype(int)
    filled = [sum(histogram[a:b]) > 0 for a, b in itertools.pairwise(edges)]
    assert [block != " " for block in line] == filled
    if any(filled):
        assert "█" in line


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 10**6), max_size=9))
def test_bars_account_for_every_number(numbers: dict[str, int]) -> None:
    lines = bar_lines(numbers, most=4)
    assert len(lines) == min(len(numbers), 4) + (len(numbers) > 4)
    rest = sorted(numbers.values(), reverse=True)[4:]
    assert not rest or lines[-1] == f"and {len(rest)} more with {sum(rest):,}"


def test_histograms_are_those_of_the_samples(folder: Path, everything: list[Sample]) -> None:
    content = folder_stats(folder)
    aspects = [sample.meta.box.width / sample.meta.box.height for sample in everything]
    assert all(sum(histogram) == len(everything) for histogram in content["histograms"].values())
    middle = content["quantiles"]["box_aspect"]["50%"]
    assert middle == pytest.approx(float(np.quantile(aspects, 0.5, method="inverted_cdf")), rel=0.1)
    assert quantiles("box_aspect", [0] * BINS)["50%"] is None
    assert [AXES["box_aspect"].value(place) for place in (0, 0.5, 1)] == pytest.approx([1 / 8, 1, 8])


def test_stats_are_printed_and_drawn(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", str(folder), "--out", str(tmp_path / "stats.png")]) == 0
    text = capsys.readouterr().out
    for line in histogram_lines(folder_stats(folder)["histograms"]):
        assert line in text
    with Image.open(tmp_path / "stats.png") as picture:
        assert picture.size == (1400, 900)
        assert len(np.unique(np.array(picture.convert("L")))) > 50
    assert main(["stats", str(folder), "--out", str(tmp_path / "stats.svg")]) == 2
    assert "the name must end in .png" in capsys.readouterr().err


def test_the_command_shows_by_class_and_by_worst(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "sheet.html")
    assert main(["show", str(folder), "--out", out, "--class", "car", "--worst", "smallest-mask"]) == 0
    assert "12 samples in" in capsys.readouterr().out
    assert set(re.findall(r'data-label="([^"]*)"', Path(out).read_text())) == {"car"}


def test_the_card_tells_rules_figures_and_rejects(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    for text in (
        "sides of 20 px at least",
        "at most 9 : 1",
        "not crowd",
        "area_too_small",
        "| min_side | 20 |",
    ):
        assert text in card
    for line in histogram_lines(folder_stats(folder)["histograms"]):
        assert line in card


@pytest.mark.processes
def test_the_artifact_holds_manifest_card_and_pictures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    where = log_folder(folder, "shards")
    shown = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", where],
        capture_output=True,
        text=True,
        check=True,
    )
    records = [json.loads(line) for line in shown.stdout.splitlines()]
    (artifact,) = [record["artifact"] for record in records if record["type"] == "artifact"]
    assert (artifact["name"], artifact["type"]) == ("toy-train", "dataset")
    stored = {item["path"]: Path(item["local_path"]) for item in artifact["manifest"]["contents"]}
    assert set(stored) == {"manifest.json", "README.md", "sheet.png", "sheet.html", "stats.png"}
    for name in ("manifest.json", "README.md"):
        assert stored[name].read_bytes() == (folder / name).read_bytes()
    with Image.open(stored["sheet.png"]) as sheet:
        assert sheet.height > 1000
    metadata = json.loads(artifact["metadata"])
    assert metadata["kept"] == folder_stats(folder)["kept"]
    assert not (folder / "wandb").exists()


@pytest.mark.processes
def test_wandb_is_imported_only_when_asked() -> None:
    probe = (
        "import sys, dataprep.cli, dataprep.build, dataprep.look.contact_sheet; print('wandb' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
