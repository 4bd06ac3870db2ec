"""A CLIP vision tower beside the model, which sees the whole picture for the inversion `style`."""

from pathlib import Path

import torch
from torch import Tensor, nn

from intarsia.conditioning import normalise_exemplar
from intarsia.errors import UserError
from intarsia.model import EditModel
from intarsia.pretrained import load_image_encoder
from intarsia.towers.settings import ExemplarConfig, ImageEncoderConfig, read_clip_vision
from intarsia.towers.tower import look, tower_of

_ALL = ExemplarConfig(tokens="class+patches")  # all vectors after the last norm, as StyleDiffusion has them


class StyleTower(nn.Module):
    """A frozen CLIP vision tower."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.network = tower_of(_ALL).network(config)
        self.eval().requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures uint8 [B, h, w, 3] RGB -> the vectors of class and patches, [B, m, D]."""
        row, weight = _ALL.row, next(self.parameters())
        pixels = normalise_exemplar(pictures, self.config.image_size, row.mean, row.deviation)
        return look(_ALL, self.network, pixels.to(weight.device, weight.dtype))


def read_style_tower(folder: Path, device: str | torch.device, dtype: torch.dtype) -> StyleTower:
    """The tower in a folder of transformers.

    Raises:
        UserError: if the folder has no such tower, or any weight is missing, unexpected or of another shape.
    """
    tower = StyleTower(read_clip_vision(folder))
    load_image_encoder(tower.network, tower_of(_ALL), _ALL.row.title, folder)
    return tower.to(device=device, dtype=dtype)


def check_style_tower(model: EditModel) -> None:
    """Refuse a tower whose vectors have another width than the UNet's context; a model without is accepted.

    Raises:
        UserError: with both widths.
    """
    if model.style_tower is None:
        return
    own, wanted = model.style_tower.config.hidden_size, model.config.unet.cross_attention_dim
    if own != wanted:
        raise UserError(
            f"the style tower's vectors have {own} numbers, and the model's context {wanted}; give "
            "--style-tower another tower (for Stable Diffusion 1: clip-vit-base-patch16)"
        )
