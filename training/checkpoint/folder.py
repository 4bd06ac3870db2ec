"""Checkpoints that are whole or not there, and the run folder's rules for continuing.

Every rank writes its part into a folder with a temporary name; then rank 0 writes state.json and, last, a
manifest with sizes and hashes, syncs it all, renames the folder to step-00001234 and swaps the pointer
`latest`. The parts hold named fp32 numbers, for every stage and number of ranks that wrote them: one format
from which a run continues, on the same or other ranks, and from which a model folder is made.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataprep.draw.recipe import with_recipes
from intarsia.config import config_differences
from intarsia.errors import UsageError, UserError
from intarsia.files import atomic_write, read_json, sha256_file, sweep_temporaries, sync, write_json
from training.config import may_change
from training.option_groups import CheckpointConfig
from training.run.state import RunFolder, TrainState, library_versions

CHECKPOINT_MANIFEST = "manifest.json"
STATE = "state.json"
LATEST = "latest"
_TEMPORARY = ".tmp-"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """A file as its writer saw it."""

    name: str
    bytes: int
    sha256: str


def checkpoint_name(step: int) -> str:
    """The folder's name of a checkpoint."""
    return f"step-{step:08d}"


def temporary_for(final: Path) -> Path:
    """The folder where a checkpoint is written before it is committed."""
    return final.with_name(f"{_TEMPORARY}{final.name}")


def publish(
    final: Path,
    state: dict[str, Any],
    outcomes: Sequence[Written | str | None],
    options: CheckpointConfig,
) -> UserError | None:
    """Let a checkpoint count whose parts are written and synced; only rank 0.

    Args:
        final: folder of the checkpoint.
        state: state of the run when it was saved.
        outcomes: each rank's part, or the reason why it was not written.
        options: number of older checkpoints to keep.

    Returns:
        The error, where a rank or this last step failed; nothing of it is left then.
    """
    temporary = temporary_for(final)
    written = [outcome for outcome in outcomes if isinstance(outcome, Written)]
    reason = "; ".join(f"rank {r}: {o}" for r, o in enumerate(outcomes) if not isinstance(o, Written))
    try:
        if not reason:
            _publish(temporary, final, state, written)
            _retain(final.parent, options)
            return None
    except OSError as error:
        reason = str(error)
    shutil.rmtree(temporary, ignore_errors=True)
    return UserError(f"checkpoint {final} cannot be written ({reason}); make room and run again")


def _publish(temporary: Path, final: Path, state: dict[str, Any], parts: Sequence[Written]) -> None:
    path = temporary / STATE
    write_json(path, state)
    written = [*parts, Written(STATE, path.stat().st_size, sha256_file(path))]
    write_json(temporary / CHECKPOINT_MANIFEST, {"files": {file.name: asdict(file) for file in written}})
    sync(temporary)
    if final.exists():  # a torn one of the same step: it was not loaded
        shutil.rmtree(final)
    temporary.rename(final)
    sync(final.parent)
    atomic_write(final.parent / LATEST, final.name + "\n")


def _retain(folder: Path, options: CheckpointConfig) -> None:
    for old in list_checkpoints(folder)[: -options.keep_last]:
        if options.keep_every and step_of(old) % options.keep_every == 0:
            continue
        doomed = temporary_for(old)  # half-deleted, it must not look like a checkpoint
        shutil.rmtree(doomed, ignore_errors=True)
        old.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete the files of interrupted saves. Only rank 0, before anything is saved."""
    for stray in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(stray, ignore_errors=True)
    sweep_temporaries(folder)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders, oldest first, valid or not."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir() and path.name[5:].isdigit())


def step_of(checkpoint: Path) -> int:
    """The number of steps after which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("step-"))


