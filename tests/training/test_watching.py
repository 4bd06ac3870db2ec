"""What a run tells of itself: the curves, validation, events, and W&B's own files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from intarsia.config import load_config
from intarsia.weights import read_model
from tests.processes import starts_processes
from tests.training.launch import launch, of_kind, wandb_parts
from tests.training.synthetic import make_shards, write_config
from training.config import TrainConfig
from training.data.batches import open_dataset
from training.objective.edit import EditTrainee
from training.ranks.distributed import World
from training.tracking.tracker import read_metrics
from training.tracking.validation import Validation
from training.tracking.wandb_run import WandbRun

STEPS = 6
WATCHED = [
    f"max_steps={STEPS}",
    "log_every=2",
    "validation={every_steps: 3, num_samples: 7}",
    "checkpoint.every_steps=3",
    "tracker={wandb: offline, group: herd, tags: [small, brown], project: meadow, name: cow}",
]


@dataclass(frozen=True)
class Watched:
    """Run folders: `whole`, `cut` (stopped in its third step and continued), `pair` (2 ranks, ZeRO-3)."""

    root: Path

    def metrics(self, name: str) -> list[dict[str, Any]]:
        return read_metrics(self.root / name / "metrics.jsonl")

    def events(self, name: str) -> list[dict[str, Any]]:
        return read_metrics(self.root / name / "events.jsonl")

    def parts(self, name: str) -> list[list[dict[str, Any]]]:
        return wandb_parts(self.root / name)


@pytest.fixture(scope="module")
@starts_processes
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    root = tmp_path_factory.mktemp("watched")
    shards, config = make_shards(root / "shards"), write_config(root)
    held_out = make_shards(root / "held-out", counts=(8,))

    def job(name: str, *overrides: str, stop_after: int | None = None) -> dict[str, Any]:
        common = [*WATCHED, f"data.shards={shards}", f"validation.shards={held_out}", f"run={root / name}"]
        return {"config": str(config), "overrides": [*common, *overrides], "stop_after": stop_after}

    launch(root, "alone", [job("whole"), job("cut", stop_after=3), job("cut")])
    pair = ["micro_batch_size=2", "zero_stage=3", "tracker.wandb=off"]
    launch(root, "two", [job("pair", *pair)], ranks=2)
    return Watched(root)


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.startswith(("perf/", "memory/"))}


def test_a_stop_between_two_lines_changes_no_number(watched: Watched) -> None:
    whole, cut = watched.metrics("whole"), watched.metrics("cut")
    assert [record["step"] for record in whole] == [2, 4, 6]
    assert [numbers(record) for record in cut] == [numbers(record) for record in whole]


def test_validation_comes_with_the_next_line_and_does_not_depend_on_ranks(watched: Watched) -> None:
    whole, pair = watched.metrics("whole"), watched.metrics("pair")
    assert [record["step"] for record in whole if "val/loss" in record] == [4, 6]
    for alone, together in zip(whole, pair, strict=True):
        assert numbers(alone).keys() == numbers(together).keys()
        for key in (key for key in alone if key.startswith(("val/", "val_ema/", "train/loss"))):
            assert together[key] == pytest.approx(alone[key], rel=1e-4), key


def test_the_averaged_weights_are_validated_too(watched: Watched) -> None:
    """Under stage 3 and on two ranks as well (above); the last ones are those of the finished model."""
    last = watched.metrics("whole")[-1]
    assert last["val_ema/loss"] != last["val/loss"]
    config = load_config(TrainConfig, watched.root / "whole" / "config.yaml")
    model = read_model(watched.root / "whole" / "model")
    validation = Validation(config, open_dataset(config), World(0, 1, torch.device("cpu")))
    for key, value in validation.measure(EditTrainee(model), model, "val_ema").items():
        assert value == pytest.approx(last[key], rel=1e-4), key


def test_quarters_and_whereabouts_are_told(watched: Watched) -> None:
    last = watched.metrics("whole")[-1]
    quarters = [last[f"train/loss_q{number}"] for number in (1, 2, 3, 4) if f"train/loss_q{number}" in last]
    assert min(quarters) <= last["train/loss"] <= max(quarters)
    assert last["data/samples"] == 24
    assert last["data/epoch"] == 24 / 16
    assert last["data/shard"] in (0, 1, 2)
    assert last["train/ema_decay"] == pytest.approx(6 / 15)


def test_events_tell_beginnings_saves_and_ends(watched: Watched) -> None:
    assert [(record["event"], record["step"]) for record in watched.events("cut")] == [
        ("started", 0),
        ("saved", 3),
        ("stopped", 3),
        ("continued", 3),
        ("saved", 6),
        ("finished", 6),
    ]
    continued = watched.events("cut")[3]
    assert continued["text"] == "restart 1: goes on after step 3"
    assert continued["ranks"] == 1
    assert continued["code"]


def test_wandb_gets_one_run_with_its_name_group_tags_config_and_code(watched: Watched) -> None:
    first, second = watched.parts("cut")
    [run], [again] = of_kind(first, "run"), of_kind(second, "run")
    assert run["run_id"] == again["run_id"]
    assert (run["display_name"], run["run_group"], run["project"]) == ("cow", "herd", "meadow")
    assert run["tags"] == ["small", "brown"]
    config = run["config"]["update"]
    assert config["optimizer"]["ema_decay"] == 0.9
    assert config["code"] == watched.events("cut")[0]["code"]
    assert config["libraries"]["torch"]


def test_wandb_gets_every_number_of_the_metrics_file(watched: Watched) -> None:
    seen: dict[int, dict[str, Any]] = {}
    for part in watched.parts("cut"):
        for history in of_kind(part, "history"):
            seen[history["item"]["_step"]] = history["item"]
    for record in watched.metrics("cut"):
        item = seen[record["step"]]
        assert {key: item[key] for key in record if key != "step"} == pytest.approx(
            {key: value for key, value in record.items() if key != "step"}
        )


def test_wandb_gets_shards_checkpoints_and_the_model_as_artifacts(watched: Watched) -> None:
    parts = watched.parts("cut")
    artifacts = [artifact for part in parts for artifact in of_kind(part, "artifact")]
    found = [(one["type"], one["name"], sorted(one.get("aliases", []))) for one in artifacts]
    shards = found[0][1]
    assert shards.startswith("shards-")
    assert found == [
        ("dataset", shards, found[0][2]),
        ("checkpoint", "cut-checkpoint", ["latest", "step-00000003"]),
        ("dataset", shards, found[0][2]),
        ("checkpoint", "cut-checkpoint", ["latest", "step-00000006"]),
        ("model", "cut-model", ["latest", "step-6"]),
    ]
    assert artifacts[0]["digest"] == artifacts[2]["digest"]
    assert "step-00000006/state.json" in json.dumps(artifacts[3]["manifest"])


def test_a_stop_and_a_restart_are_alerts(watched: Watched) -> None:
    first, second = watched.parts("cut")
    [stopped], [continued] = of_kind(first, "alert"), of_kind(second, "alert")
    assert stopped["title"] == "cut: run stopped"
    assert continued["title"] == "cut: run continued"
    assert "goes on after step 3" in continued["text"]
    assert [*of_kind(watched.parts("whole")[0], "alert")] == []


@pytest.mark.processes
def test_a_run_of_a_sweep_names_artifacts_as_wandb_allows(tmp_path: Path) -> None:
    class Run:
        def log_artifact(self, artifact: Any, aliases: list[str]) -> None:
            self.name = artifact.name

    run = Run()
    WandbRun(run, tmp_path / "metrics.jsonl").artifact("lr=1e-5,seed=1-model", "model", tmp_path, ["step-1"])
    assert run.name == "lr-1e-5-seed-1-model"
