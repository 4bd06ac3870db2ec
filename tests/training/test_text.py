"""Models that are told text in training: draws, prompts, what learns, where they begin, what is stored."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from intarsia.architecture import ModelConfig
from intarsia.conditioning import known_channels, latent_mask, mask_to_unit
from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.model import EditModel, build_model
from intarsia.sample import Sample
from intarsia.weights import read_model, save_model
from tests.closeness import longest_sum, relative_error, rounding
from tests.sampling.tiny import tiny_config
from tests.text import TEXT, make_stable_diffusion
from tests.training.stored import store
from tests.training.synthetic import make_sample, make_shards, write_config, write_shards
from tests.training.test_latents import first_batch, opened
from training.config import TrainConfig, require_paths
from training.data.batches import open_dataset
from training.data.texts import text_of
from training.estimate.counting import count_flops
from training.estimate.trial import made_up_batch
from training.finish import model_card
from training.model.base_hash import weights_facts
from training.model.build import choose_trained
from training.objective.draws import draw, draw_batch, noise_levels
from training.objective.edit import EditTrainee, prepare, told
from training.ranks.distributed import World
from training.run.state import TrainState
from training.tracking.previews import fixed_requests
from training.tracking.validation import Validation

SMALL = {"vocab_size": 514, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 2, "max_position_embeddings": 12}
TOWER = f"model.text_encoder={json.dumps(SMALL)}"
CPU = torch.device("cpu")


def config_of(folder: Path, condition: str, *overrides: str) -> TrainConfig:
    told = [] if condition == "exemplar" else [TOWER]
    return load_config(TrainConfig, write_config(folder), [f"model.condition={condition}", *told, *overrides])


def with_captions(sample: Sample, *captions: str) -> Sample:
    return replace(sample, meta=replace(sample.meta, captions=captions))


# -- draws -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_the_texts_draw_is_taken_last(tmp_path: Path, offset: float) -> None:
    positions = torch.arange(5)
    without, told = (
        draw(3, positions, config_of(tmp_path, name).model, 0.2, offset, 0.5) for name in ("exemplar", "both")
    )
    assert without.text_dropped is None
    for name in ("timesteps", "dropped", "noise", "image_noise", "masked_noise"):
        assert torch.equal(getattr(without, name), getattr(told, name))


def test_exemplar_and_text_drop_out_independently_for_each_sample(tmp_path: Path) -> None:
    small = config_of(tmp_path, "both", "model.image_size=4").model
    number = 4000
    draws = draw(0, torch.arange(number), small, 0.2, 0.0, 0.2)
    shares = [float(rows.float().mean()) for rows in (draws.dropped, draws.text_dropped)]
    together = float((draws.dropped & draws.text_dropped).float().mean())
    for share, expected in zip([*shares, together], (0.2, 0.2, 0.04), strict=True):
        assert abs(share - expected) < 4 * (expected * (1 - expected) / number) ** 0.5


# -- prompts ---------------------------------------------------------------------------------------------


def test_a_prompt_is_the_label_or_a_sentence_by_a_draw_of_the_position() -> None:
    meta = with_captions(make_sample(1), "one", "two", "three").meta
    assert {text_of(meta, "label", 0, place) for place in range(20)} == {"square"}
    captions = [text_of(meta, "caption", 0, place) for place in range(300)]
    assert captions == [text_of(meta, "caption", 0, place) for place in range(300)]
    assert captions != [text_of(meta, "caption", 1, place) for place in range(300)]
    assert all(70 < captions.count(text) < 130 for text in ("one", "two", "three"))
    either = [text_of(meta, "either", 0, place) for place in range(300)]
    assert 110 < either.count("square") < 190
    assert set(either) == {"square", "one", "two", "three"}
    bare = make_sample(1).meta
    assert text_of(bare, "either", 0, 0) == "square"
    with pytest.raises(
        UserError, match=r"sample s00001 has no caption; build the shards with captions, or set"
    ):
        text_of(bare, "caption", 0, 0)


def test_batches_hold_the_prompts_of_their_positions(tmp_path: Path) -> None:
    samples = [with_captions(make_sample(number), f"sentence {number}") for number in range(6)]
    shards = f"data.shards={write_shards(tmp_path / 'shards', [samples])}"
    for kind, expected in (("label", "square"), ("caption", "sentence")):
        config = config_of(tmp_path, "both", shards, f"data.text={kind}")
        batch = first_batch(config, open_dataset(config))
        assert all(text.startswith(expected) for text in batch.texts)
        assert kind == "label" or [f"sentence {int(key[1:])}" for key in batch.keys] == list(batch.texts)
    plain = config_of(tmp_path, "exemplar", shards)
    assert first_batch(plain, open_dataset(plain)).texts == []


@pytest.mark.parametrize("condition", ["text", "both"])
def test_prompts_are_never_stored_and_come_from_the_records(
    condition: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = f"data.shards={make_shards(tmp_path / 'shards')}"
    config = config_of(tmp_path, condition, shards)
    model = build_model(config.model, config.seed)
    folder, _ = store(config, monkeypatch)
    with safe_open(next(folder.glob("*.safetensors")), framework="pt") as file:
        assert set(file.keys()) == {"image", "masked", "mask"} | (
            {"pooled"} if condition == "both" else set()
        )
    stored = config.model_copy(update={"data": config.data.model_copy(update={"latents": True})})
    batch = first_batch(stored, opened(stored, model))
    assert (batch.image, batch.exemplar, batch.texts) == (None, None, ["square"] * 4)
    online = first_batch(config, open_dataset(config))
    assert batch.keys == online.keys
    levels, draws = noise_levels(config.model.noise), draw_batch(config, batch.positions)
    ours, theirs = (prepare(model, levels, each, draws, CPU) for each in (batch, online))
    assert torch.equal(ours.text, theirs.text)
    assert relative_error(ours.noisy_latents, theirs.noisy_latents) < 1e-2  # float16
    redrawn = stored.model_copy(update={"data": stored.data.model_copy(update={"redraw": True})})
    assert first_batch(redrawn, opened(redrawn, model)).texts == ["square"] * 4


# -- what learns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["text", "both"])
def test_the_cross_attention_learns_and_a_dropped_prompt_is_the_empty_one(
    condition: str, tmp_path: Path
) -> None:
    config = config_of(tmp_path, condition)
    model = build_model(config.model, 0)
    frozen = sum(not p.requires_grad for p in model.unet.parameters())
    choose_trained(model, config)
    assert sum(not p.requires_grad for p in model.unet.parameters()) == frozen == 0
    assert not any(param.requires_grad for param in model.text_encoder.parameters())
    batch, levels = made_up_batch(config, 0), noise_levels(config.model.noise)
    draws = replace(draw_batch(config, batch.positions), text_dropped=torch.tensor([True, False] * 2))
    trainee = EditTrainee(model)
    answer = trainee(prepare(model, levels, batch, draws, CPU))
    answer.square().sum().backward()
    query = [p for name, p in model.unet.named_parameters() if ".attn2.to_q." in name]
    assert query
    assert all(bool(param.grad.any()) for param in query)
    silent = replace(batch, texts=["" if n % 2 == 0 else text for n, text in enumerate(batch.texts)])
    told = replace(draws, text_dropped=torch.zeros(4, dtype=torch.bool))
    with torch.no_grad():
        same = trainee(prepare(model, levels, silent, told, CPU))
        other = trainee(prepare(model, levels, batch, told, CPU))
    assert relative_error(same, answer.detach()) < rounding(longest_sum(model.unet))
    assert (other[1::2] - answer[1::2]).abs().max() < (other[::2] - answer[::2]).abs().max() / 100
    lora = config_of(tmp_path, condition, "lora.rank=2", "model.init.model_folder=base").lora
    assert {"attn2.to_q", "attn2.to_k"} <= set(lora.targets)


def extra_of(config: ModelConfig, rng: torch.Generator) -> Tensor:
    mask = (torch.rand(2, 64, 64, generator=rng) < 0.5).to(torch.uint8) * 255
    grid = latent_mask(mask_to_unit(mask), (32, 32), config.unet.input_layout)
    return known_channels(torch.randn(2, 4, 32, 32, generator=rng), grid, config.unet.input_layout)


@pytest.mark.portable
@pytest.mark.parametrize("layout", ["pbe", "sd"])
def test_a_widened_text_model_begins_as_stable_diffusion(layout: str, tmp_path: Path) -> None:
    """At step 0 its output is Stable Diffusion's, whatever picture and mask."""
    folder = make_stable_diffusion(tmp_path)
    theirs = read_model(folder)
    told = ["model.condition=text", TEXT, f"model.unet.input_layout={layout}"]
    ours = build_model(tiny_config(f"model.init.stable_diffusion={folder}", *told), 0).eval()
    rng = torch.Generator().manual_seed(0)
    latents, tokens = torch.randn(2, 4, 32, 32, generator=rng), theirs.encode_text(["a dog", ""])
    assert torch.equal(tokens, ours.encode_text(["a dog", ""]))
    with torch.no_grad():
        expected = theirs.unet(latents, 500, encoder_hidden_states=tokens).sample
        answers = [
            ours.unet(torch.cat([latents, extra], dim=1), 500, encoder_hidden_states=tokens).sample
            for extra in (extra_of(ours.config, rng), extra_of(ours.config, rng))
        ]
    assert torch.equal(*answers)
    assert relative_error(answers[0], expected) < rounding(longest_sum(ours.unet))


