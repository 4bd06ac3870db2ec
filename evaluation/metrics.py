"""Metrics as pure functions of arrays."""

import math

import numpy as np


def mse(result: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """The mean squared error of pixel values in [0, 1].

    Args:
        result: uint8 [H, W, 3].
        truth: uint8 [H, W, 3].
        where: bool [H, W], the pixels that count; None: all. For the edited region this is the edit mask, for
            the background its complement.

    Raises:
        ValueError: for shapes that differ, or where nothing counts.
    """
    if result.shape != truth.shape or (where is not None and where.shape != truth.shape[:2]):
        raise ValueError(
            f"shapes differ: {result.shape}, {truth.shape}, {None if where is None else where.shape}"
        )
    difference = (result.astype(np.float64) - truth.astype(np.float64)) / 255
    chosen = difference if where is None else difference[where]
    if not chosen.size:
        raise ValueError("no pixel to compare")
    return float(np.mean(chosen**2))


def psnr(result: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """The peak signal-to-noise ratio in dB, peak 1: -10 log10 of `mse`; infinite for equal pixels."""
    error = mse(result, truth, where)
    return math.inf if error == 0 else -10 * math.log10(error)
