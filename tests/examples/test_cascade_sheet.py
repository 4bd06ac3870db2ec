"""The numbers and sheets of `make demo-cascade`: what has an effect is said, and what has none, too."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from intarsia.architecture import NoisedConfig
from intarsia.conditions.noised import NoisedEncoder
from intarsia.model import EditModel
from tests.paths import ROOT
from tests.sampling.tiny import tiny_model
from tests.training.synthetic import make_sample

sys.path.insert(0, str(ROOT / "examples"))  # its scripts import each other

import demo_cascade_sheet as sheet


@pytest.fixture(scope="module")
def model() -> EditModel:
    base = tiny_model(2)
    noised = NoisedConfig(size="toy", patch=4, dim=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base.noised = NoisedEncoder(base.config.model_copy(update={"noised": noised})).eval()
    base.upsampler = tiny_model(5, "model.low_res={factor: 2}")
    return base


def enlarged(*gains: float) -> list[sheet.Enlarged]:
    empty = np.zeros((64, 64, 3), np.uint8)
    ways = {"base": empty, "bilinear": empty, "upsampled": empty}
    found = [{"base": 10.0, "bilinear": 12.0, "upsampled": 12.0 + gain} for gain in gains]
    return [sheet.Enlarged(empty, ways, one, empty) for one in found]


def test_what_has_an_effect_and_what_has_none_is_said() -> None:
    columns = [
        sheet.Guided(0.0, (0.10, 0.12, 0.11), ()),
        sheet.Guided(1.0, (0.08, 0.10, 0.095), ()),
        sheet.Guided(2.0, (0.12, 0.10, 0.111), ()),
    ]
    one, two, three = sheet.sentences(columns, enlarged(2.0, 2.5, 3.0))
    assert one.startswith(
        "Guidance by the noised encoder at W = 1 has an effect: the error in the holes is 0.0917"
    )
    assert "a change of -0.0200 to -0.0150 over the seeds" in one
    assert "at W = 2 has NO EFFECT on the error beyond what repeated seeds change" in two
    assert three.startswith(
        "The upsampler has an effect: +2.5 dB (+- 0.3) in the hole compared with bilinear"
    )
    assert "has NO EFFECT beyond what differs" in sheet.sentences(columns, enlarged(2.0, -2.5, 0.1))[-1]


@pytest.mark.whole
def test_everything_is_measured_and_shown(model: EditModel, tmp_path: Path) -> None:
    samples = [make_sample(number, 64) for number in range(3)]
    samples = [replace(s, meta=replace(s.meta, image_id=str(n))) for n, s in enumerate(samples)]
    lines = sheet.report(sheet.Cascade(model, samples), tmp_path)
    assert lines[0] == "Own exemplar found among 3 (chance 0.33), at t = 125, 375, 625, 875"
    assert [line.count("0.") + line.count("1.") for line in lines[1:3]] == [4, 4]
    assert lines[3].startswith("PSNR in the hole: base ")
    assert "bilinear" in lines[3]
    assert len(lines) == 4 + 3
    page = (tmp_path / "index.html").read_text()
    assert all(line.split(":")[0].strip() in page for line in lines)
    for name in ("guidance.png", "upsampler.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_the_base_is_the_edit_at_low_resolution(model: EditModel) -> None:
    [one] = sheet.enlarge(model, [make_sample(1, 64)])
    hole = make_sample(1, 64).edit_mask >= 128
    for picture in one.pictures.values():
        assert np.array_equal(picture[~hole], one.truth[~hole])
    blocks = one.pictures["base"].reshape(32, 2, 32, 2, 3)
    whole = hole.reshape(32, 2, 32, 2).all(axis=(1, 3))
    assert np.array_equal(blocks[:, 0, :, 0][whole], blocks[:, 1, :, 1][whole])
    assert one.psnr["base"] == pytest.approx(sheet.psnr(one.pictures["base"], one.truth, hole))
