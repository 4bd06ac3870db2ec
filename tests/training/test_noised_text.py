"""Noised encoders that compare with prompts: their vectors, losses, folders, and what they guide."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from intarsia.conditions.noised import noised_hash, read_noised, save_noised
from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.model import EditModel, build_model
from intarsia.model_folder import NOISED_ENCODER
from sampling.canvas.edits import EditRequest
from sampling.editing import edit
from sampling.settings import EditSettings
from tests.sampling.tiny import request
from tests.training.synthetic import write_config
from tests.training.test_text import TOWER
from training.config import TrainConfig
from training.estimate.counting import count_flops
from training.estimate.trial import made_up_batch
from training.finish import model_card
from training.objective.draws import draw_batch, noise_levels
from training.objective.noised import TASK, NoisedTrainee, contrast_errors
from training.objective.task import Step
from training.run.state import TrainState

CPU = torch.device("cpu")
FEW = EditSettings(num_inference_steps=3, scheduler="ddim")
OPTIONS = ["task=noised-clip", "model.condition=text", "model.noised={patch: 4, group: 2}"]
GUIDED = FEW.model_copy(update={"clip_guidance": 50.0})


def config_of(folder: Path, told: str, compared: str = "null") -> TrainConfig:
    noised = f"model.noised={{size: toy, patch: 4, dim: 8, group: 2, condition: {compared}}}"
    tower = [] if told == "exemplar" else [TOWER]
    options = ["task=noised-clip", f"model.condition={told}", noised, "data.shards=S", *tower]
    return load_config(TrainConfig, write_config(folder), options)


def step_of(config: TrainConfig, model: EditModel) -> Step:
    batch = made_up_batch(config, seed=0)
    draws = draw_batch(config, batch.positions)
    return TASK.prepare(model, noise_levels(config.model.noise), batch, draws, CPU)


def edit_model(folder: Path, told: str, seed: int = 5) -> EditModel:
    """A model that can be guided, with the frozen networks of its seed."""
    config = config_of(folder, told).model
    return build_model(config.model_copy(update={"noised": None}), seed).eval()


def saved(folder: Path, told: str, compared: str = "null") -> Path:
    """An untrained encoder for `edit_model` of seed 5."""
    folder.mkdir(parents=True, exist_ok=True)
    config, base = config_of(folder, told, compared), edit_model(folder, told)
    encoder = build_model(config.model, 5).noised
    assert encoder is not None
    save_noised(encoder, config.model, noised_hash(base, encoder.parts), folder / "noised", "card")
    return folder / "noised"


def guided_model(folder: Path, told: str, compared: str) -> EditModel:
    model = edit_model(folder, told)
    model.noised = read_noised(saved(folder / compared, told, compared), model)
    return model


def painted(model: EditModel, own: EditRequest, settings: EditSettings) -> np.ndarray:
    return edit(model, [own], settings)[0].image


def test_the_vector_of_a_prompt_is_its_towers_own(tmp_path: Path) -> None:
    """transformers' `pooler_output`: the token at the first end; also of an empty and of a cut prompt."""
    model = edit_model(tmp_path, "text")
    texts = ["a dog", "", "one prompt that is longer than all tokens"]
    assert model.tokenizer is not None
    ids = model.tokenizer(texts, model.config.text_encoder.max_position_embeddings)
    with torch.no_grad():
        expected = model.text_encoder(input_ids=ids).pooler_output
    assert torch.equal(model.pool_text(texts, model.encode_text(texts)), expected)


def test_of_both_the_loss_is_the_mean_and_does_not_depend_on_the_micro_batch(tmp_path: Path) -> None:
    config = config_of(tmp_path, "both", "both")
    model = build_model(config.model, 5)
    step, trainee = step_of(config, model), NoisedTrainee(model)
    logits = trainee(step)
    assert logits.shape == (2, 2, 2, 2)
    errors = contrast_errors(logits)
    alone = [contrast_errors(way[None]) for way in logits]
    assert torch.allclose(errors, sum(alone) / 2)
    assert not torch.allclose(alone[0], alone[1])
    split = [
        replace(
            step,
            **{
                name: value[rows]
                for name, value in vars(step).items()
                if value is not None and len(value) == 4
            },
        )
        for rows in (slice(0, 2), slice(2, 4))
    ]
    assert torch.allclose(torch.cat([contrast_errors(trainee(part)) for part in split]), errors, rtol=1e-5)
    TASK.loss(logits, step).backward()
    for name in ("project_exemplar", "project_text"):
        assert model.noised.get_submodule(name).weight.grad.abs().max() > 0
    sick = logits.detach().clone()
    sick[1, 0, 0, 0] = torch.nan
    assert TASK.sick(sick, step).tolist() == [True, True, False, False]


