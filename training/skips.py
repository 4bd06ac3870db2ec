"""Steps without a finite loss or gradient: left out by all ranks together, counted, written down, and in the
end a reason to stop.
"""

import json
from collections.abc import Sequence

from torch import Tensor

from intarsia.errors import UserError
from intarsia.files import atomic_write
from training.config import TrainConfig
from training.distributed import World
from training.state import RunFolder, TrainState
from training.tracker import read_metrics

Seen = Sequence[tuple[Sequence[str], Tensor]]  # per micro-batch: the samples' keys, and bool [B]: not finite


def note_skip(config: TrainConfig, run: RunFolder, world: World, state: TrainState, seen: Seen) -> None:
    """Count the step just finished without an update, and write its samples down. Collective.

    Args:
        config: how many such steps in a row are too many.
        run: gets a line in skipped.jsonl: the samples that gave no finite prediction, or all of the step's.
        world: the ranks.
        state: its counts of skipped steps go up.
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
        earlier = [line for line in read_metrics(run.skipped) if line["step"] < state.step]
        atomic_write(run.skipped, "".join(json.dumps(line) + "\n" for line in [*earlier, record]))
    if state.skipped_in_a_row >= config.max_skipped_in_a_row:
        raise UserError(
            f"{state.skipped_in_a_row} steps in a row gave a loss or gradient that is not finite, up to step "
            f"{state.step} (samples {', '.join(suspects or samples)}; all are in {run.skipped}); "
            "continue in a new run folder with a lower optimizer.lr or with optimizer.grad_clip=1, or build "
            "the shards without these samples"
        )
