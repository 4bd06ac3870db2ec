"""Begin, or go on: which checkpoint, whether this run may, and its numbers back into the engine."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from intarsia.errors import UserError
from training.checkpoint.folder import check_continues, newest_valid, read_state, sweep
from training.checkpoint.rank_files import Parts
from training.model.base_hash import unmark
from training.optimizer.fragments import fragments, refresh
from training.ranks.distributed import World
from training.run.faults import about_file
from training.run.state import RunFolder, TrainState

log = logging.getLogger(__name__)


def begin_or_continue(engine: Any, fresh: TrainState, run: RunFolder, world: World) -> TrainState:
    """Go on from the newest whole checkpoint of the run folder, or begin. Collective.

    Args:
        engine: gets the checkpoint's weights, optimizer and averages.
        fresh: the state of a run that begins now; its config, batch and data must fit the checkpoint's.
        run: the run folder.
        world: the ranks.

    Raises:
        UserError: on every rank, where the folder cannot be continued.
    """
    checkpoint, state = world.from_main(_choose(fresh, run) if world.is_main else None)
    if checkpoint is not None:
        load(engine, checkpoint, state.updates)
    return state


def _choose(fresh: TrainState, run: RunFolder) -> "tuple[Path | None, TrainState] | Exception":
    try:
        sweep(run.checkpoints)
        checkpoint, remarks = newest_valid(run.checkpoints)
        if checkpoint is None:
            return None, fresh
        old = read_state(checkpoint)
        remarks += check_continues(old, fresh, run.root)
        for remark in remarks:
            log.warning(remark)
        present = ("config", "libraries", "world_size", "zero_stage", "frozen_hash")
        return checkpoint, replace(old, **{name: getattr(fresh, name) for name in present})
    except UserError as error:
        return error
    except OSError as error:
        return about_file(run, error) or error


@torch.no_grad()
def load(engine: Any, checkpoint: Path, updates: int) -> None:
    """Load weights, moments and averages, saved by any number of ranks and stage. Collective.

    Args:
        engine: engine whose optimizer has a state.
        checkpoint: complete checkpoint.
        updates: number of updates of its weights.

    Raises:
        UserError: where the checkpoint lacks anything that this model needs.
    """
    parts = Parts(checkpoint)
    # A checkpoint of older days holds the base, too; then so do those that follow.
    unmark(param for name, param in engine.module.named_parameters() if parts.has(name))
    for fragment in fragments(engine):
        for kind, view in fragment.views.items() if not fragment.of_base else ():
            parts.read(kind, fragment.name, fragment.start, view)
    getattr(engine.optimizer, "optimizer", engine.optimizer).set_updates(updates)
    refresh(engine)
