"""The numbers and the sheet of `make demo-conditions`: what has an effect is said, and what has none, too."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from intarsia.boxes import Box
from intarsia.config import load_config
from intarsia.sample import Sample
from sampling.canvas.edits import EditRequest, EditResult
from sampling.editing import edit
from sampling.painters.own import painting_with
from sampling.settings import EditSettings
from tests.paths import ROOT
from tests.text import text_model
from tests.training.synthetic import make_sample
from training.config import TrainConfig

sys.path.insert(0, str(ROOT / "examples"))  # its scripts import each other

import demo_conditions_sheet as sheet

FEW = EditSettings(guidance_scale=1.0, text_guidance_scale=1.0, num_inference_steps=2, fit="resize")


def samples(number: int = 4, size: int = 64) -> list[Sample]:
    """Samples of different pictures and labels."""
    made = [make_sample(i, size) for i in range(number)]
    return [replace(s, meta=replace(s.meta, label=f"thing {i}")) for i, s in enumerate(made)]


def painted_by_exemplar(
    requests: Sequence[EditRequest], settings: EditSettings, on_step: object = None
) -> list[EditResult]:
    """The hole in the exemplar's colour, which is the truth, plus noise of the seed; grey without one."""
    results = []
    for request in requests:
        colour = 128 if request.exemplar is None else request.exemplar.mean((0, 1))
        noise = np.random.default_rng(request.seed).normal(0, 5, request.image.shape)
        hole = np.asarray(request.edit_mask)[..., None]
        image = np.where(hole, np.clip(colour + noise, 0, 255), request.image).astype(np.uint8)
        box = Box(0, 0, *request.image.shape[:2])
        results.append(EditResult(image, request, settings, (), box, (0.0, 0.0, 0.0), {}))
    return results


def test_partners_have_other_labels_and_swap_with_each_other() -> None:
    made = [
        replace(s, meta=replace(s.meta, label=label)) for s, label in zip(samples(7), "abacada", strict=True)
    ]
    # Two more samples of picture 0, with rarer labels.
    made += [replace(made[0], meta=replace(made[0].meta, label=label)) for label in "xy"]
    chosen = sheet.choose_samples(made, 6)
    assert len(chosen) == 6
    assert len({sample.meta.image_id for sample in chosen}) == 6
    labels = [sample.meta.label for sample in chosen]
    assert labels == sorted(labels)
    for i in range(6):
        other = sheet.partner(i, 6)
        assert sheet.partner(other, 6) == i
        assert labels[i] != labels[other]


def test_what_a_painter_obeys_has_an_effect_and_the_rest_has_none(tmp_path: Path) -> None:
    columns = {c.title: c for c in sheet.measure(painted_by_exemplar, samples(), settings=FEW)}
    assert list(columns) == list(sheet.WAYS)
    both = columns["both + edges"]
    assert both.works("exemplar")
    assert not both.works("text")
    assert not both.works("edges")
    assert both.swapped["text"] == both.errors, "the same noise, so that only the condition differs"
    assert both.error < 2 * (5 / 255) ** 2 < columns["text"].error / 10
    said = sheet.sentences(list(columns.values()))
    assert len(said) == sum(len(told) for told in sheet.WAYS.values())
    assert said[0].startswith(
        "exemplar: exemplar has an effect: with another picture's exemplar the error is "
    )
    assert re.match(
        r"text: text has NO EFFECT beyond what repeated seeds change: with another picture's text the error "
        r"is (\S+) instead of \1, a change of \+0.0000 to \+0.0000 over the seeds",
        said[1],
    )
    [_, *rows] = sheet.table(list(columns.values()))
    assert [row.count("no effect") for row in rows] == [0, 0, 1, 1, 1, 1, 2, 2]
    assert sheet.shows(columns["exemplar + edges"])
    assert not sheet.shows(columns["text + edges"])
    whole = np.asarray(sheet.draw_sheet(samples(), list(columns.values())))
    cell = sheet.CELL + 8
    for title, empty in (("text", True), ("exemplar", False)):
        left = 8 + cell * (3 + list(columns).index(title))
        shown = whole[30 : 30 + 100, left + 5 : left + 100]
        assert (shown.std() < 30) == empty
    sheet.write_page(tmp_path, samples(), list(columns.values()))
    page = (tmp_path / "index.html").read_text()
    assert "text: text has NO EFFECT beyond" in page
    unsteady = sheet.Column("x", ("text",), (1.0, 2.0, 3.0), {"text": (1.3, 2.2, 3.25)})
    assert unsteady.works("text"), "0.2 to 0.3 more: steadier than the errors themselves"
    assert not replace(unsteady, swapped={"text": (1.5, 2.0, 3.1)}).works("text"), "0.0 to 0.5 more"
    assert (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.mark.long
def test_a_column_is_what_the_model_paints_told_so() -> None:
    model = text_model(4, "both", "model.structure.maps=[edges]", "model.exemplar.tokens=class+patches")
    with torch.no_grad():  # new channels begin at zero
        model.unet.conv_in.weight[:, 9:] = model.unet.conv_in.weight[:, 4:5]
    own = samples(2)
    ways = {"all": ("exemplar", "text", "edges"), "text": ("text",)}
    columns = sheet.measure(painting_with(model), own, 1, FEW, ways)
    for column in columns:
        assert all(column.swapped[name] != column.errors for name in column.told), column.title
    for i, sample in enumerate(own):
        asked = EditRequest(sample.image, sample.edit_mask >= 128, None, i, prompt=f"thing {i}")
        assert np.abs(edit(model, [asked], FEW)[0].image.astype(int) - columns[1].images[i]).max() <= 1


def test_the_config_trains_what_the_sheet_measures() -> None:
    config = load_config(TrainConfig, ROOT / "configs/train/demo-conditions.yaml")
    model = config.model
    assert (model.parts, model.structure.maps) == (("exemplar", "text"), ("edges",))
    assert model.num_tokens == 65 + 24
    assert min(config.exemplar_dropout, config.text_dropout, model.structure.dropout) > 0.2, "each alone, too"
