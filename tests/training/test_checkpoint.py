"""Checkpoints: whole or passed over, few or many kept, and continued only by the run that they belong to."""

import errno
import itertools
import os
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from intarsia.errors import UsageError, UserError
from training.checkpoint import folder as checkpoint
from training.checkpoint import rank_files as parts
from training.checkpoint import resume
from training.checkpoint.saver import Saver
from training.config import TrainConfig
from training.optimizer import fragments
from training.optimizer.ema import EmaAdamW
from training.option_groups import CheckpointConfig, DataConfig
from training.ranks.distributed import World
from training.run.state import RunFolder, TrainState, library_versions

WORLD = World(rank=0, size=1, device=torch.device("cpu"))
TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")  # Python's names of audit events
FOLDER, PART = "checkpoints", "part-00000-of-00001.safetensors"


class PlainEngine:
    """DeepSpeed's engine at stage 0, as far as saving goes; its weights tell the step."""

    device = torch.device("cpu")

    def __init__(self, step: int = 0) -> None:
        self.module = nn.Linear(30, 7)
        nn.init.constant_(self.module.weight, step)
        self.optimizer = EmaAdamW(self.module.parameters(), ema_decay=0.9, fused=True)
        fragments.begin(self)

    def zero_optimization_stage(self) -> int:
        return 0


def config_of(seed: int = 0, max_steps: int = 9, shards: str = "s") -> dict[str, Any]:
    config = TrainConfig(seed=seed, max_steps=max_steps, data=DataConfig(shards=(shards,)))
    return config.model_dump(mode="json")


def state_at(step: int, **changes: Any) -> TrainState:
    state = TrainState(step=step, position=4 * step, libraries=library_versions())
    return replace(state, **{"config": config_of(), **changes})


def save(run: Path, *steps: int, **options: Any) -> None:
    saver = Saver(run / FOLDER, CheckpointConfig(**{"keep_last": 9, **options}), WORLD)
    for step in steps:
        saver.start(PlainEngine(step), state_at(step))
    saver.finish()


def go_on(run: Path, fresh: TrainState) -> tuple[TrainState, int]:
    """The state, and the step that the loaded weights tell."""
    engine = PlainEngine()
    state = resume.begin_or_continue(engine, fresh, RunFolder(run), WORLD)
    (told,) = {float(weight) for weight in engine.module.weight.flatten()}
    updates = {int(state["step"]) for state in engine.optimizer.state.values()}
    assert updates == {state.updates}
    return state, int(told)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / FOLDER).iterdir())


def test_a_run_without_checkpoints_begins(tmp_path: Path) -> None:
    state, loaded = go_on(tmp_path, state_at(0))
    assert (state.step, loaded) == (0, 0)


def test_a_run_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 2, 4)
    state, loaded = go_on(tmp_path, state_at(0))
    assert (state.step, state.position, loaded) == (4, 16, 4)
    assert (tmp_path / FOLDER / "latest").read_text() == "step-00000004\n"


@pytest.mark.parametrize("damage", ["short", "altered", "missing", "no manifest", "empty manifest"])
def test_a_torn_checkpoint_is_passed_over_with_a_word(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 2, 4)
    newest = tmp_path / FOLDER / "step-00000004"
    weights, manifest = newest / PART, newest / "manifest.json"
    {
        "short": lambda: weights.write_bytes(weights.read_bytes()[:-1]),
        "altered": lambda: weights.write_bytes(weights.read_bytes()[:-1] + b"x"),
        "missing": weights.unlink,
        "no manifest": manifest.unlink,
        "empty manifest": lambda: manifest.write_text(""),
    }[damage]()
    resume.log.propagate = True
    resume.log.parent.propagate = True  # type: ignore[union-attr]
    state, loaded = go_on(tmp_path, state_at(0))
    assert (state.step, loaded) == (2, 2)
    assert "skipped the torn checkpoint" in caplog.text
    save(tmp_path, 4)  # the step is done again, and its checkpoint replaces the torn one
    assert go_on(tmp_path, state_at(0))[0].step == 4


def test_nothing_but_torn_checkpoints_is_an_error_and_no_new_start(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / FOLDER / "step-00000002" / PART).unlink()
    with pytest.raises(
        UserError,
        match=r"no whole checkpoint .*part-00000-of-00001\.safetensors is missing.*delete it to start anew",
    ):
        go_on(tmp_path, state_at(0))


def test_what_a_killed_save_left_is_swept_and_never_loaded(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / FOLDER / ".tmp-step-00000004").mkdir()
    (tmp_path / FOLDER / ".tmp-step-00000004" / PART).write_bytes(b"w")
    assert go_on(tmp_path, state_at(0))[0].step == 2
    assert names(tmp_path) == ["latest", "step-00000002"]


