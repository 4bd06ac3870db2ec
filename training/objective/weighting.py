"""Weights of the squared errors, by timestep and by position."""

from typing import Any

from torch import Tensor

from training.option_groups import ObjectiveConfig


def error_weight(
    noise_scheduler: Any, timesteps: Tensor, edit_mask: Tensor, objective: ObjectiveConfig
) -> Tensor | None:
    """The weight of each squared error, float32 [B, 1, h, w] or [B, 1, 1, 1]; None if all weights are 1.

    Args:
        noise_scheduler: scheduler with noise levels and prediction type.
        timesteps: timesteps, int64 [B].
        edit_mask: mask on the grid of latents, [B, 1, h, w] in [0, 1], 1 = repaint.
        objective: config with `min_snr_gamma` and `mask_weight`; their weights are multiplied.
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


def hole_weight(edit_mask: Tensor) -> Tensor:
    """The weight m / mean(m) of each cell of masks m, [B, 1, h, w]; 0 for a mask without any cell."""
    return edit_mask / edit_mask.mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)


def signal_to_noise(noise_scheduler: Any, timesteps: Tensor) -> Tensor:
    """The signal-to-noise ratio SNR(t) = ā_t / (1 − ā_t) of timesteps int64 [B]; float32 [B]."""
    levels = noise_scheduler.alphas_cumprod.to(timesteps.device)[timesteps].float()
    return levels / (1 - levels)


def min_snr_weight(snr: Tensor, gamma: float, velocity: bool) -> Tensor:
    """The weight min(SNR, γ) / SNR for noise prediction, min(SNR, γ) / (SNR + 1) for velocity prediction.

    Hang et al. 2023, "Efficient diffusion training via min-SNR weighting strategy", section 3.4: for the
    error of the clean picture, no timestep has a weight larger than γ.
    """
    return snr.clamp(max=gamma) / (snr + 1 if velocity else snr)


def cell_weight(edit_mask: Tensor, mask_weight: float) -> Tensor:
    """The weight 1 + (w − 1) · edit_mask of each cell, divided by the sample's mean weight; [B, 1, h, w].

    The mean of 1 keeps the scale of the loss, and gives samples with small and large holes the same weight.
    This weighting is not from a paper; Paint by Example weights all cells equally (w = 1).
    """
    cells = 1 + (mask_weight - 1) * edit_mask
    return cells / cells.mean(dim=(1, 2, 3), keepdim=True)
