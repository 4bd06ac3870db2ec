"""Couple a UNet: one processor for all attention layers, installed for a walk and removed afterwards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from intarsia.errors import UserError
from sampling.couplings.coupling import AttentionLayer, Coupling, Row, Walk

_PARTS = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}


class CoupledProcessor:
    """Attention whose rows and maps pass through couplings; the arithmetic is diffusers' AttnProcessor2_0."""

    def __init__(self, layer: AttentionLayer, couplings: Sequence[Coupling], walk: "WalkPlace") -> None:
        self.layer, self.couplings, self.walk = layer, couplings, walk

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """[B, n, C] -> [B, n, C]."""
        walk, couplings = self.walk.now, self.walk.acting(self.couplings)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        of_values = context
        for coupling in couplings:
            of_values = coupling.values(walk, self.layer, of_values)
        query, key, value = (
            layer(states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, states in (
                (attn.to_q, hidden_states),
                (attn.to_k, context),
                (attn.to_v, of_values),
            )
        )
        seen: Tensor | None = None
        for coupling in couplings:
            query, key, value = coupling.rows(walk, self.layer, query, key, value)
            allowed = coupling.may_see(walk, self.layer, len(key), query.shape[2], key.shape[2])
            if allowed is not None:
                seen = _both(seen, allowed.to(key.device))
        readers = [one for one in couplings if one.reads_maps(walk, self.layer, query.shape[2])]
        if readers:
            products = query @ key.transpose(-1, -2) * attn.scale
            maps = (products if seen is None else products.masked_fill(~seen, -torch.inf)).softmax(-1)
            for coupling in readers:
                maps = coupling.maps(walk, self.layer, maps)
            mixed = maps @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, seen, scale=attn.scale)
        together = mixed.transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](together)) / attn.rescale_output_factor


def _both(before: Tensor | None, allowed: Tensor) -> Tensor:
    """Keys that both may see; keys that were added since `before` stand for the same cells again."""
    if before is None:
        return allowed
    return allowed & before.repeat(1, 1, 1, allowed.shape[-1] // before.shape[-1])


class WalkPlace:
    """Where the walk is now; the walk itself moves it on."""

    def __init__(self, walk: Walk) -> None:
        self.now = walk
        self._only: Coupling | None = None

    def go(self, done: int) -> Walk:
        """Move to the step number `done`."""
        self.now = replace(self.now, done=done)
        return self.now

    def acting(self, couplings: Sequence[Coupling]) -> Sequence[Coupling]:
        """Those of the couplings that act now."""
        return (
            couplings if self._only is None else [one for one in couplings if one is self._only or one.always]
        )

    @contextmanager
    def alone(self, coupling: Coupling, rows: Mapping[Row, int]) -> Iterator[None]:
        """Inside the block one coupling acts alone, on a batch with other rows."""
        before = self.now
        self.now, self._only = replace(before, rows=rows), coupling
        try:
            yield
        finally:
            self.now, self._only = before, None


@contextmanager
def coupled(unet: UNet2DConditionModel, couplings: Sequence[Coupling], walk: Walk) -> Iterator[WalkPlace]:
    """Inside the block the couplings act on every call of the UNet; afterwards it is as before.

    Args:
        unet: denoising network.
        couplings: couplings, in the order in which they act.
        walk: where the walk begins, and the rows of its batch.

    Raises:
        UserError: if a coupling changes the UNet and it is compiled, or has no layer of the kind or no module
            of that name. In the published implementations a layer class with another name is coupled nowhere,
            without a warning.
    """
    changing = any(one.cross or one.own or one.features_of for one in couplings)
    if changing and getattr(unet, "_compiled_call_impl", None) is not None:
        raise UserError("a compiled UNet cannot be coupled; leave --compile out")
    place, kept = WalkPlace(walk), dict(unet.attn_processors)
    hooks = []
    try:
        layers = attention_layers(unet)
        for coupling in couplings:
            _check(coupling, layers, unet)
        for layer, module in layers:
            acting = [one for one in couplings if (one.cross if layer.cross else one.own)]
            if acting:
                module.set_processor(CoupledProcessor(layer, acting, place))
        for coupling in couplings:
            if coupling.features_of:
                module = unet.get_submodule(coupling.features_of)
                hooks.append(module.register_forward_hook(_hook(coupling, place)))
        yield place
    finally:
        unet.set_attn_processor(kept)
        for hook in hooks:
            hook.remove()


def attention_layers(unet: UNet2DConditionModel) -> list[tuple[AttentionLayer, Attention]]:
    """All attention layers in the order of the forward pass, two for each transformer block.

    Raises:
        UserError: if one is of a kind that is not known, so that it would stay uncoupled.
    """
    order = list(_PARTS)
    blocks = [
        (name, module)
        for name, module in unet.named_modules()
        if name.split(".")[0] in order
        and {"attn1", "attn2"} & {child for child, _ in module.named_children()}
    ]
    blocks.sort(key=lambda item: order.index(item[0].split(".")[0]))  # stable: down, mid, up
    halved = [_times_halved(name, len(unet.down_blocks)) for name, _ in blocks]
    most = max((n for n in halved if n is not None), default=None)  # None: only the middle attends
    found = []
    for number, (name, block) in enumerate(blocks):
        for child, cross in (("attn1", False), ("attn2", True)):
            module = getattr(block, child, None)
            if not isinstance(module, Attention):
                raise UserError(f"{name}.{child} is {type(module).__name__}, which cannot be coupled")
            part: Any = _PARTS[name.split(".")[0]]
            found.append((AttentionLayer(part, number, len(blocks), cross, halved[number] == most), module))
    known = {id(module) for _, module in found}
    rest = [
        name for name, part in unet.named_modules() if isinstance(part, Attention) and id(part) not in known
    ]
    if rest:
        raise UserError(f"{rest[0]} is in no transformer block and cannot be coupled")
    return found


def _times_halved(name: str, levels: int) -> int | None:
    """How often the latents' side is halved before a block of the UNet; None in the middle."""
    part, level = name.split(".")[:2]
    if part == "mid_block":
        return None
    return int(level) if part == "down_blocks" else levels - 1 - int(level)


def _check(
    coupling: Coupling, layers: Sequence[tuple[AttentionLayer, Attention]], unet: UNet2DConditionModel
) -> None:
    name = type(coupling).__name__
    for wanted, cross, kind in (
        (coupling.cross, True, "cross-attention"),
        (coupling.own, False, "self-attention"),
    ):
        if wanted and not any(layer.cross is cross for layer, _ in layers):
            raise UserError(f"the UNet has no layer of {kind}, which {name} changes; choose another coupling")
    features = coupling.features_of
    if features and features not in dict(unet.named_modules()):
        raise UserError(f"the UNet has no module {features}, which {name} changes; choose another coupling")


def _hook(coupling: Coupling, place: WalkPlace) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda module, inputs, output: (
        coupling.features(place.now, output) if place.acting([coupling]) else output
    )
