"""How much each squared error counts: by timestep, and by place."""

from typing import Any

from torch import Tensor

from training.config import ObjectiveConfig


def error_weight(
    noise_scheduler: Any, timesteps: Tensor, edit_mask: Tensor, objective: ObjectiveConfig
) -> Tensor | None:
    """The weight of each squared error, float32 [B, 1, h, w] or [B, 1, 1, 1]; None where all count once.

    Args:
        noise_scheduler: for its noise levels and for what is predicted.
        timesteps: int64 [B].
        edit_mask: [B, 1, h, w] in [0, 1], 1 = repaint.
        objective: `min_snr_gamma` and `mask_weight`; both together multiply.
    """
    weight = None
    if objective.min_snr_gamma is not None:
        velocity = noise_scheduler.config.prediction_type == "v_prediction"
        snr = signal_to_noise(noise_scheduler, timesteps)
        weight = min_snr_weight(snr, objective.min_snr_gamma, velocity)[:, None, None, None]
    if objective.mask_weight != 1:
        cells = cell_weight(edit_mask, objective.mask_weight)
        weight = cells if weight is None else weight * cells
    return weight


def signal_to_noise(noise_scheduler: Any, timesteps: Tensor) -> Tensor:
    """SNR(t) = ā_t / (1 − ā_t) of timesteps int64 [B]; float32 [B]."""
    levels = noise_scheduler.alphas_cumprod.to(timesteps.device)[timesteps].float()
    return levels / (1 - levels)


def min_snr_weight(snr: Tensor, gamma: float, velocity: bool) -> Tensor:
    """min(SNR, γ) / SNR where noise is predicted, min(SNR, γ) / (SNR + 1) where velocities are.

    Hang et al. 2023, "Efficient diffusion training via min-SNR weighting strategy", section 3.4: as seen from
    the clean picture, no timestep pulls harder than γ.
    """
    return snr.clamp(max=gamma) / (snr + 1 if velocity else snr)


def cell_weight(edit_mask: Tensor, mask_weight: float) -> Tensor:
    """1 + (w − 1) · edit_mask over its mean: a plain weighted mean over each sample's cells [B, 1, h, w].

    The mean of 1 keeps the loss's scale, and lets a small hole count as much as a large one. No paper stands
    behind it; Paint by Example weights all cells alike (w = 1).
    """
    cells = 1 + (mask_weight - 1) * edit_mask
    return cells / cells.mean(dim=(1, 2, 3), keepdim=True)
