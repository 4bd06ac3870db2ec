"""Feature networks with random weights, and files in the usual layouts."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

CLIP_WIDTH = 16


def fill(module: nn.Module, seed: int = 0) -> None:
    """Set random weights that preserve the signal's size; each depends only on its name and the seed."""
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            continue
        rng = np.random.default_rng([seed, *name.encode()])
        if "running_var" in name or (name.endswith("weight") and value.ndim == 1):
            drawn = rng.uniform(0.5, 1.5, value.shape)
        else:
            fan = value[0].numel() if value.ndim > 1 else 100
            drawn = rng.normal(0, (2 / fan) ** 0.5, value.shape)
        value.copy_(torch.from_numpy(drawn))


def tiny_clip(folder: Path, width: int = CLIP_WIDTH, size: int = 224, seed: int = 0) -> Path:
    """Write a CLIP model folder with a tokenizer of single letters."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    text = {
        "vocab_size": len(vocabulary),
        "bos_token_id": len(vocabulary) - 2,
        "eos_token_id": len(vocabulary) - 1,
    }
    config = CLIPConfig(
        text_config=tower | text,
        vision_config=tower | {"image_size": size, "patch_size": 32},
        projection_dim=width,
    )
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def save(module: nn.Module, path: Path, prefix: str = "") -> Path:
    """Write the module's weights as a pickled file of names and tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({prefix + name: value for name, value in module.state_dict().items()}, path)
    return path


def recorded_sets(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features, [2 width, width] each, the same on every machine."""
    rng = np.random.default_rng(width)
    mix = rng.normal(size=(width, width)) / width**0.5
    first = rng.normal(size=(width * 2, width)) @ mix
    return first, rng.normal(0.1, 1.2, size=(width * 2, width)) @ mix


def recorded_input(size: int, seed: int = 0) -> torch.Tensor:
    """A picture [1, 3, size, size] in [-1, 1], the same on every machine."""
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 3, size, size))
    return torch.from_numpy(pixels / 127.5 - 1).float()


def waves(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """A smooth coloured picture with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = 127 + 90 * np.sin(x[..., None] / rng.uniform(5, 30) + y[..., None] / 17 + rng.uniform(0, 6, 3))
    return (planes + rng.normal(0, 8, planes.shape)).clip(0, 255).astype(np.uint8)
