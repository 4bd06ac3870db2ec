"""What a resume needs besides weights and optimizer, and the layout of a run folder."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from intarsia.config import complete
from intarsia.errors import UserError
from intarsia.files import atomic_write, fingerprint
from training.config import BatchShape, TrainConfig, zero_stage_of

STATE_VERSION = 2
_LIBRARIES = ("torch", "deepspeed", "diffusers", "transformers", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.root / "config.yaml"

    def make(self) -> None:
        """Make the folder.

        Raises:
            UserError: where that is not possible.
        """
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run={self.root}: the run folder cannot be made ({error.strerror})") from None

    def keep_config(self, text: str) -> None:
        """Write the resolved config, unless it exists."""
        if not (self.config.is_file() and self.config.read_text(encoding="utf-8") == text):
            atomic_write(self.config, text)

    @property
    def lock(self) -> Path:
        """Held while a run is trained; says by whom."""
        return self.root / ".lock"

    @property
    def metrics(self) -> Path:
        """One JSON object per line."""
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """One JSON object per happening: beginnings, ends, faults, restarts. Nothing is ever taken out."""
        return self.root / "events.jsonl"

    @property
    def skipped(self) -> Path:
        """One JSON object per step that was skipped, with the samples' keys."""
        return self.root / "skipped.jsonl"

    @property
    def logs(self) -> Path:
        """One text log per rank."""
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        """One folder per saved step, and the pointer `latest`."""
        return self.root / "checkpoints"

    @property
    def averages(self) -> Path:
        """Snapshots of the averaged weights, of a run with optimizer.ema_kind=post_hoc."""
        return self.root / "averages"

    @property
    def previews(self) -> Path:
        """One PNG per preview."""
        return self.root / "previews"

    @property
    def finished(self) -> Path:
        """Written last of all: the step that the result was made at."""
        return self.root / "finished.json"


@dataclass
class TrainState:
    """The state of a run; `position`, the number of samples drawn so far, is all of the data's state.

    There is no state of random numbers: every draw is a function of the config's seed and a position.
    """

    step: int = 0
    position: int = 0
    skipped: int = 0  # steps whose update was left out because the gradient was not finite
    skipped_in_a_row: int = 0  # up to now
    wandb_id: str | None = None
    unlogged_losses: list[float] = field(default_factory=list)  # of the steps since the last line of metrics
    unlogged_quarters: list[list[float]] = field(default_factory=list)  # of losses.by_quarter
    global_batch_size: int = 1
    world_size: int = 1
    zero_stage: int = 0
    data_fingerprint: str = ""
    base_hash: str = ""  # of the trained part's weights that the checkpoint leaves out
    frozen_hash: str = ""  # of autoencoder and image tower (`latents.frozen_hash`); "" of earlier versions
    config: dict[str, Any] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    version: int = STATE_VERSION

    @property
    def updates(self) -> int:
        """How many updates the weights have had."""
        return self.step - self.skipped

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any], where: Path) -> "TrainState":
        """The state that `to_json` gave; options that came later have their defaults in its config.

        Raises:
            UserError: where another version of this program wrote it.
        """
        if _version_of(content) != STATE_VERSION:
            raise UserError(
                f"{where} has state version {_version_of(content)}, this program reads {STATE_VERSION}; "
                "continue the run with the program that began it"
            )
        try:
            return cls(**content | {"config": complete(TrainConfig, content.get("config", {}))})
        except TypeError as error:
            raise UserError(f"{where} is not a train state ({error})") from None


def _version_of(content: Any) -> Any:
    return content.get("version") if isinstance(content, dict) else None


def library_versions() -> dict[str, str]:
    """The versions of the libraries that numbers depend on."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def shards_fingerprint(shards: Sequence[Any]) -> str:
    """A hash of the data: the shards' names, counts, contents and order, but not their folder."""
    return fingerprint([[shard.name, shard.count, shard.sha256] for shard in shards])


def fresh_state(config: TrainConfig, shape: BatchShape, shards: Sequence[Any], **hashes: Any) -> TrainState:
    """The state of a run that begins now: no step done, and what must fit when it is continued.

    Args:
        config: training config.
        shape: shape of its batches.
        shards: shards from `find_shards`.
        hashes: hashes from `base_hash.content_hashes`.
    """
    return TrainState(
        global_batch_size=shape.global_batch,
        world_size=shape.world,
        zero_stage=zero_stage_of(config, shape.world),
        data_fingerprint=shards_fingerprint(shards),
        **hashes,
        config=config.model_dump(mode="json"),
        libraries=library_versions(),
    )