def what_is_torn(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be used: a missing manifest, or a file that is missing, short or altered."""
    try:
        listing = read_json(checkpoint / CHECKPOINT_MANIFEST)["files"]
        for name, entry in listing.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, not {entry['bytes']}"
            if sha256_file(path) != entry["sha256"]:
                return f"{name} is damaged"
    except (UserError, KeyError, TypeError, AttributeError) as error:
        return f"{CHECKPOINT_MANIFEST}: {error}"
    except OSError as error:
        return f"{error.filename or 'a file'} cannot be read ({error.strerror})"
    return None


def newest_valid(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and a line for each newer one that was passed over.

    Raises:
        UserError: if there are checkpoints but none is complete: a new start would hide a lost run.
    """
    skipped: list[str] = []
    for checkpoint in reversed(list_checkpoints(folder)):
        reason = what_is_torn(checkpoint)
        if reason is None:
            return checkpoint, skipped
        skipped.append(f"skipped the torn checkpoint {checkpoint}: {reason}")
    if skipped:
        raise UserError(f"no whole checkpoint in {folder} ({'; '.join(skipped)}); delete it to start anew")
    return None, skipped


def read_state(checkpoint: Path) -> TrainState:
    """The train state of a checkpoint."""
    return TrainState.from_json(read_json(checkpoint / STATE), checkpoint / STATE)


def check_config(config: dict[str, Any], run: RunFolder) -> None:
    """Refuse a changed config on an old run folder at once, before anything slow is loaded.

    Raises:
        UsageError: naming every difference that would alter the run's numbers.
    """
    for checkpoint in reversed(list_checkpoints(run.checkpoints)):
        try:
            old = read_state(checkpoint).config
        except UserError:
            continue  # torn; `begin_or_continue` will say so
        _refuse_differences(_differences(old, config), run.root)
        return


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`config_differences`; of two recipes with different names only the names."""
    data = with_recipes(old["data"], new["data"], None)
    return config_differences(old | {"data": data[0]}, new | {"data": data[1]})


def _refuse_differences(lines: list[str], run: Path) -> None:
    refused = [line for line in lines if not may_change(line.partition(":")[0])]
    if refused:
        raise UsageError(
            f"{run} was begun with another config ({'; '.join(refused)}); use its config to continue it, or "
            "another run folder to start anew"
        )


def another_base(run: Path | str | None, init: Mapping[str, Any]) -> str:
    """The sentence for a base (`base.mark_base`) whose weights are not those that a run was begun with.

    Args:
        run: run folder.
        init: `model.init` of its config.
    """
    source = init.get("model_folder") or init.get("stable_diffusion") or "model.init, which names none,"
    return (
        f"{run} was begun with other weights than {source} holds now, and its checkpoints hold only what was "
        "trained; put the old weights back there, or begin another run folder"
    )


def check_continues(old: TrainState, new: TrainState, run: Path) -> list[str]:
    """Check that a run may go on from `old` with the config, batch and data of `new`.

    Returns:
        Remarks on what changed and may.

    Raises:
        UsageError: naming every difference that would alter the run's numbers.
    """
    lines = _differences(old.config, new.config)
    _refuse_differences(lines, run)
    if old.global_batch_size != new.global_batch_size:
        raise UsageError(
            f"{run} was begun with {old.global_batch_size} samples per step, and these ranks and batch "
            f"options make {new.global_batch_size}; set global_batch_size={old.global_batch_size} and leave "
            "grad_accum_steps out"
        )
    if old.data_fingerprint != new.data_fingerprint:
        raise UsageError(
            f"{run} was begun with other shards than {', '.join(new.config['data']['shards'])} hold; use the "
            "same shards, or another run folder"
        )
    init = new.config["model"]["init"]
    if old.base_hash not in ("", new.base_hash):
        raise UsageError(another_base(run, init))
    if old.frozen_hash not in ("", new.frozen_hash):
        named = ", ".join(f"model.init.{key}={place}" for key, place in init.items() if place)
        raise UsageError(
            f"{run} was begun with another autoencoder or image encoder than {named or 'model.init'} gives "
            "now, and they are in no checkpoint; name the old files, or begin another run folder"
        )
    lines += config_differences({"ranks": old.world_size}, {"ranks": new.world_size})
    lines += config_differences(old.libraries, library_versions())
    return [f"changed since the checkpoint: {line}" for line in lines]