def dies_in_save(run: Path, touches: int) -> bool:
    """Save step 4 in a process that is gone, as by SIGKILL, when it touches the file system once more."""
    child = os.fork()
    if child == 0:
        left = touches

        def count(event: str, arguments: Any) -> None:
            nonlocal left
            left -= event in TOUCHES
            if left < 0:
                os._exit(9)

        try:
            sys.addaudithook(count)
            save(run, 4, keep_last=1)
        finally:
            os._exit(0)
    return bool(os.waitpid(child, 0)[1])


def test_death_at_any_touch_of_the_file_system_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "before", 2)
    steps = []
    for touches in itertools.count():
        run = tmp_path / str(touches)
        shutil.copytree(tmp_path / "before", run)
        if not dies_in_save(run, touches):
            break
        latest = run / FOLDER / (run / FOLDER / "latest").read_text().strip()
        assert checkpoint.what_is_torn(latest) is None
        state, told = go_on(run, state_at(0))
        assert state.step == told
        assert state.step >= checkpoint.step_of(latest)
        steps.append(told)
        save(run, 4, keep_last=1)
        assert names(run) == ["latest", "step-00000004"]
    assert steps == sorted(steps)
    assert steps.count(2) > 10
    assert steps.count(4) > 5


@pytest.mark.parametrize("asynchronous", [False, True])
def test_only_the_last_ones_are_kept(tmp_path: Path, asynchronous: bool) -> None:
    save(tmp_path, 1, 2, 3, 4, keep_last=2, asynchronous=asynchronous)
    assert names(tmp_path) == ["latest", "step-00000003", "step-00000004"]


def test_and_those_at_multiples_of_keep_every(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, 5, 6, 7, keep_last=1, keep_every=3)
    assert names(tmp_path) == ["latest", "step-00000003", "step-00000006", "step-00000007"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"config": config_of(seed=1)},
            r"another config \(seed: 0 -> 1\)",
        ),
        (
            {"global_batch_size": 8},
            "begun with 1 samples per step, and these ranks and batch options make 8; set "
            "global_batch_size=1 and leave grad_accum_steps out",
        ),
        ({"data_fingerprint": "x"}, "other shards than s hold"),
    ],
)
def test_a_run_is_not_continued_as_another_one(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    save(tmp_path, 2)
    with pytest.raises(UsageError, match=words):
        go_on(tmp_path, state_at(0, **changes))


def test_a_run_may_be_made_longer_and_its_shards_moved(tmp_path: Path) -> None:
    save(tmp_path, 2)
    config = config_of(max_steps=20, shards="elsewhere")
    state, _ = go_on(tmp_path, state_at(0, config=config))
    assert (state.step, state.config) == (2, config)


def test_a_run_of_an_earlier_version_goes_on_with_later_options_at_their_defaults(tmp_path: Path) -> None:
    earlier = config_of()
    del earlier["lora"], earlier["optimizer"]["ema_kind"]
    saver = Saver(tmp_path / FOLDER, CheckpointConfig(), WORLD)
    saver.start(PlainEngine(2), state_at(2, config=earlier))
    saver.finish()
    assert go_on(tmp_path, state_at(0))[0].step == 2
    checkpoint.check_config(config_of(), RunFolder(tmp_path))
    other = config_of()
    other["optimizer"]["ema_kind"] = "post_hoc"
    with pytest.raises(UsageError, match=r"optimizer\.ema_kind: 'standard' -> 'post_hoc'"):
        checkpoint.check_config(other, RunFolder(tmp_path))


def test_other_ranks_and_another_stage_may_continue_it_and_are_remarked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 2)
    resume.log.propagate = True
    resume.log.parent.propagate = True  # type: ignore[union-attr]
    state, _ = go_on(tmp_path, state_at(0, world_size=4, zero_stage=3))
    assert (state.step, state.world_size, state.zero_stage) == (2, 4, 3)
    assert "ranks: 1 -> 4" in caplog.text


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 2)
    engine = PlainEngine()
    engine.module = nn.Linear(31, 7)
    engine.optimizer = EmaAdamW(engine.module.parameters(), ema_decay=0.9, fused=True)
    fragments.begin(engine)
    with pytest.raises(UserError, match=r"holds 210 of 217 elements of weight/weight from 0 on; it belongs"):
        resume.begin_or_continue(engine, state_at(0), RunFolder(tmp_path), WORLD)


