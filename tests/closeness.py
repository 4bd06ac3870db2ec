"""Limits for results that are equal up to rounding, so that a test holds on every processor.

Processors, and one thread or several, add up the same terms in another order and in other groups. Each
addition rounds by up to half of float32's eps, up or down, and n such errors add up to about sqrt(n) of
them (Higham, Accuracy and Stability of Numerical Algorithms, section 2.8). The error of an element follows
the size of the terms, not its own, so all values of a tensor are measured by the largest of them. What must
be equal to the bit, as after a resume, is compared with torch.equal, and only with results of the same
machine.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

EPS = torch.finfo(torch.float32).eps
MARGIN = 10


def rounding(terms: int) -> float:
    """Largest relative error that still counts as rounding: ten times eps × sqrt(terms).

    Args:
        terms: length of the longest float32 sum on the way to the values, or of a chain of operations.
    """
    return MARGIN * EPS * math.sqrt(terms)


def longest_sum(*networks: nn.Module) -> int:
    """Terms of the longest sum in any layer: the number of weights behind one of its outputs."""
    params = (param for network in networks for param in network.parameters())
    return max(param[0].numel() for param in params if param.dim() > 1)


def relative_error(
    ours: Tensor | np.ndarray, expected: Tensor | np.ndarray, size: float | None = None
) -> float:
    """Largest absolute difference, as a share of the largest absolute value expected; NaN if any value is.

    Args:
        ours: values of the same shape as `expected`, computed in float32.
        expected: what it should be, in any precision.
        size: largest absolute value to measure by, if `expected` is one part of several.
    """
    ours, expected = torch.as_tensor(ours), torch.as_tensor(expected)
    assert ours.shape == expected.shape
    difference = float((ours.double() - expected.double()).abs().max())
    return difference / (float(expected.abs().max()) if size is None else size)
