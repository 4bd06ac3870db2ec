"""The model as a run trains it: initialised, its parts frozen, laid out for speed."""

import torch

from intarsia.model import EditModel, build_model
from training.config import TrainConfig
from training.frozen import freeze_parts, freeze_unused, halve_frozen
from training.lora import add_adapters
from training.objective import Trainee


def new_model(config: TrainConfig, device: torch.device, is_main: bool) -> EditModel:
    """The model to be trained, on the device.

    Args:
        config: of the run.
        device: where it is trained.
        is_main: whether this rank writes the finished model, for which it keeps what others need not.

    Raises:
        UserError: for weights that do not fit, and parts to freeze that do not exist.
    """
    model = build_model(config.model, config.seed)
    if config.freeze_unused:
        freeze_unused(model)
    if config.lora:
        add_adapters(model, config.lora, config.seed)
    freeze_parts(Trainee(model), config.freeze)
    if config.activation_checkpointing:
        model.unet.enable_gradient_checkpointing()
    if config.precision == "bf16":
        halve_frozen(model, keep_exact=is_main)
    model.vae.to(memory_format=torch.channels_last)  # its convolutions are the quicker for it
    return model.to(device).train()
