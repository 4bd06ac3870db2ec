"""Saving while training goes on: copy, write in a thread, and let it count once all ranks have written."""

import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from intarsia.errors import UserError
from training.checkpoint import Written, checkpoint_name, publish, temporary_for
from training.config import CheckpointConfig
from training.distributed import World
from training.fragments import fragments
from training.parts import Pieces, copy_to_cpu, part_name, pieces_of, write_part
from training.state import TrainState


@dataclass
class _Save:
    """A checkpoint that is being written; `outcome` is this rank's file, or why there is none."""

    final: Path
    state: dict[str, Any]
    outcome: Written | str | None = None
    thread: threading.Thread | None = None

    def write(self, path: Path, pieces: Pieces) -> None:
        try:
            self.outcome = write_part(path, pieces)
        except (OSError, RuntimeError) as error:
            self.outcome = str(error)

    def written(self) -> bool:
        return self.thread is None or not self.thread.is_alive()


class Saver:
    """Writes a run's checkpoints, one at a time.

    Args:
        folder: of the checkpoints.
        options: how many stay, and whether training goes on meanwhile.
        world: the ranks; all of them must make the same calls.
    """

    def __init__(self, folder: Path, options: CheckpointConfig, world: World) -> None:
        self.folder, self.options, self.world = folder, options, world
        self._save: _Save | None = None
        self._buffer: Tensor | None = None

    def start(self, engine: Any, state: TrainState) -> None:
        """Save the run after `state.step` steps; with `asynchronous`, go on before it is written. Collective.

        Raises:
            UserError: on every rank, where one cannot write this checkpoint or the one before it.
        """
        self.finish()
        save = _Save(self.folder / checkpoint_name(state.step), state.to_json())
        temporary = temporary_for(save.final)
        self.world.from_main(_make_room(temporary) if self.world.is_main else None)
        self._save = save
        try:
            pieces = pieces_of(fragments(engine), self.world.rank, self.world.size)
            if self.options.asynchronous:
                pieces, self._buffer = copy_to_cpu(pieces, self._buffer)
        except RuntimeError as error:  # no memory for the copy; the other ranks are told by `finish`
            save.outcome = f"{error}; set checkpoint.asynchronous=false"
            return
        path = temporary / part_name(self.world.rank, self.world.size)
        save.thread = threading.Thread(target=save.write, args=(path, pieces), daemon=True)
        save.thread.start()
        if not self.options.asynchronous:
            self.finish()

    def poll(self) -> None:
        """Let a checkpoint count that all ranks have written by now; wait for none. Collective."""
        if self._save is not None and not self.world.any(not self._save.written()):
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint that was started is whole on the disk. Collective.

        Raises:
            UserError: on every rank, where one could not write.
        """
        save, self._save = self._save, None
        if save is None:
            return
        if save.thread is not None:
            save.thread.join()
        outcomes = self.world.gather(save.outcome)
        self.world.from_main(
            publish(save.final, save.state, outcomes, self.options) if self.world.is_main else None
        )


def _make_room(temporary: Path) -> UserError | None:
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    except OSError as error:
        return UserError(
            f"checkpoint folder {temporary.parent} cannot be written ({error}); make room and run again"
        )
    return None
