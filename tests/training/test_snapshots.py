"""Snapshots of averages: there when they are due, and what `python -m training ema` makes of them."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from intarsia.config import dump_config, load_config
from intarsia.errors import UserError
from intarsia.lora import ADAPTERS
from intarsia.weights import read_model
from tests.training.launch import Runs, numbers
from tests.training.synthetic import write_config
from tests.training.test_checkpoint import PlainEngine
from training.__main__ import main
from training.checkpoint import snapshots
from training.checkpoint.saver import Saver
from training.checkpoint.snapshots import begin_snapshots, list_snapshots
from training.config import TrainConfig
from training.objective.edit import EditTrainee
from training.optimizer import fragments
from training.optimizer.ema import EmaAdamW
from training.optimizer.power_ema import Profile
from training.ranks.distributed import World
from training.run.state import RunFolder, TrainState, library_versions

WORLD = World(rank=0, size=1, device=torch.device("cpu"))


class AveragingEngine(PlainEngine):
    """Its averages tell the step."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.optimizer = EmaAdamW(self.module.parameters(), ema_widths=(0.05, 0.1), fused=True)
        fragments.begin(self)


def config_of(**options: Any) -> TrainConfig:
    optimizer = {"ema_kind": "post_hoc", **options}
    return TrainConfig(max_steps=7, checkpoint={"every_steps": 1, "keep_last": 1}, optimizer=optimizer)


