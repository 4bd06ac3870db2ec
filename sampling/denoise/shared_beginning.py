"""Compute the UNet's layers before the first cross-attention once for both branches of guidance.

Both branches have the same latents, so their rows are equal up to the first cross-attention.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn


@contextmanager
def shared_beginning(unet: UNet2DConditionModel, rows: Tensor, own: int) -> Iterator[None]:
    """Inside this context, the first layers are computed for the last rows of a batch only, and copied.

    Args:
        unet: denoising network, to be called with a batch of `len(rows)` rows.
        rows: indices, among the last rows, of the row with the same latents, int64 [R]; each of the last
            rows has its own index.
        own: number of the last rows.

    A UNet that is compiled, or has a compiled part (as in training's previews), is not changed: a compiled
    graph does not notice new hooks.
    """
    if any(getattr(module, "_compiled_call_impl", None) for module in unet.modules()):
        yield
        return

    def take(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return _each(args, lambda x: x[-own:]), _each(kwargs, lambda x: x[-own:])

    def spread(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return _each(output, lambda x: x.index_select(0, rows))

    handles = [
        handle
        for module in beginning(unet)
        for handle in (
            module.register_forward_pre_hook(take, with_kwargs=True),
            module.register_forward_hook(spread),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def beginning(unet: UNet2DConditionModel) -> list[nn.Module]:
    """The modules before the first cross-attention, in order; their outputs do not depend on tokens."""
    blocks = [*unet.down_blocks, unet.mid_block]
    plain = list(takewhile(lambda block: not hasattr(block, "attentions"), blocks))
    block = blocks[len(plain)]
    transformer = block.attentions[0]
    first = transformer.transformer_blocks[0]
    within = [block.resnets[0], transformer.norm, transformer.proj_in, first.norm1, first.attn1]
    return [unet.conv_in, *plain, *within]


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` applied to every tensor, also inside tuples and dicts."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_each(part, change) for part in value)
    if isinstance(value, dict):
        return {name: _each(part, change) for name, part in value.items()}
    return value
