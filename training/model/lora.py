"""Adapters of low rank (LoRA) in place of the UNet's own weights: trained, and written to files."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from intarsia.conditions.one_token import cannot_learn
from intarsia.errors import UsageError
from intarsia.files import atomic_folder
from intarsia.lora import EXEMPLAR_ENCODER
from intarsia.model import EditModel
from intarsia.model_folder import ADAPTERS
from training.config import LoraConfig


def add_adapters(model: EditModel, options: LoraConfig, seed: int) -> None:
    """Put adapters beside the target layers and freeze everything else, in place.

    W x + α/r · B A x with A normal and B zero at start (Hu et al. 2021, section 4.1), so that the output
    is at first the base's to the bit. peft does the work.

    Args:
        model: a model that can edit already.
        options: rank, alpha, targets, and whether the exemplar encoder is trained as well.
        seed: of the A matrices.

    Raises:
        UsageError: for targets that do not exist, or that a single exemplar token can give no gradient.
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
    model.exemplar_encoder.requires_grad_(options.train_exemplar_encoder)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model.unet.add_adapter(settings)


def _check_targets(model: EditModel, options: LoraConfig) -> None:
    names = [name for name, _ in model.unet.named_modules()]
    for target in options.targets:
        hit = [name for name in names if name == target or name.endswith(f".{target}")]
        if not hit:
            raise UsageError(f"lora.targets: the UNet has no layer {target}; take attn1.to_q, attn2.to_v, …")
        if any(cannot_learn(f"{name}.weight", model.config.num_tokens) for name in hit):
            raise UsageError(
                f"lora.targets: {target} takes in the cross-attention's query or key, which one exemplar "
                "token gives no gradient; name attn1.to_q, attn1.to_k instead"
            )


def write_adapters(model: EditModel, options: LoraConfig, folder: Path, card: str) -> None:
    """Write the adapters as diffusers does (`pytorch_lora_weights.safetensors`), whole or not at all.

    Args:
        model: with adapters.
        options: says whether the exemplar encoder was trained and goes beside them.
        folder: to be made, or replaced.
        card: the Markdown of README.md.
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
        for path in out.glob("*.safetensors"):  # the writers leave them readable to their owner only
            path.chmod(0o644)
        (out / "README.md").write_text(card, encoding="utf-8")
