"""Low-rank adapters in files: read them and add them to a model's weights.

The file is diffusers' `pytorch_lora_weights.safetensors`; merging needs its tensors only.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from intarsia.errors import UserError
from intarsia.model import EditModel
from intarsia.model_folder import ADAPTERS
from intarsia.pretrained import State, check_finite, load_strictly, read_weights, without_prefix

EXEMPLAR_ENCODER = "exemplar_encoder.safetensors"  # present if the encoder was trained, too
_METADATA = "lora_adapter_metadata"  # diffusers' key in the file's header
_PAIRS = ((".lora_A.weight", ".lora_B.weight"), (".lora.down.weight", ".lora.up.weight"))


def merge_adapters(model: EditModel, folder: Path, scale: float = 1.0) -> int:
    """Add adapters into the UNet's weights, W + scale · α/r · B A (Hu et al. 2021, equation 3), in place.

    Args:
        model: base model that the adapters were trained on; its exemplar encoder is replaced if the folder
            has one.
        folder: folder with `pytorch_lora_weights.safetensors`, as training writes it.
        scale: factor of the adapters; 1 gives the trained model, 0 the base.

    Returns:
        The number of changed weights.

    Raises:
        UserError: if the folder holds no adapters or they belong to a model of another shape.
    """
    path = folder / ADAPTERS
    state = without_prefix(read_weights(path), "unet.")
    check_finite(state, path)
    factor, weights = _alpha_over_rank(path), dict(model.unet.named_parameters())
    pairs = _pairs(state)
    if not pairs or 2 * len(pairs) != len(state):
        raise UserError(f"{path} contains {len(state)} tensors of a UNet that are not pairs of adapters")
    for name, (down, up) in pairs.items():
        _add(weights.get(f"{name}.weight"), scale * factor * _product(down, up), f"{path}: {name}")
    if (folder / EXEMPLAR_ENCODER).is_file():
        load_strictly(
            model.exemplar_encoder, read_weights(folder / EXEMPLAR_ENCODER), folder / EXEMPLAR_ENCODER
        )
    return len(pairs)


def kohya_state(folder: Path) -> State:
    """The adapters with kohya's names, which ComfyUI and diffusers read: layers' names with _ for each dot.

    Args:
        folder: folder with `pytorch_lora_weights.safetensors`.

    Returns:
        For each layer `lora_unet_LAYER.lora_down.weight`, `.lora_up.weight` and `.alpha`; they add
        alpha / rank · up · down, as the file of the folder does.

    Raises:
        UserError: if the folder holds no adapters of a UNet.
    """
    path = folder / ADAPTERS
    pairs = _pairs(without_prefix(read_weights(path), "unet."))
    if not pairs:
        raise UserError(f"{path} contains no pairs of adapters of a UNet")
    factor, state = _alpha_over_rank(path), {}
    for name, (down, up) in pairs.items():
        layer = f"lora_unet_{name.replace('.', '_')}"
        state[f"{layer}.lora_down.weight"] = down.contiguous()
        state[f"{layer}.lora_up.weight"] = up.contiguous()
        state[f"{layer}.alpha"] = torch.tensor(factor * down.shape[0])
    return state


def _pairs(state: State) -> dict[str, tuple[Tensor, Tensor]]:
    return {
        name.removesuffix(down): (state[name], state[name.removesuffix(down) + up])
        for down, up in _PAIRS
        for name in state
        if name.endswith(down) and name.removesuffix(down) + up in state
    }


def _product(down: Tensor, up: Tensor) -> Tensor:
    """B A of linear adapters [r, in], [out, r], or of convolutions [r, in, k, k], [out, r, 1, 1]."""
    product = up.float().flatten(1) @ down.float().flatten(1)
    return product.view(up.shape[0], *down.shape[1:])


@torch.no_grad()
def _add(weight: nn.Parameter | None, change: Tensor, where: str) -> None:
    if weight is None or weight.shape != change.shape:
        own = "no such weight" if weight is None else f"a weight of {list(weight.shape)}"
        raise UserError(
            f"{where} changes a weight of {list(change.shape)}, the model has {own}; give the model folder "
            "that the adapters were trained on"
        )
    weight.add_(change.to(weight))


def _alpha_over_rank(path: Path) -> float:
    """The scale in the file's header; without one α = r, as in diffusers."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_METADATA)
        content = json.loads(header) if header else {}
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: its header cannot be read ({error})") from None
    rank = content.get("unet.r", 1)
    return float(content.get("unet.lora_alpha", rank)) / rank
