"""Where the time of a step goes, without waiting for the device in any step."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from training.config import BatchShape, TrainConfig
from training.ranks.distributed import World

PARTS = ("data_wait", "encode", "forward", "backward", "optimizer", "other")
_PAUSE = ""


class Stopwatch:
    """Time since the last line of metrics, cut into laps; what is paused does not count.

    On a GPU a lap ends with an event in the device's stream: events are read when the line is due, so that
    no step waits. Waiting for data then means time in which the GPU had nothing to do.

    Args:
        trainee: the trained module; its forward pass ends the laps `encode` and `forward` by itself.
        shape: shape of the batches.
        device: torch.device that computes.
        seconds_at_peak: seconds of a sample's arithmetic at the device's peak; None = no MFU.
    """

    def __init__(
        self, trainee: nn.Module, shape: BatchShape, device: Any, seconds_at_peak: float | None = None
    ) -> None:
        self._shape, self._device, self._at_peak = shape, device.type, seconds_at_peak
        self._cuda = device.type == "cuda"
        trainee.register_forward_pre_hook(lambda *_: self._lap_in_training("encode"))
        trainee.register_forward_hook(lambda *_: self._lap_in_training("forward"))
        self.restart()

    def restart(self) -> None:
        """Begin again."""
        self.images = 0
        self._marks: list[tuple[str, Any]] = [(_PAUSE, self._now())]

    def lap(self, part: str) -> None:
        """Count the time since the last lap for one of `PARTS`."""
        self._marks.append((part, self._now()))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as waiting for data."""
        self.lap("other")
        yield
        self.lap("data_wait")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the block out: previews and checkpoints are no training."""
        self.lap("other")
        yield
        self.lap(_PAUSE)

    def values(self) -> dict[str, float]:
        """perf/* and memory/*, as docs/tracking.md lists them: seconds per step, of this rank, and shares."""
        seconds = self._seconds()
        steps = max(self.images / self._shape.global_batch, 1)
        total = max(sum(seconds.values()), 1e-9)
        speed = self.images / total
        values = {
            "perf/images_per_s": speed,
            "perf/images_per_s_per_rank": speed / self._shape.world,
            "perf/data_wait": seconds["data_wait"] / total,
            "perf/step_s": total / steps,
            **{f"perf/{part}_s": seconds[part] / steps for part in PARTS},
            "memory/peak_gb": peak_memory_gb(self._device),
        }
        if self._at_peak is not None:
            values["perf/mfu"] = speed / self._shape.world * self._at_peak
        return values

    def _seconds(self) -> dict[str, float]:
        if self._cuda:
            self._marks[-1][1].synchronize()
        seconds = dict.fromkeys((*PARTS, _PAUSE), 0.0)
        for (_, began), (part, ended) in pairwise(self._marks):
            seconds[part] += began.elapsed_time(ended) / 1000 if self._cuda else ended - began
        del seconds[_PAUSE]
        return seconds

    def _lap_in_training(self, part: str) -> None:
        if torch.is_grad_enabled():
            self.lap(part)

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def peak_memory_gb(device_type: str) -> float:
    """The most memory this process ever had: of the GPU, or on a CPU its resident set; in GB."""
    if device_type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def seconds_at_peak(config: TrainConfig, world: World) -> float | None:
    """What one sample's arithmetic would take at this GPU's measured peak; None on a CPU and on other ranks.

    Counting takes some seconds, and on a CPU the share of the peak is of no use.
    """
    if world.device.type != "cuda" or not world.is_main:
        return None
    from training.estimate.counting import count_flops

    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return sum(count_flops(config).values()) / matmul_peak(world.device, dtype)


def matmul_peak(device: Any, dtype: torch.dtype, side: int | None = None) -> float:
    """The most floating-point operations per second that a matrix product reaches here; the best of several.

    On a CPU per second of CPU time, since other work disturbs.

    Args:
        device: torch.device that computes.
        dtype: precision of the factors.
        side: side of the square factors; None = 8192 on a GPU, 1024 on a CPU.
    """
    side = side or (8192 if device.type == "cuda" else 1024)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    best = float("inf")
    for _ in range(8):
        began = clock()
        (left @ right).flatten()[0].item()
        best = min(best, clock() - began)
    return 2 * side**3 / best