def test_an_inpainting_model_is_a_start_in_its_own_layout_only(tmp_path: Path) -> None:
    folder = make_stable_diffusion(tmp_path, 9)
    told = ["model.condition=text", TEXT, f"model.init.stable_diffusion={folder}"]
    ours = build_model(tiny_config(*told, "model.unet.input_layout=sd"), 0)
    theirs = read_model(folder)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    with pytest.raises(UserError, match=r"takes 9 channels; .* with model.unet.input_layout=sd it fits"):
        build_model(tiny_config(*told), 0)
    base = ["model.condition=text", TEXT, f"model.init.model_folder={folder}"]
    build_model(tiny_config(*base, "model.unet.input_layout=sd"), 0)
    with pytest.raises(UserError, match=r"has unet.input_layout=sd, the model config pbe; set model.unet.in"):
        build_model(tiny_config(*base), 0)


# -- everything else that follows --------------------------------------------------------------------------


@pytest.mark.long
def test_the_estimate_counts_the_text_tower(tmp_path: Path) -> None:
    counts = {name: count_flops(config_of(tmp_path, name)) for name in ("exemplar", "text", "both")}
    assert set(counts["text"]) - set(counts["exemplar"]) == {"text"}
    assert counts["text"]["clip"] == 0
    assert counts["both"]["text"] == counts["text"]["text"] > 0
    assert counts["both"]["forward"] > counts["exemplar"]["forward"]


