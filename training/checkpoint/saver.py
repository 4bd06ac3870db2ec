"""Saving while training continues: copy, write in a thread, and commit once all ranks have written."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from intarsia.errors import UserError
from training.checkpoint.folder import Written, checkpoint_name, publish, temporary_for
from training.checkpoint.rank_files import Pieces, copy_to_cpu, part_name, pieces_of, write_part
from training.optimizer.fragments import fragments
from training.option_groups import CheckpointConfig
from training.ranks.distributed import World
from training.run.state import TrainState


@dataclass
class _Save:
    """A checkpoint on its way: each rank writes its part, then rank 0 lets the whole count.

    `outcome` is this rank's file, or the reason why there is none; `outcomes` are all ranks', when known.
    """

    final: Path
    state: dict[str, Any]
    outcome: Written | str | None = None
    outcomes: list[Written | str | None] | None = None
    error: UserError | None = None
    thread: threading.Thread | None = None

    def begin(self, work: Callable[..., None], *arguments: Any) -> None:
        self.thread = threading.Thread(target=work, args=arguments, daemon=True)
        self.thread.start()

    def write(self, path: Path, pieces: Pieces) -> None:
        try:
            self.outcome = write_part(path, pieces)
        except (OSError, RuntimeError) as error:
            self.outcome = str(error)
            path.unlink(missing_ok=True)  # now: training writes its log on the same disk

    def publish(self, options: CheckpointConfig, then: Callable[[Path], UserError | None]) -> None:
        self.error = UserError(f"checkpoint {self.final} was not finished; its thread's last words tell why")
        self.error = publish(self.final, self.state, self.outcomes or [], options) or then(self.final)

    def at_work(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class Saver:
    """Writes a run's checkpoints, one at a time.

    Args:
        folder: folder of the checkpoints.
        options: number of checkpoints to keep, and whether training continues meanwhile.
        world: the ranks; all of them must make the same calls.
        then: function that rank 0's thread calls with each committed checkpoint; returns why it failed.
    """

    def __init__(
        self,
        folder: Path,
        options: CheckpointConfig,
        world: World,
        then: Callable[[Path], UserError | None] = lambda checkpoint: None,
    ) -> None:
        self.folder, self.options, self.world, self._then = folder, options, world, then
        self._save: _Save | None = None
        self._buffers: list[Tensor] = []

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
                pieces, self._buffers = copy_to_cpu(pieces, self._buffers)
        except RuntimeError as error:  # no memory for the copy; `finish` reports it to the other ranks
            save.outcome = f"{error}; set checkpoint.asynchronous=false"
            return
        path = temporary / part_name(self.world.rank, self.world.size)
        save.begin(save.write, path, pieces)
        if not self.options.asynchronous:
            self.finish()

    def poll(self) -> None:
        """Bring the checkpoint on as far as that goes without waiting for anything. Collective.

        Raises:
            UserError: on every rank, where one could not write.
        """
        if self._save is not None and not self.world.any(self._save.at_work()):
            self._go_on(self._save)

    def finish(self) -> None:
        """Wait until the checkpoint that was started is whole on the disk. Collective.

        Raises:
            UserError: on every rank, where one could not write.
        """
        while self._save is not None:
            if self._save.thread is not None:
                self._save.thread.join()
            self._go_on(self._save)

    def _go_on(self, save: _Save) -> None:
        if save.outcomes is None:
            save.outcomes = self.world.gather(save.outcome)
            if self.world.is_main:
                save.begin(save.publish, self.options, self._then)
        else:
            self._save = None
            self.world.from_main(save.error)


def _make_room(temporary: Path) -> UserError | None:
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    except OSError as error:
        return UserError(
            f"checkpoint folder {temporary.parent} cannot be written ({error}); make room and run again"
        )
    return None
