"""What the user sees while training runs, and the log of each rank."""

import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from training.config import BatchShape, TrainConfig
from training.distributed import World
from training.state import RunFolder, TrainState

log = logging.getLogger("training")


def start_logging(folder: RunFolder, world: World) -> None:
    """Send the training log to logs/rank-N.log, and rank 0's to standard error, too."""
    folder.make()
    handlers: list[logging.Handler] = [logging.FileHandler(folder.logs / f"rank-{world.rank}.log")]
    handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    if world.is_main:
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[1].setFormatter(logging.Formatter("%(message)s"))
        handlers[1].addFilter(lambda record: not getattr(record, "file_only", False))
    log.handlers = handlers
    log.setLevel(logging.INFO)
    log.propagate = False


def tell_plan(config: TrainConfig, shape: BatchShape, state: TrainState, samples: int, model: Any) -> None:
    """Say what is about to be trained, and from where it goes on."""
    sizes = [(getattr(param, "ds_numel", param.numel()), param.requires_grad) for param in model.parameters()]
    trained = sum(size for size, wanted in sizes if wanted)  # stage 3 leaves parameters empty, with ds_numel
    frozen = sum(size for size, wanted in sizes if not wanted)
    log.info("run %s: %s parameters trained, %s frozen", config.run, f"{trained:,}", f"{frozen:,}")
    log.info(
        "global batch %d = micro-batch %d × accumulation %d × ranks %d; %s samples per epoch, %.1f epochs",
        shape.global_batch,
        shape.micro,
        shape.accum,
        shape.world,
        f"{samples:,}",
        config.max_steps * shape.global_batch / samples,
    )
    log.info("ZeRO stage %d, %s", config.zero_stage, config.precision)
    if state.step:
        log.info("continuing after step %d of %d", state.step, config.max_steps)


@dataclass
class Stopwatch:
    """Time since the last line of metrics, split into waiting for data and the rest; pauses do not count."""

    images: int = 0
    data_wait: float = 0.0
    _since: float = field(default_factory=time.perf_counter)

    def restart(self) -> None:
        """Begin anew."""
        self.images, self.data_wait, self._since = 0, 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as waiting for data."""
        began = time.perf_counter()
        yield
        self.data_wait += time.perf_counter() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the block out: previews and checkpoints are no training."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def seconds(self) -> float:
        """Seconds since the start, without pauses."""
        return max(time.perf_counter() - self._since, 1e-9)

    def values(self) -> dict[str, float]:
        """perf/images_per_s over all ranks, and perf/data_wait, the share of the time spent waiting."""
        seconds = self.seconds()
        return {"perf/images_per_s": self.images / seconds, "perf/data_wait": self.data_wait / seconds}


def peak_memory_gb(device_type: str) -> float:
    """The most memory this process ever had: of the GPU, or on a CPU its resident set; in GB."""
    if device_type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class Progress:
    """One line that is rewritten on a terminal; a line per record in a log."""

    def __init__(self, max_steps: int, is_main: bool) -> None:
        self.max_steps = max_steps
        self.is_main = is_main
        self.terminal = is_main and sys.stderr.isatty()
        self._seconds_per_step = 0.0

    def show(self, step: int, values: dict[str, float], seconds_per_step: float) -> None:
        """Tell where the run is after `step` steps."""
        if not self.is_main:
            return
        smooth = 0.9 if self._seconds_per_step else 0.0
        self._seconds_per_step = smooth * self._seconds_per_step + (1 - smooth) * seconds_per_step
        left = time.strftime(
            "%H:%M:%S", time.gmtime(self._seconds_per_step * (self.max_steps - step) % 86400)
        )
        days = int(self._seconds_per_step * (self.max_steps - step) // 86400)
        line = (
            f"step {step}/{self.max_steps}  loss {values['train/loss']:.4f}  "
            f"{values['perf/images_per_s']:.1f} images/s  left {f'{days}d ' if days else ''}{left}"
        )
        log.info(line, extra={"file_only": self.terminal})
        if self.terminal:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()

    def close(self) -> None:
        """Leave the line standing."""
        if self.terminal:
            sys.stderr.write("\n")
