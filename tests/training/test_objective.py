"""The objective against the equations written out, and against diffusers' exemplar encoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPVisionConfig

from intarsia.config import load_config
from intarsia.model import EditModel, build_model
from intarsia.pretrained import image_encoder_state
from tests.closeness import longest_sum, relative_error, rounding
from tests.training.synthetic import make_sample, write_config
from training.config import TrainConfig
from training.data.batches import Batch, collate
from training.model.frozen import freeze_unused
from training.objective.draws import draw, noise_levels
from training.objective.edit import EditTrainee, loss_of, prepare
from training.option_groups import ObjectiveConfig

pytestmark = pytest.mark.portable


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return load_config(TrainConfig, write_config(tmp_path_factory.mktemp("config")))


@pytest.fixture(scope="module")
def model(config: TrainConfig) -> EditModel:
    return build_model(config.model, seed=0)


def batch_at(*positions: int) -> Batch:
    batch = collate([(position, make_sample(position)) for position in positions])
    assert isinstance(batch, Batch)
    return batch


def differences(model: EditModel, config: TrainConfig, batch: Batch, dropout: float) -> tuple[Tensor, float]:
    """The answers less their targets [B, C, h, w], and the loss."""
    draws = draw(config.seed, batch.positions, config.model, dropout)
    step = prepare(model, noise_levels(config.model.noise), batch, draws, torch.device("cpu"))
    with torch.no_grad():
        answers = EditTrainee(model)(step)
        return answers - step.target, float(loss_of(answers, step))


@torch.no_grad()
def by_the_equations(model: EditModel, config: TrainConfig, batch: Batch, dropout: float) -> Tensor:
    """The equations, picture by picture, with nothing of ours but the networks and the draws."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    clip_mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    clip_std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    draws = draw(config.seed, batch.positions, config.model, dropout)
    found = []
    for i in range(len(batch.keys)):
        image = (batch.image[i].double() / 255 * 2 - 1).float().permute(2, 0, 1)[None]
        keep = 1 - (batch.edit_mask[i].double() / 255).float()[None, None]
        latents = []
        for picture, noise in ((image, draws.image_noise[i]), (image * keep, draws.masked_noise[i])):
            moments = model.vae.quant_conv(model.vae.encoder(picture))
            mean, log_variance = moments.chunk(2, dim=1)
            latents.append(0.18215 * (mean + torch.exp(log_variance.clamp(-30, 20) / 2) * noise))
        a = float(alphas_cumprod[draws.timesteps[i]])
        noisy = a**0.5 * latents[0] + (1 - a) ** 0.5 * draws.noise[i]
        small_keep = F.interpolate(keep, latents[0].shape[-2:], mode="bilinear")
        exemplar = batch.exemplar[i].float().permute(2, 0, 1)[None] / 255
        exemplar = F.interpolate(exemplar, (32, 32), mode="bilinear", antialias=True)
        exemplar = (exemplar - clip_mean[:, None, None]) / clip_std[:, None, None]
        token = model.exemplar_encoder.null_exemplar
        if not draws.dropped[i]:
            token = model.exemplar_encoder(model.image_encoder(exemplar).pooler_output)
        answer = model.unet(
            torch.cat([noisy, latents[1], small_keep], 1),
            int(draws.timesteps[i]),
            encoder_hidden_states=token,
        ).sample
        target = draws.noise[i]
        if config.model.noise.prediction_type == "v_prediction":
            target = a**0.5 * draws.noise[i] - (1 - a) ** 0.5 * latents[0]
        found.append(answer - target)
    return torch.cat(found)


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_the_loss_is_that_of_the_equations(model: EditModel, config: TrainConfig, dropout: float) -> None:
    batch = batch_at(3, 11, 4, 5, 8)
    expected, limit = by_the_equations(model, config, batch, dropout), rounding(longest_sum(model))
    ours, loss = differences(model, config, batch, dropout)
    assert relative_error(ours, expected) < limit
    assert loss == pytest.approx(float(expected.square().mean()), rel=limit)


def test_a_model_of_velocities_learns_them_instead_of_the_noise(config: TrainConfig, tmp_path: Path) -> None:
    velocities = load_config(
        TrainConfig, write_config(tmp_path), ["model.noise.prediction_type=v_prediction"]
    )
    model, batch = build_model(velocities.model, seed=0), batch_at(3, 11, 4)
    expected, limit = by_the_equations(model, velocities, batch, 0.5), rounding(longest_sum(model))
    ours, loss = differences(model, velocities, batch, 0.5)
    assert relative_error(ours, expected) < limit
    assert loss == pytest.approx(float(expected.square().mean()), rel=limit)
    assert relative_error(ours, by_the_equations(model, config, batch, 0.5)) > 0.1


def test_draws_depend_on_seed_and_position_alone(config: TrainConfig) -> None:
    together = draw(1, torch.tensor([7, 8, 9]), config.model, 0.5)
    alone = draw(1, torch.tensor([9]), config.model, 0.5)
    other = draw(2, torch.tensor([9]), config.model, 0.5)
    assert torch.equal(together.noise[2], alone.noise[0])
    assert torch.equal(together.masked_noise[2], alone.masked_noise[0])
    assert together.timesteps[2] == alone.timesteps[0]
    assert not torch.equal(alone.noise, other.noise)
    assert not torch.equal(alone.noise, alone.image_noise)


