"""Many exemplar tokens in training: what learns, what is told apart, what is stored, what is counted."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.model import EditModel, build_model
from intarsia.weights import save_model
from tests.closeness import longest_sum, relative_error, rounding
from tests.training.stored import store
from tests.training.synthetic import make_shards, write_config
from tests.training.test_latents import both_ways, first_batch, opened
from training.config import TrainConfig, require_paths
from training.estimate.counting import count_flops
from training.estimate.trial import made_up_batch
from training.latents.store import bytes_per_sample
from training.model.build import choose_trained
from training.objective.edit import EditTrainee
from training.objective.encode import posteriors
from training.objective.task import Step

BOTH = "model.exemplar.tokens=class+patches"
CPU = torch.device("cpu")
STEPS = 80  # with other seeds, too, 40 give an error below .1


def config_of(folder: Path, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, write_config(folder), ["data.num_workers=0", *overrides])


def step_of(config: TrainConfig, features: Tensor, target: Tensor) -> Step:
    rows, cells = len(features), config.model.latent_size
    return Step(
        noisy_latents=torch.zeros(rows, 4, cells, cells),
        timesteps=torch.full((rows,), 500),
        channels=torch.zeros(rows, 5, cells, cells),
        features=features,
        dropped=torch.zeros(rows, dtype=torch.bool),
        target=target,
    )


@pytest.mark.parametrize("tokens", ["class", "patches", "class+patches", "resampled"])
def test_query_and_key_learn_with_two_tokens_and_more(tokens: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, f"model.exemplar.tokens={tokens}")
    model = build_model(config.model, 0)
    choose_trained(model, config)
    features = torch.randn(2, *model.kind.feature_shape(config.model))
    EditTrainee(model)(step_of(config, features, torch.zeros(2, 4, 16, 16))).square().sum().backward()
    names = [name for name, _ in model.unet.named_parameters() if ".attn2.to_q." in name or "2.to_k." in name]
    assert names
    for name in names:
        weight = model.unet.get_parameter(name)
        assert weight.requires_grad == (tokens != "class")
        assert (weight.grad is not None and bool(weight.grad.any())) == (tokens != "class")
    for weight in model.exemplar_encoder.parameters():  # the queries, too; no exemplar was dropped
        null = weight is model.exemplar_encoder.null_exemplar
        query_and_key = tokens == "class"  # of the mapper, which are idle with one token, as in the UNet
        assert null or query_and_key or bool(weight.grad.any())
    lora = ["lora.rank=2", "model.init.model_folder=base", f"model.exemplar.tokens={tokens}"]
    targets = set(config_of(tmp_path, *lora).lora.targets)
    assert ({"attn2.to_q", "attn2.to_k"} <= targets) == (tokens != "class")


def blind_class_token(model: EditModel) -> EditModel:
    """Without attention no layer mixes tokens: all pictures have one class vector, but other patches."""
    with torch.no_grad():
        for name, param in model.image_encoder.named_parameters():
            if ".self_attn.out_proj." in name:
                param.zero_()
    return model


@pytest.mark.long
def test_fine_detail_is_told_apart_by_patches_and_not_by_the_class_vector(tmp_path: Path) -> None:
    """Two exemplars with one class vector want opposite answers; one answer for both has at least error 1."""
    rng = torch.Generator().manual_seed(2)
    exemplars = torch.randint(0, 256, (2, 32, 32, 3), generator=rng, dtype=torch.uint8)
    target = torch.stack([torch.ones(4, 16, 16), -torch.ones(4, 16, 16)])
    answers, errors = {}, {}
    for tokens, steps in (("class", 0), ("class+patches", STEPS)):
        config = config_of(tmp_path, f"model.exemplar.tokens={tokens}")
        model = blind_class_token(build_model(config.model, 1))
        features = model.encode_exemplar(model.normalise(exemplars))
        first, second = features if tokens == "class" else features[:, 0]
        assert torch.equal(first, second)
        step, trainee = step_of(config, features, target), EditTrainee(model)
        adam = torch.optim.Adam([p for p in trainee.parameters() if p.requires_grad], lr=3e-3)
        for _ in range(steps):
            adam.zero_grad()
            (trainee(step) - target).square().mean().backward()
            adam.step()
        with torch.no_grad():
            answers[tokens] = trainee(step)
        errors[tokens] = float((answers[tokens] - target).square().mean())
    assert torch.equal(*answers["class"])
    assert errors["class"] >= 1
    assert errors["class+patches"] < 0.1


@pytest.mark.portable
def test_tokens_are_stored_on_request_and_else_made_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = f"data.shards={make_shards(tmp_path / 'shards')}"
    without = config_of(tmp_path, shards, BOTH)
    asked = config_of(tmp_path, shards, BOTH, "data.stored_tokens=true")
    model = build_model(without.model, without.seed)
    folder, _ = store(without, monkeypatch)
    online, stored = both_ways(without, model, 8)
    assert torch.equal(online["pooled"], stored["pooled"])  # the image encoder sees the same pixels
    latents = without.model_copy(update={"data": without.data.model_copy(update={"latents": True})})
    batch = first_batch(latents, opened(latents, model), 8)
    assert (batch.image, set(batch.stored)) == (None, {"image", "masked", "mask"})
    whole = asked.model_copy(update={"data": asked.data.model_copy(update={"latents": True})})
    with pytest.raises(
        UserError, match=r"stored without the exemplar's tokens; run `python -m training cach"
    ):
        opened(whole, model)

    assert store(asked, monkeypatch)[0] == folder
    batch = first_batch(whole, opened(whole, model), 8)
    assert batch.exemplar is None
    tokens = posteriors(model, batch, CPU).features
    assert batch.stored["features"].dtype == torch.half
    assert relative_error(tokens, online["pooled"]) < max(rounding(longest_sum(model)), 1e-3)


def test_a_sample_of_the_real_size_takes_526_kb_of_tokens(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("model: {image_size: 512}\n")

    def size(*overrides: str) -> dict[str, int]:
        return bytes_per_sample(load_config(TrainConfig, tmp_path / "real.yaml", overrides))

    latents = 2 * 2 * 4 * 64 * 64 * 2 + 64 * 64 * 4
    assert size() == {"latents": latents, "features": 4096}
    assert size(BOTH) == {"latents": latents, "features": 0}
    assert size(BOTH, "data.stored_tokens=true") == {"latents": latents, "features": 526_336}
    with pytest.raises(
        UsageError, match=r"stored_tokens=true belongs to other model.exemplar.tokens than class"
    ):
        size("data.stored_tokens=true")


@pytest.mark.long
def test_the_estimate_counts_the_image_encoder_where_tokens_are_not_stored(tmp_path: Path) -> None:
    counts = {
        name: count_flops(config_of(tmp_path, *overrides))
        for name, overrides in {
            "latents": [BOTH, "data.latents=true"],
            "stored": [BOTH, "data.latents=true", "data.stored_tokens=true"],
        }.items()
    }
    assert counts["latents"]["clip"] > 0
    assert counts["latents"]["vae"] == counts["stored"]["vae"] == counts["stored"]["clip"] == 0
    for overrides in ([BOTH, "data.latents=true"], [BOTH, "data.latents=true", "data.stored_tokens=true"]):
        config = config_of(tmp_path, *overrides)
        model = build_model(config.model, 0)
        features = posteriors(model, made_up_batch(config, 0), CPU).features
        assert features.shape == (config.micro_batch_size, 17, 16)


def test_adapters_need_a_base_of_the_same_tokens_and_large_towers_weights(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    save_model(build_model(config.model, 0), tmp_path / "base")
    given = ["data.shards=x", "run=x", f"model.init.model_folder={tmp_path / 'base'}"]
    require_paths(config_of(tmp_path, *given, BOTH))
    require_paths(config_of(tmp_path, *given, "lora.rank=2"))
    with pytest.raises(
        UserError, match=r"has exemplar.tokens=class, the model config class\+patches; set mod"
    ):
        require_paths(config_of(tmp_path, *given, "lora.rank=2", BOTH))
    tower = "model.image_encoder={hidden_size: 384, intermediate_size: 1536, num_attention_heads: 6}"
    with pytest.raises(UsageError, match="no weights for DINOv2, which is not trained"):
        require_paths(config_of(tmp_path, *given[:2], "model.exemplar.encoder=dinov2", tower))
