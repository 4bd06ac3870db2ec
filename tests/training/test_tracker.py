"""Metrics: every step once, whatever happened, and W&B only as far as wanted."""

import json
import sys
from pathlib import Path

import pytest

from intarsia.errors import UserError
from training.config import TrainConfig
from training.run.state import RunFolder, TrainState
from training.tracking.tracker import NullTracker, RunTracker, make_tracker, read_metrics, rejected_by_shards
from training.tracking.wandb_run import start_wandb, wandb_mode


def test_steps_after_the_restored_one_are_recorded_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first = RunTracker(folder, 0, None)
    for step in (2, 4, 6):
        first.log(step, {"train/loss": float(step)})
    first.close(6, finished=False)
    second = RunTracker(folder, 4, None)
    second.log(6, {"train/loss": 60.0})
    second.close(6, finished=True)
    assert [(r["step"], r["train/loss"]) for r in read_metrics(folder.metrics)] == [
        (2, 2.0),
        (4, 4.0),
        (6, 60.0),
    ]


def test_a_line_is_in_the_file_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    tracker = RunTracker(RunFolder(tmp_path), 0, None)
    tracker.log(1, {"train/loss": 0.1 + 0.2, "train/grad_norm": float("nan")})
    record = read_metrics(tmp_path / "metrics.jsonl")[0]
    tracker.close(1, finished=True)
    assert record == {"step": 1, "train/loss": 0.1 + 0.2, "train/grad_norm": None}


def test_a_line_cut_short_by_a_crash_is_left_out_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + '\n{"step": 2, "train/l')
    assert read_metrics(path) == [{"step": 1}]
    assert not caplog.text


def test_an_end_without_a_word_is_told_at_the_restart_and_a_torn_event_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    RunTracker(folder, 0, None)  # and then the machine lost its power
    with folder.events.open("a") as file:
        file.write('{"time": 1, "st')
    RunTracker(folder, 0, None).event(3, "stalled", "rank 1 has not moved")
    RunTracker(folder, 0, None)
    assert [(record["event"], record["text"]) for record in read_metrics(folder.events)] == [
        ("started", ""),
        ("continued", "restart 1: goes on after step 0; the process before it ended without a word"),
        ("stalled", "rank 1 has not moved"),
        ("continued", "restart 2: goes on after step 0"),
    ]


@pytest.mark.parametrize("told", [True, False])
def test_a_run_killed_between_its_last_save_and_its_end_tells_both_when_it_is_run_again(
    tmp_path: Path, told: bool
) -> None:
    folder, config = RunFolder(tmp_path), TrainConfig(max_steps=4, tracker={"wandb": "off"})
    first = make_tracker(config, folder, TrainState(), is_main=True)
    for step in (2, 4):
        (folder.checkpoints / f"step-{step:08d}").mkdir(parents=True)
        (folder.checkpoints / "latest").write_text(f"step-{step:08d}\n")
        if told or step == 2:
            first.log(step, {"train/loss": 1.0})
    for _ in range(3):
        make_tracker(config, folder, TrainState(step=4), is_main=True).close(4, finished=True)
    assert [(record["event"], record["step"]) for record in read_metrics(folder.events)] == [
        ("started", 0),
        ("saved", 2),
        *([("saved", 4)] if told else []),
        ("continued", 4),
        *([] if told else [("saved", 4)]),
        ("finished", 4),
    ]
    assert isinstance(make_tracker(config, folder, TrainState(step=4), is_main=True), NullTracker)
    longer = config.model_copy(update={"max_steps": 6})
    assert isinstance(make_tracker(longer, folder, TrainState(step=4), is_main=True), RunTracker)


def test_rejects_of_all_shard_folders_are_added_up(tmp_path: Path) -> None:
    for name in ("a", "b"):
        manifest = {"shardlist": [], "rejected": {"boxes": {"too_small": 2, "too_large": 1}, "masks": {}}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
    config = TrainConfig(data={"shards": [str(tmp_path / "a"), str(tmp_path / "b")]})
    assert rejected_by_shards(config) == {"boxes": 6, "masks": 0}


@pytest.mark.parametrize(
    ("wanted", "environ", "mode"),
    [
        ("off", {"WANDB_API_KEY": "k"}, "off"),
        ("online", {}, "online"),
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "off"),
    ],
)
def test_wandb_is_online_only_for_whom_it_is_set_up(
    tmp_path: Path, wanted: str, environ: dict[str, str], mode: str
) -> None:
    assert wandb_mode(wanted, {"NETRC": str(tmp_path / "none"), **environ}) == mode


def test_a_login_in_netrc_counts(tmp_path: Path) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine api.wandb.ai login user password k\n")
    assert wandb_mode("auto", {"NETRC": str(path)}) == "online"
    assert wandb_mode("auto", {"NETRC": str(path), "WANDB_BASE_URL": "https://wandb.my.lab"}) == "offline"


@pytest.mark.processes
def test_the_end_of_wandbs_own_process_does_not_end_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Slurm may signal every process of a job: W&B's obeys at once, while we still have to save."""
    import psutil
    import wandb

    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True, console="off"))
    tracker = RunTracker(RunFolder(tmp_path), 0, run)
    tracker.log(1, {"train/loss": 1.0})
    [process] = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
    process.terminate()
    process.wait(20)
    steps = range(2, 30)
    for step in steps:  # the first may still go into the socket's buffer
        tracker.log(step, {"train/loss": 1.0})
    tracker.close(29, finished=True)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, *steps]
    assert "W&B records no more" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError, ConnectionResetError])
def test_wandb_cannot_end_our_process_whatever_it_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    """A request that its process leaves unanswered raises a class of its own; teardown calls exit."""
    import wandb

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            raise error("no answer")

    def teardown() -> None:
        sys.exit(1)

    monkeypatch.setattr(wandb, "teardown", teardown)
    tracker = RunTracker(RunFolder(tmp_path), 0, Run())
    for step in (1, 2):
        tracker.log(step, {"train/loss": 1.0})
    tracker.close(2, finished=False)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    assert caplog.text.count("W&B records no more (no answer)") == 1


def test_where_wandb_cannot_write_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # else they are set for the tests that follow
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "wandb").write_text("in the way")
    config = TrainConfig(tracker={"wandb": "offline"})
    with pytest.raises(UserError, match=r"W&B cannot record .*\(.*wandb'\); mend it, or tracker.wandb=off"):
        start_wandb(config, RunFolder(tmp_path), TrainState(), {})


@pytest.mark.processes
def test_where_the_server_is_out_of_reach_the_same_run_is_recorded_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logged in, but on a node without a way out."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    settings = {"API_KEY": "0" * 40, "BASE_URL": "http://127.0.0.1:9", "INIT_TIMEOUT": "2"}
    for name, value in {**settings, "DATA_DIR": str(tmp_path), "CACHE_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    state = TrainState()
    run = start_wandb(TrainConfig(), RunFolder(tmp_path), state, {})
    run.finish()
    assert run.offline
    assert run.id == state.wandb_id
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{run.id}"))) == 1
