"""AdamW, with averaged weights as further tensors of its state.

They are fp32 for weights of every precision, ZeRO shards them without further communication, and every
checkpoint of the optimizer carries them.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from training.optimizer.power_ema import exponent_of, power_decay_at

KEY = "ema"  # the kind of the averaged weights that a run shows and writes as its model


def average_name(place: int) -> str:
    """The kind of average number `place` (0 for the first) among the optimizer's tensors: ema, ema2, …"""
    return KEY if place == 0 else f"{KEY}{place + 1}"


def ema_decay_at(decay: float, update: int) -> float:
    """The decay of update number `update` (0 for the first): min(decay, (1 + n) / (10 + n)).

    The growing start, known from TensorFlow's ExponentialMovingAverage, lets short runs forget the initial
    weights.
    """
    return min(decay, (1 + update) / (10 + update))


def decays_of(
    ema_decay: float | None = None, ema_widths: Sequence[float] = ()
) -> dict[str, Callable[[int], float]]:
    """Kind of average -> its decay by the number of earlier updates; empty without averages.

    Args:
        ema_decay: decay of one standard average; None = no average.
        ema_widths: relative widths of power function averages.
    """
    if ema_decay is not None:
        return {KEY: partial(ema_decay_at, ema_decay)}
    exponents = [exponent_of(width) for width in ema_widths]
    return {
        average_name(place): partial(power_decay_at, exponent) for place, exponent in enumerate(exponents)
    }


class EmaAdamW(torch.optim.AdamW):
    """AdamW whose state may also hold averages: average ← d·average + (1 − d)·weight after each update.

    They begin as the initial weight. While `overflow` is true, `step` does nothing: DeepSpeed's name for a
    gradient that is not finite, and where its engine looks for it.

    Args:
        params: parameters, as for AdamW.
        ema_decay: decay of one average, `ema`, with the start of `ema_decay_at`; None = no such average.
        foreach_averages: whether all parameters are averaged in one call.
        ema_widths: instead of it, of the power function averages `ema`, `ema2`, ….
        options: other options of AdamW.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        ema_decay: float | None = None,
        ema_widths: Sequence[float] = (),
        foreach_averages: bool = False,
        **options: Any,
    ) -> None:
        self.decays = decays_of(ema_decay, ema_widths)
        self.foreach_averages = foreach_averages
        self.overflow = False
        super().__init__(params, **options)

    def begin(self, params: Iterable[Tensor]) -> None:
        """Make the whole state of `params` now, so that it can be saved, and loaded into, at any time."""
        fused = self.defaults["fused"] or self.defaults["capturable"]
        for param in params:
            state = self.state[param]
            state["step"] = torch.zeros((), dtype=torch.float32, device=param.device if fused else "cpu")
            state.update(self._new_moments(param))
            for kind in self.decays:
                state[kind] = param.detach().float().clone()
            if self.decays:
                state["ema_updates"] = 0

    def _new_moments(self, param: Tensor) -> dict[str, Any]:
        kinds = ("exp_avg", "exp_avg_sq")
        return {kind: torch.zeros_like(param, memory_format=torch.preserve_format) for kind in kinds}

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
        result = self._update(params, closure)
        if self.decays and params:
            average = self._average_together if self.foreach_averages else self._average
            average(params)
        return result

    def _update(self, params: Sequence[Tensor], closure: Callable[[], float] | None) -> Any:
        return super().step(closure)

    def _average(self, params: Sequence[Tensor]) -> None:
        for param in params:
            state = self.state[param]
            weight = param.detach().float()
            for kind, decay_at in self.decays.items():
                state[kind].lerp_(weight, 1 - decay_at(state["ema_updates"]))
            state["ema_updates"] += 1

    def _average_together(self, params: Sequence[Tensor]) -> None:
        """The same in one call for all parameters that have had equally many updates: nearly always all."""
        groups: dict[int, list[Tensor]] = {}
        for param in params:
            groups.setdefault(self.state[param]["ema_updates"], []).append(param)
        for updates, group in groups.items():
            weights = [param.detach().float() for param in group]
            for kind, decay_at in self.decays.items():
                torch._foreach_lerp_([self.state[p][kind] for p in group], weights, 1 - decay_at(updates))
            for param in group:
                self.state[param]["ema_updates"] += 1
