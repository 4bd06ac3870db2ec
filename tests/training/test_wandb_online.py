"""Online runs: what W&B's own client sends to a server on the loopback, and reads from it when it resumes.

Artifacts stay with recorded calls: the exchange about them needs more of a server than is built here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.sampling.tiny import request, tiny_model
from tests.wandb_server import WandbServer, wandb_server
from training.config import TrainConfig
from training.option_groups import PreviewConfig
from training.run.result import RUN_RESULTS, Result
from training.run.state import RunFolder, TrainState
from training.tracking import wandb_run
from training.tracking.previews import PreviewRequest, preview_table, write_preview
from training.tracking.tracker import RunTracker, read_metrics
from training.tracking.wandb_run import WandbRun, start_wandb


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    import wandb

    wandb.teardown()  # an earlier test's process knows another address
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb_run, "_note_shards", lambda *_, **__: None)
    with wandb_server() as (server, address):
        settings = {"API_KEY": "0" * 40, "BASE_URL": address, "INIT_TIMEOUT": "60"}
        for name, value in {**settings, "DATA_DIR": str(tmp_path), "CACHE_DIR": str(tmp_path)}.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        yield server
    wandb.teardown()


def start(folder: Path, state: TrainState) -> Any:
    tracker = {"wandb": "online", "project": "meadow", "name": "cow", "group": "herd", "tags": ["brown"]}
    config = TrainConfig(tracker=tracker, seed=7)
    state.config = config.model_dump(mode="json")
    return start_wandb(config, RunFolder(folder), state, {"code": "abc"})


@pytest.mark.processes
def test_an_interrupted_run_is_one_run_online_with_every_number(server: WandbServer, tmp_path: Path) -> None:
    root, state = tmp_path / "cow", TrainState()
    root.mkdir()
    run = start(root, state)
    tracker = RunTracker(RunFolder(root), 0, run)
    for step in (1, 2, 3):
        tracker.log(step, {"train/loss": 1 / step})
    tracker.close(3, finished=False)
    [name] = server.runs
    stored = server.runs[name]
    assert not run.offline and name == state.wandb_id == (root / "wandb/id").read_text().strip()
    given = stored.given
    assert (given["project"], given["displayName"], given["groupName"]) == ("meadow", "cow", "herd")
    assert (given["tags"], given["jobType"]) == (["brown"], "train")
    config = {key: value["value"] for key, value in json.loads(stored.config).items() if key != "_wandb"}
    assert (config["seed"], config["code"]) == (7, "abc")
    assert stored.preempting and stored.column("train/loss") == [1, 1 / 2, 1 / 3]
    assert server.alerts == [
        ("cow: run stopped", "step 3: by a signal, after a save; the same command goes on")
    ]

    again = RunTracker(RunFolder(root), 3, start(root, TrainState()))  # the id is read from the run folder
    for step in (4, 5):
        again.log(step, {"train/loss": 1 / step})
    again.close(5, finished=True)
    assert list(server.runs) == [name] and server.asked.count("RunResumeStatus") == 2
    assert stored.column("train/loss") == [1 / step for step in range(1, 6)]
    assert stored.column("_step") == [record["step"] for record in read_metrics(root / "metrics.jsonl")]
    assert stored.exits[-1] == 0 and len(stored.history) == 5
    assert json.loads(stored.summary)["train/loss"] == {"last": 1 / 5, "min": 1 / 5}


class Recorder:
    """A W&B run that notes what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *words, **options: self.calls.append((name, words, options))


@pytest.mark.processes
@pytest.mark.parametrize("result", RUN_RESULTS.values(), ids=RUN_RESULTS)
def test_what_a_run_leaves_is_an_artifact_whatever_its_kind(tmp_path: Path, result: Result) -> None:
    recorder = Recorder()
    tracker = RunTracker(RunFolder(tmp_path), 0, recorder)
    (tmp_path / result.folder).mkdir()
    (tmp_path / result.folder / result.marker).write_bytes(b"12345")
    tracker.close(5, finished=True)
    [artifact] = [given[0] for name, given, _ in recorder.calls if name == "log_artifact"]
    assert (artifact.type, list(artifact.manifest.entries)) == ("model", [result.marker])


@pytest.mark.processes
def test_artifacts_and_alerts_as_they_are_handed_over(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_bytes(b"12345")
    recorder = Recorder()
    ours = WandbRun(recorder, tmp_path / "metrics.jsonl")
    ours.artifact("lr=1e-5,seed=1-model", "model", tmp_path / "model", ["step-5"])
    ours.alert("cow: stopped", "step 3")
    ours.will_continue()
    ours.close(exit_code=1)
    (logged, [artifact], options), *others = recorder.calls
    assert (logged, options, artifact.type) == ("log_artifact", {"aliases": ["step-5"]}, "model")
    assert (artifact.name, artifact.metadata) == ("lr-1e-5-seed-1-model", {"folder": str(tmp_path / "model")})
    [entry] = artifact.manifest.entries.values()
    assert entry.ref == (tmp_path / "model/weights").as_uri()
    assert others == [
        ("alert", (), {"title": "cow: stopped", "text": "step 3", "level": "WARN"}),
        ("mark_preempting", (), {}),
        ("finish", (), {"exit_code": 1}),
    ]


@pytest.mark.processes
@pytest.mark.parametrize("asked", [True, False])
def test_previews_are_a_table_where_it_is_asked_for(tmp_path: Path, asked: bool) -> None:
    given = request(3)
    shown = PreviewRequest(given.image, given.edit_mask, given.exemplar, seed=3, key="s00003")
    edits = write_preview(tiny_model(), [shown], PreviewConfig(num_inference_steps=2), tmp_path / "grid.png")
    recorder = Recorder()
    tracker = RunTracker(RunFolder(tmp_path), 0, recorder, table=asked)
    tracker.preview(5, tmp_path / "grid.png", edits)
    logged = {name: value for _, (values,), _ in recorder.calls for name, value in values.items()}
    assert list(logged) == (["preview", "preview_table"] if asked else ["preview"])
    assert all(options == {"step": 5} for _, _, options in recorder.calls)
    if asked:
        table = logged["preview_table"]
        [row] = table.data
        assert table.columns == ["key", "picture", "mask", "exemplar", "edit", "prompt"]
        assert (row[0], row[-1]) == ("s00003", "")
        pictures = [np.asarray(cell.image) for cell in row[1:-1]]
        assert all(map(np.array_equal, pictures, preview_table(edits)[1][0][1:-1]))
        assert set(np.unique(pictures[1])) == {0, 255} and pictures[1].mean() == 255 * given.edit_mask.mean()
        assert np.array_equal(pictures[0], given.image) and not np.array_equal(pictures[3], given.image)
