"""The losses between two lines of metrics, whole and by noise level; and the steps that gave none."""

import json
import math
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from intarsia.errors import UserError
from intarsia.files import naming
from training.config import TrainConfig
from training.objective.task import Step, Task
from training.ranks.distributed import World
from training.run.state import RunFolder, TrainState
from training.tracking.tracker import rewrite_records

QUARTERS = 4
Seen = Sequence[tuple[Sequence[str], Tensor]]  # per micro-batch: the samples' keys, and bool [B]: not finite


def by_quarter(errors: Tensor, timesteps: Tensor, num_train_timesteps: int) -> Tensor:
    """float32 [8]: sums of the samples' errors [B] by quarter of their timesteps [B], then their numbers."""
    quarters = (timesteps * QUARTERS).div(num_train_timesteps, rounding_mode="floor")
    member = quarters[:, None] == torch.arange(QUARTERS, device=quarters.device)
    return torch.cat([torch.where(member, errors[:, None], 0.0).sum(dim=0), member.float().sum(dim=0)])


def quarter_means(rows: list[list[float]], name: str) -> dict[str, float]:
    """`name`_q1 (least noise) … `name`_q4: means over rows of `by_quarter`; empty quarters are left out."""
    sums = [math.fsum(column) for column in zip(*rows, strict=True)]
    pairs = zip(sums[:QUARTERS], sums[QUARTERS:], strict=True)
    return {f"{name}_q{place}": total / number for place, (total, number) in enumerate(pairs, 1) if number}


class Losses:
    """Gathers the losses of steps on the device; `take_up` alone waits for them.

    Args:
        trainee: the trained module; a hook sees each prediction of the training.
        task: task whose errors are gathered.
        num_train_timesteps: timesteps of the noise schedule.
        state: keeps what was taken up and not yet logged, so that a checkpoint carries it.
        world: the ranks.
    """

    def __init__(
        self, trainee: nn.Module, task: Task, num_train_timesteps: int, state: TrainState, world: World
    ) -> None:
        self._task, self._timesteps, self._state, self._world = task, num_train_timesteps, state, world
        self._quarters: list[Tensor] = []  # of the present step, by micro-batch
        self._rows: list[Tensor] = []  # of whole steps: the loss, then `by_quarter`
        trainee.register_forward_hook(self._see)

    def keep(self, micro_losses: list[Tensor]) -> None:
        """The step is done; `micro_losses` are the micro-batches'."""
        loss = torch.stack(micro_losses).mean().float()
        self._rows.append(torch.cat([loss[None], torch.stack(self._quarters).sum(dim=0)]))
        self._quarters.clear()

    def drop(self) -> None:
        """The step was left out, and so are its losses."""
        self._quarters.clear()

    def take_up(self) -> None:
        """Average over the ranks what was kept, and put it into the state. Collective."""
        if not self._rows:
            return
        rows = torch.stack(self._rows)
        width, numbers = rows.shape[1], self._world.mean(rows.flatten().tolist())
        for start in range(0, len(numbers), width):
            self._state.unlogged_losses.append(numbers[start])
            self._state.unlogged_quarters.append(numbers[start + 1 : start + width])
        self._rows.clear()

    def values(self) -> dict[str, float]:
        """train/loss and train/loss_q1 … q4, means over the steps since the last call. Collective."""
        self.take_up()
        state = self._state
        means = quarter_means(state.unlogged_quarters, "train/loss") if state.unlogged_quarters else {}
        values = {"train/loss": fmean(state.unlogged_losses or [math.nan]), **means}
        state.unlogged_losses, state.unlogged_quarters = [], []
        return values

    def _see(self, module: nn.Module, inputs: tuple[Step], prediction: Tensor) -> None:
        if torch.is_grad_enabled():
            with torch.no_grad():
                errors = self._task.errors(prediction, inputs[0])
                self._quarters.append(by_quarter(errors, inputs[0].timesteps, self._timesteps))


def note_skip(config: TrainConfig, run: RunFolder, world: World, state: TrainState, seen: Seen) -> None:
    """Count the step just finished without an update, and write its samples down. Collective.

    Args:
        config: training config, with the limit of such steps in a row.
        run: gets a line in skipped.jsonl: the samples that gave no finite prediction, or all of the step's.
        world: the ranks.
        state: training state; its counts of skipped steps increase.
        seen: this rank's micro-batches.

    Raises:
        UserError: on every rank, with the samples' keys, when it was the last one allowed.
    """
    state.skipped += 1
    state.skipped_in_a_row += 1
    keys = [key for batch, _ in seen for key in batch]
    sick = [key for batch, bad in seen for key, is_bad in zip(batch, bad.tolist(), strict=True) if is_bad]
    of_all = world.gather((keys, sick))
    samples, suspects = ([key for part in column for key in part] for column in zip(*of_all, strict=True))
    record = {"step": state.step, "suspects": suspects, "samples": samples}
    if world.is_main:
        rewrite_records(run.skipped, until=state.step - 1)
        with naming(run.skipped), run.skipped.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    if state.skipped_in_a_row >= config.max_skipped_in_a_row:
        raise UserError(
            f"{state.skipped_in_a_row} steps in a row gave a loss or gradient that is not finite, up to step "
            f"{state.step} (samples {', '.join(suspects or samples)}; all are in {run.skipped}); "
            "continue in a new run folder with a lower optimizer.lr or with optimizer.grad_clip=1, or build "
            "the shards without these samples"
        )
