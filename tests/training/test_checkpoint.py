"""Checkpoints: whole or passed over, few or many kept, and continued only by the run that they belong to."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from intarsia.errors import UsageError, UserError
from training import checkpoint
from training.distributed import World
from training.state import RunFolder, TrainState, library_versions

WORLD = World(rank=0, size=1, device=torch.device("cpu"))
FOLDER = "checkpoints"


class FakeEngine:
    """Writes and reads as DeepSpeed's engine does, one small file."""

    loaded: str | None = None

    def save_checkpoint(self, folder: str, tag: str, save_latest: bool) -> None:
        assert not save_latest
        (Path(folder) / tag).mkdir(parents=True)
        (Path(folder) / tag / "weights.pt").write_bytes(b"w" * 1000)

    def load_checkpoint(self, folder: str, tag: str, **options: Any) -> tuple[str, dict]:
        self.loaded = tag
        return folder, {}


def state_at(step: int, **changes: Any) -> TrainState:
    state = TrainState(step=step, position=4 * step, libraries=library_versions())
    return replace(state, **{"config": {"seed": 0, "max_steps": 9, "data": {"shards": ["s"]}}, **changes})


def save(run: Path, *steps: int, keep_last: int = 9) -> None:
    for step in steps:
        checkpoint.save(FakeEngine(), state_at(step), run / FOLDER, WORLD, keep_last)


def go_on(run: Path, fresh: TrainState) -> tuple[TrainState, str | None]:
    engine = FakeEngine()
    return checkpoint.begin_or_continue(engine, fresh, RunFolder(run), WORLD), engine.loaded


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / FOLDER).iterdir())


def test_a_run_without_checkpoints_begins(tmp_path: Path) -> None:
    state, loaded = go_on(tmp_path, state_at(0))
    assert (state.step, loaded) == (0, None)


def test_a_run_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 2, 4)
    state, loaded = go_on(tmp_path, state_at(0))
    assert (state.step, state.position, loaded) == (4, 16, "step-00000004")
    assert (tmp_path / FOLDER / "latest").read_text() == "step-00000004\n"


@pytest.mark.parametrize("damage", ["short", "altered", "missing", "no manifest", "empty manifest"])
def test_a_torn_checkpoint_is_passed_over_with_a_word(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 2, 4)
    newest = tmp_path / FOLDER / "step-00000004"
    weights, manifest = newest / "weights.pt", newest / "manifest.json"
    {
        "short": lambda: weights.write_bytes(b"w" * 999),
        "altered": lambda: weights.write_bytes(b"w" * 999 + b"x"),
        "missing": weights.unlink,
        "no manifest": manifest.unlink,
        "empty manifest": lambda: manifest.write_text(""),
    }[damage]()
    checkpoint.log.propagate = True
    checkpoint.log.parent.propagate = True  # type: ignore[union-attr]
    state, loaded = go_on(tmp_path, state_at(0))
    assert (state.step, loaded) == (2, "step-00000002")
    assert "skipped the torn checkpoint" in caplog.text
    save(tmp_path, 4)  # the step is done again, and its checkpoint replaces the torn one
    assert go_on(tmp_path, state_at(0))[0].step == 4


def test_nothing_but_torn_checkpoints_is_an_error_and_no_new_start(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / FOLDER / "step-00000002" / "weights.pt").unlink()
    with pytest.raises(
        UserError, match=r"no whole checkpoint .*weights\.pt is missing.*delete it to start anew"
    ):
        go_on(tmp_path, state_at(0))


def test_what_a_killed_save_left_is_swept_and_never_loaded(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / FOLDER / ".tmp-step-00000004").mkdir()
    (tmp_path / FOLDER / ".tmp-step-00000004" / "weights.pt").write_bytes(b"w")
    assert go_on(tmp_path, state_at(0))[0].step == 2
    assert names(tmp_path) == ["latest", "step-00000002"]


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, keep_last=2)
    assert names(tmp_path) == ["latest", "step-00000003", "step-00000004"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"config": {"seed": 1, "max_steps": 9, "data": {"shards": ["s"]}}},
            r"another config \(seed: 0 -> 1\)",
        ),
        ({"world_size": 4}, "saved by 1 ranks and 4 are running; start 1"),
        ({"data_fingerprint": "x"}, "other shards than s hold"),
    ],
)
def test_a_run_is_not_continued_as_another_one(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    save(tmp_path, 2)
    with pytest.raises(UsageError, match=words):
        go_on(tmp_path, state_at(0, **changes))


def test_a_run_may_be_made_longer_and_its_shards_moved(tmp_path: Path) -> None:
    save(tmp_path, 2)
    config = {"seed": 0, "max_steps": 20, "data": {"shards": ["elsewhere"]}}
    state, _ = go_on(tmp_path, state_at(0, config=config))
    assert (state.step, state.config) == (2, config)


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"state version 99, this program reads 1"):
        TrainState.from_json(state_at(1).to_json() | {"version": 99}, tmp_path)


def test_a_disk_full_for_deepspeed_is_told_too_and_leaves_nothing(tmp_path: Path) -> None:
    class FullDisk(FakeEngine):
        def save_checkpoint(self, folder: str, tag: str, save_latest: bool) -> None:
            super().save_checkpoint(folder, tag, save_latest)
            raise RuntimeError("PytorchStreamWriter failed writing file data/0")

    with pytest.raises(UserError, match=r"step-00000002 cannot be written \(PytorchStreamWriter.*make room"):
        checkpoint.save(FullDisk(), state_at(2), tmp_path / FOLDER, WORLD, 9)
    assert names(tmp_path) == []


def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "sha256_file", fail)
    with pytest.raises(UserError, match=r"cannot be written .*No space left on device.*make room"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert go_on(tmp_path, state_at(0))[0].step == 0
