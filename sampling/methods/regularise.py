"""Pix2pix-zero's regularisation (Parmar et al. 2023): noise on the way up, made more like white noise."""

import torch
import torch.nn.functional as F
from torch import Tensor

_ROUNDS, _ROLLS = 5, 5
_CORRELATION, _DIVERGENCE = 20.0, 20.0  # step sizes
_COARSEST = 8  # side at which the halving ends


def whitened(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Some steps of gradient descent on autocorrelation and on the divergence from a standard normal.

    Args:
        noise: predicted noise, [B, C, h, w].
        generator: random generator of the shifts, on the CPU.
    """
    with torch.enable_grad():
        for _ in range(_ROUNDS):
            for _ in range(_ROLLS):
                own = noise.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(autocorrelation(own, generator), [own])
                noise = noise - _CORRELATION / _ROLLS * gradient
            own = noise.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(divergence(own), [own])
            noise = noise - _DIVERGENCE * gradient
    return noise.detach()


def autocorrelation(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Sum over channels, scales and both axes of the squared mean of noise · noise shifted by some cells."""
    total = noise.new_zeros(())
    for channel in noise.flatten(0, 1)[:, None, None]:
        while True:
            shift = int(torch.randint(max(channel.shape[2] // 2, 1), (1,), generator=generator))
            for axis in (2, 3):
                total = total + (channel * channel.roll(shift, axis)).mean() ** 2
            if channel.shape[2] <= _COARSEST:
                break
            channel = F.avg_pool2d(channel, 2)
    return total


def divergence(noise: Tensor) -> Tensor:
    """Twice the Kullback-Leibler divergence of a normal with the noise's moments from the standard one."""
    variance = noise.var()
    return variance + noise.mean() ** 2 - 1 - torch.log(variance + 1e-7)
