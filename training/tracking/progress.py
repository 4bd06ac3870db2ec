"""The user's view of a running training, and the log of each rank."""

import logging
import sys
import time
from typing import Any

from training.config import BatchShape, TrainConfig, zero_stage_of
from training.data.mixture import MixedOrder
from training.data.order import DataOrder
from training.data.streams import StreamOrder
from training.optimizer.ema import KEY, decays_of
from training.ranks.distributed import World
from training.run.state import RunFolder, TrainState

log = logging.getLogger("training")


class _LogFile(logging.FileHandler):
    """A log that a run can do without: where it cannot be written, that is said once."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Close it; Python would print a traceback for each line."""
        log.removeHandler(self)
        self.stream = None  # type: ignore[assignment]  # to close it would fail once more
        sys.stderr.write(f"{self.baseFilename} cannot be written ({sys.exc_info()[1]}): its log ends here\n")


def start_logging(folder: RunFolder, world: World) -> None:
    """Send the training log to logs/rank-N.log, and rank 0's to standard error, too."""
    folder.make()
    handlers: list[logging.Handler] = [_LogFile(folder.logs / f"rank-{world.rank}.log")]
    handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    if world.is_main:
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[1].setFormatter(logging.Formatter("%(message)s"))
        handlers[1].addFilter(lambda record: not getattr(record, "file_only", False))
    log.handlers = handlers
    log.setLevel(logging.INFO)
    log.propagate = False


def tell_plan(config: TrainConfig, shape: BatchShape, state: TrainState, samples: int, model: Any) -> None:
    """Log what is trained, and the step where it continues."""
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
    log.info("ZeRO stage %d, %s", zero_stage_of(config, shape.world), config.precision)
    if state.step >= config.max_steps:
        log.info("%d steps are done, max_steps=%d: nothing to train", state.step, config.max_steps)
    elif state.step:
        log.info("continuing after step %d of %d", state.step, config.max_steps)


def whereabouts(order: DataOrder | MixedOrder | StreamOrder, position: int) -> dict[str, float]:
    """data/*: samples drawn so far, in epochs too, and the shard of the last one."""
    shard, _ = order.locate(max(position - 1, 0))
    return {"data/samples": position, "data/epoch": position / order.total, "data/shard": shard}


def about_update(config: TrainConfig, update: Any, state: TrainState) -> dict[str, float]:
    """train/* of the step just finished, an `engine.Update`."""
    values = {
        "train/lr": update.lr,
        "train/grad_norm": float(update.grad_norm),
        "train/skipped": state.skipped,
    }
    if config.optimizer.averages:
        decay_at = decays_of(**config.optimizer.averages)[KEY]
        values["train/ema_decay"] = decay_at(max(state.updates - 1, 0))
    return values


class ProgressLine:
    """One line that is rewritten on a terminal; a line per record in a log."""

    def __init__(self, max_steps: int, is_main: bool) -> None:
        self.max_steps = max_steps
        self.is_main = is_main
        self.terminal = is_main and sys.stderr.isatty()
        self._seconds_per_step = 0.0

    def show(self, step: int, values: dict[str, float]) -> None:
        """Show the progress after `step` steps; `values` are the line of metrics."""
        if not self.is_main:
            return
        seconds_per_step = values["perf/step_s"]
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
        """Keep the last line on the terminal."""
        if self.terminal:
            sys.stderr.write("\n")
