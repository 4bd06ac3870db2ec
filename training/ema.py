"""AdamW, with averaged weights as a third tensor of its state.

There they are fp32 whatever the weights are, ZeRO shards them without further communication, and every
checkpoint of the optimizer carries them.
"""

from collections.abc import Callable, Iterable
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
    """AdamW whose state may also hold `ema`: ema ← d·ema + (1 − d)·weight after each update.

    It begins as the initial weight. While `overflow` is true, `step` does nothing: DeepSpeed's name for a
    gradient that is not finite, and where its engine looks for it.

    Args:
        params: as for AdamW.
        ema_decay: d, reached as `ema_decay_at` tells; None = no averages.
        options: as for AdamW.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], ema_decay: float | None = None, **options: Any
    ) -> None:
        self.ema_decay = ema_decay
        self.overflow = False
        super().__init__(params, **options)

    def begin(self, params: Iterable[Tensor]) -> None:
        """Make the whole state of `params` now, so that it can be saved, and loaded into, at any time."""
        fused = self.defaults["fused"] or self.defaults["capturable"]
        for param in params:
            state = self.state[param]
            state["step"] = torch.zeros((), dtype=torch.float32, device=param.device if fused else "cpu")
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            if self.ema_decay is not None:
                state[KEY] = param.detach().float().clone()
                state["ema_updates"] = 0

    def set_updates(self, updates: int) -> None:
        """Go on after so many updates; the moments and averages must be set by the caller."""
        for state in self.state.values():
            state["step"].fill_(updates)
            state["ema_updates"] = updates

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One AdamW update, then one of the averages."""
        if self.overflow:
            return None
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.begin(param for param in params if param not in self.state)
        result = super().step(closure)
        if self.ema_decay is not None:
            for param in params:
                state = self.state[param]
                decay = ema_decay_at(self.ema_decay, state["ema_updates"])
                state["ema_updates"] += 1
                state[KEY].lerp_(param.detach().float(), 1 - decay)
        return result