def test_ranks_compare_tower_and_vocabulary(tmp_path: Path) -> None:
    config = config_of(tmp_path, "both")
    model = build_model(config.model, 0)
    save_model(model, tmp_path / "base")
    model.tokenizer.save(tmp_path / "base" / "tokenizer", 12)
    loaded = config_of(tmp_path, "both", f"model.init.model_folder={tmp_path / 'base'}")
    first = weights_facts(build_model(loaded.model, 0), loaded)
    model.text_encoder.requires_grad_(False)
    for param in model.text_encoder.parameters():
        param.mul_(1.5)
    model.tokenizer.pad_token = "!"
    save_model(model, tmp_path / "base")
    second = weights_facts(build_model(loaded.model, 0), loaded)
    different = {name for name in first if first[name] != second[name]}
    assert different == {"the weights of text_encoder", "the tokenizer"}
    assert "the tokenizer" not in weights_facts(build_model(config_of(tmp_path, "exemplar").model, 0), config)


@pytest.mark.parametrize("condition", ["text", "both"])
def test_previews_and_validation_tell_what_the_model_is_told(condition: str, tmp_path: Path) -> None:
    shards = f"data.shards={make_shards(tmp_path / 'shards')}"
    config = config_of(tmp_path, condition, shards, "preview={every_steps: 1, num_images: 2}")
    dataset, model = open_dataset(config), build_model(config.model, 0)
    requests = fixed_requests(dataset, config)
    assert [request.prompt for request in requests] == ["square"] * 2
    assert all((request.exemplar is None) == (condition == "text") for request in requests)
    values = Validation(config, dataset, World(0, 1, CPU)).measure(EditTrainee(model), model, "val")
    ways = {"val/loss_exemplar", "val/loss_text"} if condition == "both" else set()
    assert set(values) == {"val/loss", *(f"val/loss_q{n}" for n in range(1, 5)), *ways}
    card = model_card(config, TrainState())
    assert ("exemplar dropout 0.2" in card) == (condition == "both")
    assert "text dropout 0.2" in card
    assert "--prompt" in card


def test_validation_drops_one_condition_in_every_row(tmp_path: Path) -> None:
    config = config_of(tmp_path, "both")
    model, batch = build_model(config.model, 0), made_up_batch(config, 0)
    step = prepare(model, noise_levels(config.model.noise), batch, draw_batch(config, batch.positions), CPU)
    ways = told(config, step)
    assert ways[""] is step
    assert not ways["exemplar"].dropped.any()
    assert ways["exemplar"].text_dropped.all()
    assert ways["text"].dropped.all()
    assert not ways["text"].text_dropped.any()
    alone = replace(step, features=None)
    assert told(config, alone) == {"": alone}


def refused(folder: Path, condition: str, *overrides: str) -> str:
    with pytest.raises(UsageError) as error:
        config_of(folder, condition, *overrides)
    return str(error.value)


def test_options_without_effect_and_towers_without_weights_are_refused(tmp_path: Path) -> None:
    none = "has no effect with model.condition="
    assert f"text_dropout=0.1 {none}exemplar; remove it" in refused(tmp_path, "exemplar", "text_dropout=0.1")
    assert f"data.text=either {none}exemplar" in refused(tmp_path, "exemplar", "data.text=either")
    assert f"exemplar_dropout=0.1 {none}text" in refused(tmp_path, "text", "exemplar_dropout=0.1")
    assert f"data.stored_tokens=true {none}text" in refused(tmp_path, "text", "data.stored_tokens=true")
    given = ["data.shards=x", "run=x", "model.unet.cross_attention_dim=768"]
    path = write_config(tmp_path)
    config = load_config(TrainConfig, path, ["model.condition=text", *given])
    with pytest.raises(UsageError, match="no weights for the text tower, which is not trained: add model"):
        require_paths(config)


def names_of(model: EditModel) -> Sequence[str]:
    return [name for name, _ in EditTrainee(model).named_parameters()]


def test_the_trained_part_of_a_text_model_is_its_unet_alone(tmp_path: Path) -> None:
    names = {kind: names_of(build_model(config_of(tmp_path, kind).model, 0)) for kind in ("text", "both")}
    assert {name.partition(".")[0] for name in names["text"]} == {"unet"}
    assert {name.partition(".")[0] for name in names["both"]} == {"unet", "exemplar_encoder"}