def test_what_is_trained_after_the_start_of_a_save_is_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And `latest` moves only once the files are whole."""
    may_write, write = threading.Event(), parts.write_part
    monkeypatch.setattr(
        "training.checkpoint.saver.write_part", lambda *args: may_write.wait(10) and write(*args)
    )
    saver, engine, state = Saver(tmp_path / FOLDER, CheckpointConfig(), WORLD), PlainEngine(2), state_at(2)
    saver.start(engine, state)
    nn.init.constant_(engine.module.weight, 99)
    state.position = 99
    saver.poll()
    assert names(tmp_path) == [".tmp-step-00000002"]
    may_write.set()
    saver.finish()
    assert names(tmp_path) == ["latest", "step-00000002"]
    loaded, told = go_on(tmp_path, state_at(0))
    assert (loaded.position, told) == (8, 2)


def test_looks_alone_bring_a_save_to_its_end(tmp_path: Path) -> None:
    saver = Saver(tmp_path / FOLDER, CheckpointConfig(), WORLD)
    saver.start(PlainEngine(2), state_at(2))
    while saver._save is not None:
        saver.poll()
    assert names(tmp_path) == ["latest", "step-00000002"]


def test_parts_are_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save(tmp_path, 2)
    tensors = load_file(tmp_path / FOLDER / "step-00000002" / PART)
    kinds = ("weight", "exp_avg", "exp_avg_sq", "ema")
    assert tensors.keys() == {f"{kind}/{name}@0" for kind in kinds for name in ("weight", "bias")}
    assert torch.equal(tensors["weight/weight@0"], torch.full((210,), 2.0))


def test_a_part_that_the_manifest_does_not_list_is_not_read(tmp_path: Path) -> None:
    """Left there by a copy or another tool, it would be taken for elements of the same parameters."""
    save(tmp_path, 2)
    saved = tmp_path / FOLDER / "step-00000002"
    before = parts.Parts(saved).sizes()
    shutil.copy(saved / PART, saved / "part-00001-of-00002.safetensors")
    assert parts.Parts(saved).sizes() == before
    assert go_on(tmp_path, state_at(0))[1] == 2
    (saved / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"step-00000002 cannot be read \(.*manifest\.json does not exist"):
        parts.Parts(saved)


def test_pinned_buffers_are_powers_of_two_and_hardly_more_than_the_copy() -> None:
    """Eight ranks with master weights and moments of the real UNet copy 10.8 GB."""
    for elements in (1, 4_194_304, 4_194_305, 3 * 901_000_000 // 8, 3 * 901_000_000):
        sizes = parts.pinned_sizes(elements)
        assert all(size.bit_count() == 1 for size in sizes)
        assert elements <= sum(sizes) < elements + (1 << 22)
    assert 8 * 4 * sum(parts.pinned_sizes(3 * 901_000_000 // 8)) < 10.95e9


def test_a_copy_in_several_buffers_is_written_as_one_in_a_single_buffer(tmp_path: Path) -> None:
    numbers = torch.arange(100.0)
    pieces = [("weight/a@0", [numbers[:45]]), ("weight/b@7", [numbers[45:46]]), ("ema/a@0", [numbers[46:]])]
    whole, _ = parts.copy_to_cpu(pieces, [])
    cut, _ = parts.copy_to_cpu(pieces, [torch.empty(size) for size in (64, 32, 8)])
    assert [len(stretches) for _, stretches in cut] == [1, 1, 3]
    numbers.zero_()
    written = [parts.write_part(tmp_path / name, copy) for name, copy in (("one", whole), ("many", cut))]
    assert written[0].sha256 == written[1].sha256
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"state version 99, this program reads 2"):
        TrainState.from_json(state_at(1).to_json() | {"version": 99}, tmp_path)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_is_told_in_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("training.checkpoint.saver.write_part", fail)
    words = r"step-00000002 cannot be written \(rank 0: .*No space left on device\); make room and run again"
    with pytest.raises(UserError, match=words):
        save(tmp_path, 2, asynchronous=asynchronous)
    monkeypatch.undo()
    monkeypatch.setattr(checkpoint, "sha256_file", fail)  # while the manifest is made
    with pytest.raises(UserError, match=r"cannot be written .*No space left on device.*make room"):
        save(tmp_path, 2, asynchronous=asynchronous)
    monkeypatch.undo()
    assert names(tmp_path) == []
    assert go_on(tmp_path, state_at(0))[0].step == 0


def test_a_part_that_fills_the_disk_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on for a while before it looks, and writes its metrics on the same disk."""

    def fill(path: Path, *_: Any) -> None:
        path.write_bytes(b"much")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("training.checkpoint.saver.write_part", fill)
    saver = Saver(tmp_path / FOLDER, CheckpointConfig(), WORLD)
    saver.start(PlainEngine(2), state_at(2))
    while saver._save is not None and saver._save.at_work():
        pass
    assert list((tmp_path / FOLDER / ".tmp-step-00000002").iterdir()) == []
    with pytest.raises(UserError, match="No space left"):
        saver.finish()


def test_a_part_that_the_disk_cannot_read_makes_way_for_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 2, 4)
    hashed = checkpoint.sha256_file

    def fail(path: Path) -> str:
        if path.parent.name == "step-00000004":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return hashed(path)

    monkeypatch.setattr(checkpoint, "sha256_file", fail)
    resume.log.propagate = True
    resume.log.parent.propagate = True  # type: ignore[union-attr]
    assert go_on(tmp_path, state_at(0))[1] == 2
    assert "skipped the torn checkpoint" in caplog.text
    assert "cannot be read (Input/output error)" in caplog.text
