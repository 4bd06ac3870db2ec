"""The task `edit`: predict the noise added to a picture's latents, given its surroundings and a condition.

With an exemplar this is Paint by Example's objective, with one draw of timestep, noise and exemplar dropout
per sample; a prompt is dropped by a draw of its own.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from intarsia.architecture import MAPS, ModelConfig
from intarsia.conditioning import known_channels, maps_to_unit, sample_latents
from intarsia.conditions.condition import Condition, Part, condition_kind
from intarsia.conditions.low_res import area_mean, low_res_channels
from intarsia.model import EditModel
from training.config import TrainConfig
from training.data.batches import Batch
from training.objective.draws import Draws
from training.objective.encode import posteriors, text_tokens
from training.objective.task import MakeTensor, Step, Task
from training.objective.weighting import error_weight, hole_weight
from training.option_groups import ObjectiveConfig


class EditTrainee(nn.Module):
    """UNet and exemplar encoder as one module, so that DeepSpeed's hooks see every trained weight."""

    def __init__(self, model: EditModel) -> None:
        super().__init__()
        self.unet = model.unet
        self.exemplar_encoder = model.exemplar_encoder

    def forward(self, step: Step) -> Tensor:
        """Predict the noise, or velocity, [B, C, h, w]."""
        parts = []
        if step.features is not None:
            tokens = self.exemplar_encoder(step.features)
            part = Part("exemplar", tokens, self.exemplar_encoder.null_exemplar)
            parts.append(part.with_null(step.dropped))
        if step.text is not None and step.null_text is not None and step.text_dropped is not None:
            parts.append(Part("text", step.text, step.null_text).with_null(step.text_dropped))
        condition = Condition(tuple(parts), step.channels, step.levels)
        return condition.predict(self.unet, step.noisy_latents, step.timesteps)


@torch.no_grad()
def prepare(
    model: EditModel,
    noise_scheduler: DDPMScheduler,
    batch: Batch,
    draws: Draws,
    device: Any,
    objective: ObjectiveConfig | None = None,
) -> Step:
    """Turn pixels into the trained part's input; the frozen networks run here, outside the engine.

    z_t = √ā_t · z + √(1 − ā_t) · noise, where z is a posterior sample of the picture's latents. The masked
    picture's latents are a sample, too (equation 4 and section 3.4 of the latent diffusion paper; the inputs
    are Paint by Example's). The target of a velocity model (Salimans & Ho 2022, appendix D) is
    √ā_t · noise − √(1 − ā_t) · z instead of the noise.

    Args:
        model: model in training.
        noise_scheduler: noise levels of training.
        batch: micro-batch of pixels or stored latents.
        draws: random draws of the micro-batch.
        device: device of the result.
        objective: weights of the loss; None = the defaults.
    """
    composed = model.config.compose
    seen = posteriors(model, batch, device)

    def sample(moments: Tensor, noise: Tensor) -> Tensor:
        mean, std = moments.unbind(1)
        return sample_latents(mean, std, noise.to(device, non_blocking=True), model.config.vae.scaling_factor)

    latents = sample(seen.image, draws.image_noise)
    masked_image_latents = sample(seen.masked, draws.masked_noise)
    noise = draws.noise.to(device, non_blocking=True)
    timesteps = draws.timesteps.to(device, non_blocking=True)
    target = noise
    if model.config.noise.prediction_type == "v_prediction":
        target = noise_scheduler.get_velocity(latents, noise, timesteps)
    weight = error_weight(noise_scheduler, timesteps, seen.mask, objective or ObjectiveConfig())
    cells = hole_weight(seen.mask) if composed else None
    if cells is not None:
        weight = cells if weight is None else weight * cells
    channels = known_channels(masked_image_latents, seen.mask, model.config.unet.input_layout)
    if model.config.structure.maps:
        channels = torch.cat([channels, shown_maps(model.config, batch, draws).to(device)], dim=1)
    if model.config.low_res:
        channels = torch.cat([channels, shown_low_res(model.config, batch, draws, device)], dim=1)
    return Step(
        noisy_latents=noise_scheduler.add_noise(latents, noise, timesteps),
        timesteps=timesteps,
        channels=channels,
        features=seen.features,
        dropped=draws.dropped.to(device, non_blocking=True),
        target=target,
        weight=weight,
        cells=cells,
        levels=None if draws.levels is None else draws.levels.to(device, non_blocking=True),
        **_told_text(model, batch, draws, device),
    )


