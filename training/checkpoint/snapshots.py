"""Snapshots: the averages of a checkpoint in a file that stays, so that other widths can be made of them.

RUN/averages/step-00001000.safetensors holds `KIND/NAME` as in a checkpoint, whole and flat, in float16, which
takes half the disk, as the paper's program does. Its header holds the run's state. It is
taken out of the checkpoint by the thread that wrote that.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from intarsia.config import build_config
from intarsia.errors import UserError
from intarsia.files import atomic_path, sweep_temporaries
from training.checkpoint.folder import checkpoint_name, read_state, step_of
from training.checkpoint.rank_files import Parts
from training.config import TrainConfig
from training.optimizer.ema import KEY, average_name
from training.optimizer.power_ema import Profile
from training.ranks.distributed import World
from training.run.state import RunFolder, TrainState

_STATE = "state"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Snapshot:
    """A snapshot on the disk.

    Attributes:
        path: path of the file.
        state: state of the run at that time.
        config: training config.
    """

    path: Path
    state: TrainState
    config: TrainConfig

    @property
    def averages(self) -> list[tuple[str, Profile]]:
        """Kind and profile of each average."""
        widths = self.config.optimizer.ema_widths
        return [
            (average_name(place), Profile(self.state.updates, width)) for place, width in enumerate(widths)
        ]


def begin_snapshots(
    config: TrainConfig, run: RunFolder, state: TrainState, world: World
) -> Callable[[Path], UserError | None]:
    """What `Saver` shall do with each checkpoint: take a snapshot where one is due. Collective.

    Snapshots of later steps than the run's are deleted, and one that a killed process missed is taken.

    Raises:
        UserError: on every rank, where that cannot be written.
    """
    if config.optimizer.ema_kind != "post_hoc":
        return lambda checkpoint: None

    def take(checkpoint: Path) -> UserError | None:
        return take_snapshot(config, run.averages, checkpoint)

    def catch_up() -> UserError | None:
        run.averages.mkdir(exist_ok=True)
        sweep_temporaries(run.averages)
        for path in _files(run.averages):
            if step_of(path.with_suffix("")) > state.step:
                path.unlink()
        newest = run.checkpoints / checkpoint_name(state.step)
        return take(newest) if newest.is_dir() else None

    world.from_main(catch_up() if world.is_main else None)
    return take


def take_snapshot(config: TrainConfig, folder: Path, checkpoint: Path) -> UserError | None:
    """Write the averages of a whole checkpoint into `folder`, if they are due and not there; drop old ones.

    Returns:
        The error, where they cannot be written.
    """
    step, every = step_of(checkpoint), config.optimizer.ema_snapshot_every or config.checkpoint.every_steps
    path = folder / f"{checkpoint_name(step)}{_SUFFIX}"
    if path.is_file() or (step % every and step != config.max_steps):
        return None
    try:
        parts, tensors = Parts(checkpoint), {}
        for key, size in parts.sizes().items():
            kind, _, name = key.partition("/")
            if kind.startswith(KEY):
                whole = torch.empty(size)
                parts.read(kind, name, 0, whole)
                tensors[key] = whole.half()
        state = json.dumps(read_state(checkpoint).to_json())
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={_STATE: state})
            temporary.chmod(0o644)
    except (OSError, SafetensorError) as error:
        return UserError(f"snapshot {path} cannot be written ({error}); make room and run again")
    keep = config.optimizer.ema_keep_last
    for old in _files(folder)[:-keep] if keep else ():
        old.unlink()
    return None


def list_snapshots(run: RunFolder) -> list[Snapshot]:
    """The snapshots of a run, oldest first.

    Raises:
        UserError: where one cannot be read.
    """
    found = []
    for path in _files(run.averages):
        try:
            with safe_open(path, framework="pt") as file:
                content = json.loads((file.metadata() or {})[_STATE])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"snapshot {path} cannot be read ({error}); delete it to do without it") from None
        state = TrainState.from_json(content, path)
        found.append(Snapshot(path, state, build_config(TrainConfig, state.config, where=str(path))))
    return found


class WeightedSum:
    """A sum of averages, parameter by parameter: no more than one of them is in memory.

    Args:
        terms: snapshot, kind of the average in it, and weight of each term.
    """

    def __init__(self, terms: list[tuple[Snapshot, str, float]]) -> None:
        files = {snapshot.path: safe_open(snapshot.path, framework="pt") for snapshot, _, _ in terms}
        self._terms = [(files[snapshot.path], kind, times) for snapshot, kind, times in terms]
        self._keys = [set(file.keys()) for file in files.values()]

    def __contains__(self, name: str) -> bool:
        """Whether there is an average of this parameter: it was trained."""
        return all(f"{KEY}/{name}" in keys for keys in self._keys)

    def of(self, name: str, shape: torch.Size) -> Tensor:
        """The sum for one parameter, float32; summed up in float64."""
        total = torch.zeros(shape.numel(), dtype=torch.float64)
        for file, kind, times in self._terms:
            total += times * file.get_tensor(f"{kind}/{name}").double()
        return total.float().view(shape)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"step-*{_SUFFIX}") if path.stem[5:].isdigit())
