"""Checkpoints that are whole or not there, and the run folder's rules for continuing.

Every rank writes its part into a folder with a temporary name; then rank 0 writes state.json and, last, a
manifest with sizes and hashes, syncs it all, renames the folder to step-00001234 and swaps the pointer
`latest`.
"""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from intarsia.config import config_differences
from intarsia.errors import UsageError, UserError
from intarsia.files import atomic_write, read_json, sha256_file, sync, write_json
from training.config import may_change
from training.distributed import World
from training.state import RunFolder, TrainState, library_versions

MANIFEST = "manifest.json"
STATE = "state.json"
LATEST = "latest"
_TEMPORARY = ".tmp-"
log = logging.getLogger(__name__)


def save(engine: Any, state: TrainState, folder: Path, world: World, keep_last: int) -> Path:
    """Save the run after `state.step` steps. Collective; returns the checkpoint's folder on every rank.

    Args:
        engine: the DeepSpeed engine; it writes weights, optimizer and averages.
        state: written as state.json.
        folder: of the checkpoints.
        world: the ranks.
        keep_last: how many checkpoints stay; older ones are deleted.

    Raises:
        UserError: on every rank, where one cannot write (a full disk, a folder that is gone).
    """
    final = folder / f"step-{state.step:08d}"
    temporary = folder / f"{_TEMPORARY}{final.name}"
    if world.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
    world.barrier()
    failure = None
    try:
        engine.save_checkpoint(str(folder), tag=temporary.name, save_latest=False)
    except (OSError, RuntimeError) as error:  # torch's writer raises the second on a full disk
        failure = str(error)
    world.barrier()
    if world.is_main and not failure:
        failure = _finish(temporary, final, state, keep_last)
    if world.any(failure is not None):
        if world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        reason = failure or "another rank tells why"
        raise UserError(f"checkpoint {final} cannot be written ({reason}); make room and run again")
    return final


def _finish(temporary: Path, final: Path, state: TrainState, keep_last: int) -> str | None:
    try:
        write_json(temporary / STATE, state.to_json())
        _publish(temporary, final)
        _retain(final.parent, keep_last)
    except OSError as error:
        return str(error)
    return None


def _publish(temporary: Path, final: Path) -> None:
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    for path in files:
        sync(path)
    listing = {
        str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in files
    }
    write_json(temporary / MANIFEST, {"files": listing})
    sync(temporary)
    if final.exists():  # a torn one of the same step: it was not loaded
        shutil.rmtree(final)
    temporary.rename(final)
    sync(final.parent)
    atomic_write(final.parent / LATEST, final.name + "\n")


def _retain(folder: Path, keep_last: int) -> None:
    for old in list_checkpoints(folder)[:-keep_last]:
        doomed = old.with_name(f"{_TEMPORARY}{old.name}")  # half-deleted, it must not look like a checkpoint
        shutil.rmtree(doomed, ignore_errors=True)
        old.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete what interrupted saves left. Only rank 0, before anything is saved."""
    for stray in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(stray, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders, oldest first, valid or not."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def what_is_torn(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be used: a missing manifest, or a file that is missing, short or altered."""
    try:
        listing = read_json(checkpoint / MANIFEST)["files"]
        for name, entry in listing.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, not {entry['bytes']}"
            if sha256_file(path) != entry["sha256"]:
                return f"{name} is damaged"
    except (UserError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST}: {error}"
    return None


def newest_valid(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and a line for each newer one that was passed over.

    Raises:
        UserError: where there are checkpoints but none is whole: starting anew would hide a lost run.
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
        _refuse_differences(config_differences(old, config), run.root)
        return


def _refuse_differences(lines: list[str], run: Path) -> None:
    refused = [line for line in lines if not may_change(line.partition(":")[0])]
    if refused:
        raise UsageError(
            f"{run} was begun with another config ({'; '.join(refused)}); use its config to continue it, or "
            "another run folder to start anew"
        )


def check_continues(old: TrainState, new: TrainState, run: Path) -> list[str]:
    """Check that a run may go on from `old` with the config, ranks and data of `new`.

    Returns:
        Remarks on what changed and may.

    Raises:
        UsageError: naming every difference that would alter the run's numbers.
    """
    lines = config_differences(old.config, new.config)
    _refuse_differences(lines, run)
    if old.world_size != new.world_size:
        raise UsageError(
            f"{run} was saved by {old.world_size} ranks and {new.world_size} are running; start "
            f"{old.world_size} to continue it, or use another run folder"
        )
    if old.data_fingerprint != new.data_fingerprint:
        raise UsageError(
            f"{run} was begun with other shards than {', '.join(new.config['data']['shards'])} hold; use the "
            "same shards, or another run folder"
        )
    versions = config_differences(old.libraries, library_versions())
    return [f"changed since the checkpoint: {line}" for line in lines + versions]


def begin_or_continue(engine: Any, fresh: TrainState, run: RunFolder, world: World) -> TrainState:
    """Go on from the newest whole checkpoint of the run folder, or begin. Collective.

    Args:
        engine: gets the checkpoint's weights, optimizer and averages.
        fresh: the state of a run that begins now; its config, ranks and data must fit the checkpoint's.
        run: the run folder.
        world: the ranks.

    Raises:
        UserError: on every rank, where the folder cannot be continued.
    """
    checkpoint, state = world.from_main(_choose(fresh, run) if world.is_main else None)
    if checkpoint is not None:
        load(engine, checkpoint)
    return state


def _choose(fresh: TrainState, run: RunFolder) -> "tuple[Path | None, TrainState] | UserError":
    try:
        sweep(run.checkpoints)
        checkpoint, remarks = newest_valid(run.checkpoints)
        if checkpoint is None:
            return None, fresh
        old = read_state(checkpoint)
        remarks += check_continues(old, fresh, run.root)
        for remark in remarks:
            log.warning(remark)
        return checkpoint, replace(old, config=fresh.config, libraries=fresh.libraries)
    except UserError as error:
        return error


def load(engine: Any, checkpoint: Path) -> None:
    """Load weights, optimizer and averages. Collective.

    Raises:
        UserError: where DeepSpeed cannot load it.
    """
    path, _ = engine.load_checkpoint(
        str(checkpoint.parent), tag=checkpoint.name, load_lr_scheduler_states=False
    )
    if path is None:
        raise UserError(f"DeepSpeed cannot load {checkpoint}")
