"""Build the model for training: initialise it, freeze its parts, choose its memory layout."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from intarsia.model import EditModel, build_model
from training.config import TrainConfig
from training.model.base_hash import mark_base
from training.model.compiled import check_gradients, compile_blocks
from training.model.frozen import freeze_parts, freeze_unused, halve_frozen
from training.model.lora import add_adapters
from training.model.speed import compile_frozen, compile_options, lay_out, set_number_formats
from training.objective.task import task_of

log = logging.getLogger(__name__)


def new_model(config: TrainConfig, device: torch.device, is_main: bool) -> EditModel:
    """The model to train, on the device.

    Args:
        config: config of the run.
        device: device of the training.
        is_main: whether this rank writes the finished model; it then keeps exact copies of halved weights.

    Raises:
        UserError: for weights that do not fit, for parts to freeze that do not exist, and if compilation
            gives wrong gradients.
    """
    set_number_formats(config.speed, device)
    model = build_model(config.model, config.seed)
    choose_trained(model, config)
    if config.precision == "bf16":
        halve_frozen(model, keep_exact=is_main)
    model.vae.to(memory_format=torch.channels_last)  # faster convolutions
    if model.unet is not None:
        lay_out(model.unet, config.speed)
    model.to(device).train()
    if config.speed.compile_frozen:
        compile_frozen(model, config)
    if config.compile:
        blocks = compile_blocks(model.unet, **compile_options(config.speed))
        error = check_gradients(task_of(config).trainee(model), config, device)
        log.info("compiled %d blocks; their gradients differ from uncompiled ones by %.1e", blocks, error)
    return model


def choose_trained(model: EditModel, config: TrainConfig) -> None:
    """Freeze all parts that the config does not train, and set up adapters and activation checkpointing.

    Raises:
        UsageError: for parts to freeze that do not exist.
    """
    if config.freeze_unused and model.unet is not None:
        freeze_unused(model)
    if config.lora:
        add_adapters(model, config.lora, config.seed)
    freeze_parts(task_of(config).trainee(model), config.freeze)
    mark_base(model, config)
    if config.activation_checkpointing and model.unet is not None:
        model.unet.enable_gradient_checkpointing()


def bare_twin(config: TrainConfig) -> EditModel:
    """A model with the structure of the one in training, without weights."""
    with torch.device("meta"):
        twin = EditModel(config.model)
        if config.lora:
            add_adapters(twin, config.lora, config.seed)
    return twin


def twin_of(config: TrainConfig, model: EditModel, weights: Mapping[str, Tensor]) -> EditModel:
    """A second model that shares the frozen networks of `model` and has `weights` in its trained part.

    The model in training cannot be used itself: under ZeRO stage 3 no rank has its weights.

    Args:
        config: config of the run.
        model: model in training.
        weights: whole weights of the trained part by parameter name; they are used, not copied.
    """
    twin = bare_twin(config)
    for name, network in model.frozen_networks.items():
        setattr(twin, name, network)
    twin.tokenizer = model.tokenizer
    whole = {name: value.float() for name, value in weights.items()}  # of a base in bf16
    task_of(config).trainee(twin).load_state_dict(whole, assign=True)
    return twin