def test_offset_noise_is_one_number_per_channel_and_changes_no_other_draw(config: TrainConfig) -> None:
    plain, offset = (draw(1, torch.arange(400), config.model, 0.5, strength) for strength in (0.0, 0.1))
    difference = offset.noise - plain.noise
    assert float(difference.std(dim=(2, 3)).max() / plain.noise.abs().max()) < rounding(1)
    assert float(difference.mean(dim=(2, 3)).std()) == pytest.approx(0.1, rel=0.1)
    for name in ("timesteps", "dropped", "image_noise", "masked_noise"):
        assert torch.equal(getattr(plain, name), getattr(offset, name))
    assert torch.equal(draw(1, torch.tensor([7]), config.model, 0.5, 0.1).noise[0], offset.noise[7])


def test_the_step_reads_nothing_back_to_the_processor(model: EditModel, config: TrainConfig) -> None:
    """On a GPU a value that the program looks at makes it wait for everything before."""

    class Ops(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: set[str] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.add(str(func).removesuffix(".default"))
            return func(*args, **(kwargs or {}))

    batch, options = batch_at(3, 11, 4), ObjectiveConfig(min_snr_gamma=5, mask_weight=3)
    draws, scheduler = draw(0, batch.positions, config.model, 0.5), noise_levels(config.model.noise)
    with Ops() as ops:
        step = prepare(model, scheduler, batch, draws, torch.device("cpu"), options)
        loss_of(EditTrainee(model)(step), step).backward()
    assert "aten.convolution_backward" in ops.seen
    assert not ops.seen & {"aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.masked_select"}
    with Ops() as ops:
        float(torch.ones(()))
    assert "aten._local_scalar_dense" in ops.seen


def test_draws_have_the_distributions_they_claim(config: TrainConfig) -> None:
    draws = draw(0, torch.arange(3000), config.model, 0.2)
    assert 0.17 < draws.dropped.float().mean() < 0.23
    assert draws.timesteps.min() < 10
    assert draws.timesteps.max() > 990
    assert 480 < draws.timesteps.float().mean() < 520
    for noise in (draws.noise, draws.image_noise, draws.masked_noise):
        assert abs(float(noise.mean())) < 0.01
        assert abs(float(noise.std()) - 1) < 0.01


def test_the_exemplar_is_dropped_sample_by_sample(model: EditModel, config: TrainConfig) -> None:
    """A dropped sample does not see its exemplar, its neighbour in the batch does."""
    batch = batch_at(0, 1, 2, 3, 4, 5, 6, 7)
    blank = Batch(batch.positions, batch.keys, batch.image, batch.edit_mask, torch.zeros_like(batch.exemplar))
    draws = draw(config.seed, batch.positions, config.model, 0.5)
    assert 0 < draws.dropped.sum() < 8
    scheduler, trainee = noise_levels(config.model.noise), EditTrainee(model)
    with torch.no_grad():
        answers = [trainee(prepare(model, scheduler, b, draws, torch.device("cpu"))) for b in (batch, blank)]
    changed = (answers[0] - answers[1]).abs().amax(dim=(1, 2, 3)) > 0
    assert torch.equal(changed, ~draws.dropped)


def test_the_token_equals_diffusers_on_the_same_weights(model: EditModel, config: TrainConfig) -> None:
    shape = config.model.image_encoder
    theirs = PaintByExampleImageEncoder(
        CLIPVisionConfig(**shape.model_dump(), projection_dim=config.model.unet.cross_attention_dim)
    )
    state = image_encoder_state(model)
    renamed = dict(state)
    if not any(name.startswith("model.vision_model.") for name in theirs.state_dict()):
        renamed = {name.replace("model.vision_model.", "model."): value for name, value in state.items()}
    theirs.load_state_dict(renamed)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.eval()(pixels)
        ours = model.exemplar_encoder(model.encode_exemplar(pixels))
    assert relative_error(ours, expected) < rounding(longest_sum(theirs))


def test_weights_left_out_as_unused_get_no_gradient(model: EditModel, config: TrainConfig) -> None:
    batch = batch_at(0, 1, 2)
    draws = draw(0, batch.positions, config.model, 0.2)
    step = prepare(model, noise_levels(config.model.noise), batch, draws, torch.device("cpu"))
    model.zero_grad()
    loss_of(EditTrainee(model)(step), step).backward()
    weights = dict(model.unet.named_parameters())
    gradients = {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in weights.items()}
    frozen = freeze_unused(model)
    left_out = {name for name, p in model.unet.named_parameters() if not p.requires_grad}
    model.unet.requires_grad_(True)
    assert frozen == sum(p.numel() for name, p in model.unet.named_parameters() if name in left_out)
    assert left_out
    assert not any(gradients[name] for name in left_out)
    assert min(value for name, value in gradients.items() if name not in left_out) > 1e-9


def test_the_frozen_parts_stay_frozen(model: EditModel) -> None:
    trained = {name for name, p in EditTrainee(model).named_parameters() if p.requires_grad}
    assert all(name.startswith(("unet.", "exemplar_encoder.")) for name in trained)
    assert "exemplar_encoder.null_exemplar" in trained
    assert not any(p.requires_grad for part in (model.vae, model.image_encoder) for p in part.parameters())


def test_configs_name_their_noise(config: TrainConfig, tmp_path: Path) -> None:
    scheduler = noise_levels(config.model.noise)
    assert float(scheduler.alphas_cumprod[999]) == pytest.approx(0.00466, abs=1e-5)
