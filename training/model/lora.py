"""Low-rank adapters (LoRA): add them to the UNet for training, and write them to files."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from intarsia.conditions.one_token import cannot_learn
from intarsia.errors import UsageError
from intarsia.files import atomic_folder
from intarsia.lora import EXEMPLAR_ENCODER
from intarsia.model import EditModel
from intarsia.model_folder import ADAPTERS
from training.option_groups import LoraConfig


def add_adapters(model: EditModel, options: LoraConfig, seed: int) -> None:
    """Add adapters to the target layers with peft and freeze everything else, in place.

    The layers compute W x + α/r · B A x. At the start A is normal and B is zero (Hu et al. 2021, section
    4.1), so the output is equal to the base's, bit for bit.

    Args:
        model: trained model, the base.
        options: rank, alpha, targets, and whether to train the exemplar encoder as well.
        seed: seed of the A matrices.

    Raises:
        UsageError: for targets that do not exist, or that get no gradient with a single exemplar token.
    """
    from peft import LoraConfig as PeftConfig

    _check_targets(model, options)
    settings = PeftConfig(
        r=options.rank,
        lora_alpha=options.rank if options.alpha is None else options.alpha,
        target_modules=list(options.targets),
        init_lora_weights="gaussian",
    )
    model.unet.requires_grad_(False)
    if model.exemplar_encoder is not None:
        model.exemplar_encoder.requires_grad_(options.train_exemplar_encoder)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model.unet.add_adapter(settings)


def _check_targets(model: EditModel, options: LoraConfig) -> None:
    names = [name for name, _ in model.unet.named_modules()]
    for target in options.targets:
        hit = [name for name in names if name == target or name.endswith(f".{target}")]
        if not hit:
            raise UsageError(f"lora.targets: the UNet has no layer {target}; use attn1.to_q, attn2.to_v, …")
        if any(cannot_learn(f"{name}.weight", model.config.num_tokens) for name in hit):
            raise UsageError(
                f"lora.targets: {target} includes the cross-attention's query or key, which get no gradient "
                "with one exemplar token; use attn1.to_q, attn1.to_k instead"
            )


def write_adapters(model: EditModel, options: LoraConfig, folder: Path, card: str) -> None:
    """Write the adapters in diffusers' format (`pytorch_lora_weights.safetensors`) atomically.

    Args:
        model: model with adapters.
        options: options of the adapters; if the exemplar encoder was trained, it is written, too.
        folder: folder to make or replace.
        card: Markdown text of README.md.
    """
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from peft import get_peft_model_state_dict

    settings = model.unet.peft_config["default"].to_dict()
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    with atomic_folder(folder, ADAPTERS) as out:
        StableDiffusionLoraLoaderMixin.save_lora_weights(
            out,
            unet_lora_layers=get_peft_model_state_dict(model.unet),
            unet_lora_adapter_metadata=settings,
        )
        if options.train_exemplar_encoder:
            encoder = model.exemplar_encoder.state_dict()
            state = {name: value.detach().cpu().contiguous() for name, value in encoder.items()}
            save_file(state, out / EXEMPLAR_ENCODER, metadata={"format": "pt"})
        for path in out.glob("*.safetensors"):  # the writers make them readable only by their owner
            path.chmod(0o644)
        (out / "README.md").write_text(card, encoding="utf-8")