def _told_text(model: EditModel, batch: Batch, draws: Draws, device: Any) -> dict[str, Tensor]:
    """The fields of a `Step` about prompts; empty for a model without them."""
    if "text" not in model.config.parts or draws.text_dropped is None:
        return {}
    tokens, null = text_tokens(model, batch.texts)
    dropped = draws.text_dropped.to(device, non_blocking=True)
    return {"text": tokens, "null_text": null, "text_dropped": dropped}


def shown_maps(config: ModelConfig, batch: Batch, draws: Draws) -> Tensor:
    """The structure maps of a micro-batch without those that are left out, float32 [B, K, h, w] in [0, 1]."""
    assert batch.structure is not None, "the model has structure maps, and the batch has none"
    maps = maps_to_unit(batch.structure)
    if draws.without_maps is None:
        return maps
    sizes = torch.tensor([MAPS[name] for name in config.structure.maps])
    return maps * ~draws.without_maps.repeat_interleave(sizes, dim=1)[:, :, None, None]


def shown_low_res(config: ModelConfig, batch: Batch, draws: Draws, device: Any) -> Tensor:
    """The low-resolution pictures of a micro-batch with their noise, as channels, float32 [B, K, h, w]."""
    assert config.low_res is not None, "the model is no upsampler"
    assert batch.image is not None, "a low-resolution picture is made of pixels, and the batch has none"
    assert draws.levels is not None and draws.low_res_noise is not None, "drawn for every upsampler"
    low_res = area_mean(batch.image.to(device, non_blocking=True), config.low_res.factor)
    noise = draws.low_res_noise.to(device, non_blocking=True)
    return low_res_channels(config, low_res, draws.levels, noise)


def loss_of(prediction: Tensor, step: Step) -> Tensor:
    """Mean squared error against the target, float32, weighted if the step has weights."""
    if step.weight is None:
        return F.mse_loss(prediction.float(), step.target)
    return (step.weight * (prediction.float() - step.target).square()).mean()


def errors_of(prediction: Tensor, step: Step) -> Tensor:
    """Mean squared error of each sample, float32 [B], unweighted, so that all runs can be compared.

    With `objective.compose` only the hole counts: the noise of the other cells cannot be predicted.
    """
    errors = (prediction.detach().float() - step.target).square()
    return (errors if step.cells is None else step.cells * errors).flatten(1).mean(dim=1)


def sick_rows(prediction: Tensor, step: Step) -> Tensor:
    """The samples whose prediction or target is not finite, bool [B]."""
    return ~torch.isfinite(prediction.detach() - step.target).flatten(1).all(dim=1)


def told(config: TrainConfig, step: Step) -> dict[str, Step]:
    """The same samples told exemplar and prompt, only one of them, and structure maps besides."""
    number, ways = config.model.structure.channels, {}
    if number:
        ways["structure"] = step
        channels, end = step.channels.clone(), step.channels.shape[1] - config.model.low_res_channels
        channels[:, end - number : end] = 0
        step = replace(step, channels=channels)
    if step.features is not None and step.text_dropped is not None:
        nowhere, everywhere = torch.zeros_like(step.dropped), torch.ones_like(step.dropped)
        ways["exemplar"] = replace(step, dropped=nowhere, text_dropped=everywhere)
        ways["text"] = replace(step, dropped=everywhere, text_dropped=nowhere)
    return {"": step, **ways}


def made_up(config: TrainConfig, make: MakeTensor) -> Step:
    """A micro-batch with the run's shapes and values from `make`; every second exemplar is dropped."""
    model, size = config.model, config.micro_batch_size
    cells = (model.latent_size, model.latent_size)
    noisy_latents = make(size, model.vae.latent_channels, *cells)
    dropped = torch.arange(size, device=noisy_latents.device) % 2 == 1
    text: dict[str, Tensor] = {}
    if "text" in model.parts:
        shape = (model.text_encoder.max_position_embeddings, model.text_encoder.hidden_size)
        text = {"text": make(size, *shape), "null_text": make(1, *shape), "text_dropped": ~dropped}
    levels = None
    if model.low_res:
        levels = torch.arange(size, device=noisy_latents.device) % model.low_res.max_noise_level
    return Step(
        noisy_latents=noisy_latents,
        timesteps=torch.arange(size, device=noisy_latents.device) * 7 % model.noise.num_train_timesteps,
        channels=make(size, model.extra_channels, *cells),
        features=make(size, *condition_kind(model).feature_shape(model))
        if "exemplar" in model.parts
        else None,
        dropped=dropped,
        target=make(size, model.unet.out_channels, *cells),
        levels=levels,
        **text,
    )


TASK = Task(
    trainee=EditTrainee,
    prepare=prepare,
    loss=loss_of,
    errors=errors_of,
    sick=sick_rows,
    made_up=made_up,
    told=told,
)
