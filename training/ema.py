"""Averaged weights, kept as a third tensor of the optimizer's state.

There they are fp32 whatever the weights are, ZeRO shards them without further communication, and every
checkpoint of the optimizer carries them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

KEY = "ema"


def ema_decay_at(decay: float, update: int) -> float:
    """The decay of update number `update` (0 for the first): min(decay, (1 + n) / (10 + n)).

    The growing start, known from TensorFlow's ExponentialMovingAverage, lets short runs forget the initial
    weights.
    """
    return min(decay, (1 + update) / (10 + update))


class EmaAdamW(torch.optim.AdamW):
    """AdamW whose state also holds `ema`: ema ← d·ema + (1 − d)·weight after each update.

    It begins as the initial weight.

    Args:
        params: as for AdamW.
        ema_decay: d, reached as `ema_decay_at` tells.
        options: as for AdamW.
    """

    def __init__(self, params: Iterable[nn.Parameter], ema_decay: float, **options: Any) -> None:
        self.ema_decay = ema_decay
        super().__init__(params, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One AdamW update, then one of the averages."""
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for param in params:
            if KEY not in self.state[param]:
                self._begin(param)
        result = super().step(closure)
        for param in params:
            state = self.state[param]
            decay = ema_decay_at(self.ema_decay, int(state["ema_updates"]))
            state["ema_updates"] += 1
            state[KEY].lerp_(param.detach().float(), 1 - decay)
        return result

    def _begin(self, param: nn.Parameter) -> None:
        """Fill the whole state: AdamW would leave a state that is not empty without its own tensors."""
        state = self.state[param]
        fused = self.defaults["fused"] or self.defaults["capturable"]
        state["step"] = torch.zeros((), dtype=torch.float32, device=param.device if fused else "cpu")
        state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        state[KEY] = param.detach().float().clone()
        state["ema_updates"] = 0


def gather_ema(module: nn.Module, optimizer: Any, keep: bool) -> dict[str, Tensor]:
    """The averaged weights by parameter name, whole, on the CPU. Collective: every rank must call it.

    Args:
        module: the trained module; parameters without gradient, and all of them before the first update, come
            out as they are.
        optimizer: the engine's optimizer (ZeRO's wrapper at stages 1 and 2, an EmaAdamW at stage 0).
        keep: whether this rank wants the result; the others take part and get an empty dict.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    base = getattr(optimizer, "optimizer", optimizer)
    begun = any(KEY in state for state in base.state.values())
    if begun and hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._lazy_init_hp_params_optimizer_state()  # after a load, DeepSpeed waits for the next step
    gathered = {}
    for name, param in module.named_parameters():
        average = param
        if begun and param.requires_grad:
            sharded = hasattr(param, "_hp_mapping")
            average = safe_get_full_optimizer_state(param, KEY) if sharded else base.state[param][KEY]
        if keep:
            gathered[name] = average.detach().to("cpu", copy=True)
    return gathered


@contextmanager
def averaged_weights(engine: Any, averaging: bool, is_main: bool) -> Iterator[None]:
    """Inside the block, rank 0's trained part has the averaged weights, where there are any. Collective."""
    weights = gather_ema(engine.module, engine.optimizer, keep=is_main) if averaging else {}
    with swapped(engine.module, weights):
        yield


@contextmanager
def swapped(module: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Let `module` have `weights` (by parameter name) inside the block, and its own again after it."""
    own = {name: param.detach().clone() for name, param in module.named_parameters() if name in weights}
    try:
        _assign(module, weights)
        yield
    finally:
        _assign(module, own)


@torch.no_grad()
def _assign(module: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, param in module.named_parameters():
        if name in weights:
            param.copy_(weights[name])
