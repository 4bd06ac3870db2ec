"""Count the arithmetic of linear layers while a network runs forwards and backwards."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Flops:
    """A sum of floating-point operations; a multiplication and an addition count as two."""

    total = 0


@contextmanager
def linear_flops(layers: Iterable[nn.Linear]) -> Iterator[Flops]:
    """Count the matrix products of some layers inside the block, recomputed ones among them.

    Each of the products output = input · weight, gradient of the input, and gradient of the weight has
    2 · rows · in_features · out_features operations; the gradients count where they are computed.

    Args:
        layers: linear layers; their tensors need no content.
    """
    flops = Flops()

    def count(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        product = 2 * output.numel() * layer.in_features
        flops.total += product
        gradients = int(inputs[0].requires_grad) + int(layer.weight.requires_grad)
        if output.requires_grad:
            output.register_hook(lambda _: add(gradients * product))

    def add(more: int) -> None:
        flops.total += more

    handles: list[Any] = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield flops
    finally:
        for handle in handles:
            handle.remove()
