"""The model as a run trains it: initialised, its parts frozen, laid out for speed."""

import logging

import torch

from intarsia.model import EditModel, build_model
from training.compiled import check_gradients, compile_blocks
from training.config import TrainConfig
from training.frozen import freeze_parts, freeze_unused, halve_frozen
from training.lora import add_adapters
from training.objective import Trainee

log = logging.getLogger(__name__)


def new_model(config: TrainConfig, device: torch.device, is_main: bool) -> EditModel:
    """The model to be trained, on the device.

    Args:
        config: of the run.
        device: where it is trained.
        is_main: whether this rank writes the finished model, for which it keeps what others need not.

    Raises:
        UserError: for weights that do not fit, parts to freeze that do not exist, and where compiling gives
            wrong gradients.
    """
    model = build_model(config.model, config.seed)
    choose_trained(model, config)
    if config.precision == "bf16":
        halve_frozen(model, keep_exact=is_main)
    model.vae.to(memory_format=torch.channels_last)  # its convolutions are the quicker for it
    model.to(device).train()
    if config.compile:
        blocks = compile_blocks(model.unet)
        error = check_gradients(Trainee(model), config, device)
        log.info("compiled %d blocks; their gradients agree with plain ones to %.1e", blocks, error)
    return model


def choose_trained(model: EditModel, config: TrainConfig) -> None:
    """Freeze what the config leaves out, and arrange what the backward pass keeps.

    Raises:
        UsageError: for parts to freeze that do not exist.
    """
    if config.freeze_unused:
        freeze_unused(model)
    if config.lora:
        add_adapters(model, config.lora, config.seed)
    freeze_parts(Trainee(model), config.freeze)
    if config.activation_checkpointing:
        model.unet.enable_gradient_checkpointing()