def save(run: RunFolder, config: TrainConfig, *steps: int, begin_at: int = 0) -> None:
    """Checkpoints of these steps, as the loop saves them in a process that begins at a step."""

    def state_at(step: int) -> TrainState:
        content = config.model_dump(mode="json")
        return TrainState(step=step, skipped=step // 5, config=content, libraries=library_versions())

    run.make()
    then = begin_snapshots(config, run, state_at(begin_at), WORLD)
    saver = Saver(run.checkpoints, config.checkpoint, WORLD, then)
    for step in steps:
        saver.start(AveragingEngine(step), state_at(step))
    saver.finish()


def steps_of(run: RunFolder) -> list[int]:
    return [snapshot.state.step for snapshot in list_snapshots(run)]


def test_they_stay_where_checkpoints_go_and_the_last_step_has_one(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    save(run, config_of(ema_snapshot_every=3), *range(1, 8))
    assert steps_of(run) == [3, 6, 7]
    assert [path.name for path in run.checkpoints.glob("step-*")] == ["step-00000007"]
    [_, (_, second), *_] = [snapshot.averages for snapshot in list_snapshots(run)]
    assert second == ("ema2", Profile(updates=5, sigma_rel=0.1))  # one of the six steps was skipped
    with safe_open(run.averages / "step-00000006.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"ema/weight", "ema/bias", "ema2/weight", "ema2/bias"}
        assert torch.equal(file.get_tensor("ema2/weight"), torch.full((210,), 6.0, dtype=torch.float16))


def test_only_the_last_ones_stay_where_that_is_wanted(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    save(run, config_of(ema_keep_last=2), *range(1, 6))
    assert steps_of(run) == [4, 5]


def test_those_of_a_run_that_begins_anew_go_and_one_that_is_owed_is_taken(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    save(run, config_of(), 1, 2, 3)
    (run.averages / "step-00000003.safetensors").unlink()  # killed between checkpoint and snapshot
    save(run, config_of(), begin_at=3)
    assert steps_of(run) == [1, 2, 3]
    save(run, config_of(), begin_at=1)
    assert steps_of(run) == [1]


def test_a_run_with_a_standard_average_takes_none(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    save(run, config_of(ema_kind="standard"), 1)
    assert not run.averages.exists()


def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(snapshots, "save_file", fail)
    with pytest.raises(UserError, match=r"step-00000001.safetensors cannot be written .*No space left.*room"):
        save(RunFolder(tmp_path), config_of(), 1)
    assert list((tmp_path / "averages").iterdir()) == []


def test_after_a_kill_the_snapshots_are_those_of_the_undisturbed_run(hard_runs: Runs) -> None:
    ours, theirs = (hard_runs.root / name / "averages" for name in ("killed", "undisturbed"))
    names = [f"step-{step:08d}.safetensors" for step in (1, 2, 3, 4)]
    assert [sorted(path.name for path in folder.iterdir()) for folder in (ours, theirs)] == [names, names]
    for name in names:
        with safe_open(ours / name, framework="pt") as a, safe_open(theirs / name, framework="pt") as b:
            assert all(torch.equal(a.get_tensor(key), b.get_tensor(key)) for key in b.keys())  # noqa: SIM118


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return {name: param.detach() for name, param in EditTrainee(read_model(folder)).named_parameters()}


@pytest.mark.parametrize("width", ["0.05", "0.1"])
def test_a_tracked_width_is_the_checkpoints_average(hard_runs: Runs, tmp_path: Path, width: str) -> None:
    run = hard_runs.root / "undisturbed"
    assert main(["ema", str(run), "--sigma-rel", width, "--out", str(tmp_path / "model")]) == 0
    made, kept = trained(tmp_path / "model"), numbers(run / "checkpoints" / "step-00000004")
    kind = {"0.05": "ema", "0.1": "ema2"}[width]
    for name, weight in made.items():
        average = kept.get(f"{kind}/{name}")
        exact = kept[f"weight/{name}"] if average is None else average.half().float()
        assert torch.equal(weight.flatten(), exact), name
    assert f"σ_rel {width}, post hoc" in (tmp_path / "model" / "README.md").read_text()


def test_of_adapters_the_adapters_are_written(hard_runs: Runs, tmp_path: Path) -> None:
    run = hard_runs.root / "adapters"
    assert main(["ema", str(run), "--sigma-rel", "0.05", "--out", str(tmp_path / "lora")]) == 0
    made, kept = (load_file(folder / ADAPTERS) for folder in (tmp_path / "lora", run / "lora"))
    assert made.keys() == kept.keys()
    assert all(torch.equal(made[name], kept[name].half().float()) for name in kept)


def test_widths_are_compared_by_the_validation_loss(
    hard_runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights of 4 steps hardly differ; the run's own model, which has the narrow one, is the measure."""
    run = str(hard_runs.root / "undisturbed")
    assert main(["ema", run, "--sigma-rel", "0.05", "0.07", "0.02", "--validate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["sigma_rel 0.05", "sigma_rel 0.07", "sigma_rel 0.02"]
    losses = [float(line.rpartition("validation loss ")[2]) for line in lines]
    assert losses == pytest.approx([losses[0]] * 3, rel=0.1)
    assert "profile 0.00% off" in lines[0]
    assert "this is another width" in lines[2]


def one(run: RunFolder) -> None:
    save(run, config_of(), 1)


@pytest.mark.parametrize(
    ("prepare", "options", "code", "words"),
    [
        (one, ["--sigma-rel", "0.4"], 2, "--sigma-rel=0.4 must be between 0.01 and 0.28"),
        (one, ["--sigma-rel", "0.1", "0.2"], 2, "--out takes one --sigma-rel"),
        (
            RunFolder.make,
            ["--sigma-rel", "0.1"],
            1,
            "averages has no snapshots; a run with optimizer.ema_kind=post_hoc makes them",
        ),
        (lambda run: None, ["--sigma-rel", "0.1"], 1, "run does not exist"),
        (
            one,
            ["--sigma-rel", "0.08"],
            1,
            "only snapshot up to its step and gives the widths 0.05, 0.1",
        ),
        (one, ["--sigma-rel", "0.1", "--step", "4"], 1, "--step=4: there are snapshots of the steps 1"),
        (
            lambda run: (one(run), (run.averages / "step-00000001.safetensors").write_bytes(b"torn")),
            ["--sigma-rel", "0.1"],
            1,
            "step-00000001.safetensors cannot be read",
        ),
    ],
)
def test_what_cannot_be_made_is_told_in_a_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[RunFolder], Any],
    options: list[str],
    code: int,
    words: str,
) -> None:
    prepare(RunFolder(tmp_path / "run"))
    assert main(["ema", str(tmp_path / "run"), *options, "--out", str(tmp_path / "model")]) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_what_was_moved_is_looked_for_where_the_runs_last_call_had_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path)
    one(run)
    run.keep_config(
        dump_config(load_config(TrainConfig, write_config(tmp_path), ["model.init.vae=/nowhere/vae"]))
    )
    assert main(["ema", str(tmp_path), "--sigma-rel", "0.1", "--out", str(tmp_path / "out")]) == 1
    assert "/nowhere/vae" in capsys.readouterr().err


def test_a_folder_of_something_else_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one(RunFolder(tmp_path))
    assert main(["ema", str(tmp_path), "--sigma-rel", "0.1", "--out", str(tmp_path)]) == 2
    assert "but no model_index.json and is not replaced" in capsys.readouterr().err
    assert main(["ema", str(tmp_path), "--sigma-rel", "0.1", "--out", str(tmp_path / "model")]) == 2
    assert "model is a result of the run itself; choose another folder" in capsys.readouterr().err
    assert main(["ema", "run", "--sigma-rel", "0.1"]) == 2
    assert "nothing to do: add --out DIR" in capsys.readouterr().err


def test_the_folder_of_a_noised_encoder_replaces_only_one_of_its_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    one(run)
    run.keep_config(dump_config(load_config(TrainConfig, write_config(tmp_path), ["task=noised-clip"])))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").touch()
    command = ["ema", str(run.root), "--sigma-rel", "0.05", "--out"]
    assert main([*command, str(tmp_path / "model")]) == 2
    assert "contains model_index.json but no noised.json and is not replaced" in capsys.readouterr().err
    assert main([*command, str(run.root / "noised")]) == 2
    assert "noised is a result of the run itself; choose another folder" in capsys.readouterr().err