def test_what_is_compared_follows_from_the_model_unless_it_is_named(tmp_path: Path) -> None:
    """Encoders of models told both compared with exemplars alone before, and do so by default."""
    for told, compared, parts in (
        ("exemplar", "null", ("exemplar",)),
        ("both", "null", ("exemplar",)),
        ("text", "null", ("text",)),
        ("both", "text", ("text",)),
        ("both", "both", ("exemplar", "text")),
    ):
        config = config_of(tmp_path, told, compared)
        assert config.model.noised_parts == parts
        folder = saved(tmp_path / f"{told}-{compared}", told, compared)
        written = json.loads((folder / NOISED_ENCODER).read_text())["noised"]
        assert written.get("condition") == {1: "text" if parts == ("text",) else None, 2: "both"}[len(parts)]
        assert read_noised(folder, edit_model(tmp_path, told)).parts == parts
        card = model_card(config, TrainState())
        assert f"Finds the {' and the '.join(parts).replace('text', 'prompt')} of a noisy picture" in card
        assert count_flops(config)["forward"] > 0


def test_an_edit_is_guided_by_what_it_has(tmp_path: Path) -> None:
    model, plain = guided_model(tmp_path, "both", "both"), edit_model(tmp_path, "both")
    whole = replace(request(1), prompt="a dog")
    prompt, exemplar = replace(whole, exemplar=None), replace(whole, prompt="")
    for own in (whole, prompt, exemplar):
        before = painted(plain, own, FEW)
        assert np.array_equal(painted(model, own, FEW), before), "without a scale it changes nothing"
        assert (painted(model, own, GUIDED) != before).any()
    both = edit(model, [exemplar, prompt, whole], GUIDED)
    for own, result in zip((exemplar, prompt, whole), both, strict=True):
        assert np.abs(result.image.astype(int) - painted(model, own, GUIDED)).max() <= 1, "rows are their own"
    other = replace(prompt, prompt="a very different thing")
    of_text = guided_model(tmp_path, "both", "text")
    changes = [
        painted(of_text, own, GUIDED).astype(int) - painted(plain, own, FEW) for own in (prompt, other)
    ]
    assert (changes[0] != changes[1]).any()


def test_an_edit_without_what_is_compared_is_not_guided_and_says_so(tmp_path: Path) -> None:
    model = guided_model(tmp_path, "both", "exemplar")
    own = replace(request(1), exemplar=None, prompt="a dog")
    [plain], [result] = edit(model, [own], FEW), edit(model, [own], GUIDED)
    assert np.array_equal(result.image, plain.image)
    sentence = "clip_guidance=50 had no effect: the noised encoder compares with an exemplar, which this edit"
    assert [text for text in result.remarks if sentence in text]
    assert not [text for text in plain.remarks if "clip_guidance" in text]


def test_encoders_of_other_models_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "both", "both")
    with pytest.raises(UserError, match="compares pictures with prompts, which this model is not told"):
        read_noised(folder, edit_model(tmp_path, "exemplar"))
    with pytest.raises(UserError, match="compares pictures with exemplars, which this model is not told"):
        read_noised(folder, edit_model(tmp_path, "text"))
    with pytest.raises(UserError, match="another autoencoder, image or text tower than this model"):
        read_noised(folder, edit_model(tmp_path, "both", seed=6))
    with pytest.raises(
        UsageError, match=r"model\.noised\.condition=both compares pictures with what a model"
    ):
        config_of(tmp_path, "exemplar", "both")
    with pytest.raises(UsageError, match=r"text_dropout=0\.1 has no effect with task=noised-clip"):
        load_config(TrainConfig, write_config(tmp_path), [*OPTIONS, TOWER, "text_dropout=0.1"])
