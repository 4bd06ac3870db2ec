"""`sbatch slurm/train.sh` on a real Slurm with two nodes: the undisturbed run's numbers, whatever happens.

Two or three faults share a run, because a start takes ten times as long as all of its steps.
"""

import json
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from slurm.cli import main
from tests.cluster.virtual import (
    TOOL,
    Job,
    call,
    make_healthy,
    power_off,
    preempt,
    sbatch,
    two_nodes,
    wait_for,
)
from tests.faults import Recorder
from tests.paths import ROOT
from tests.training.synthetic import TINY, make_shards, write_config
from training.checkpoint.folder import what_is_torn
from training.tracking.tracker import read_metrics

pytestmark = pytest.mark.cluster
STEPS, EVERY = 40, 5
SBATCH = ("--nodes=2", "--cpus-per-task=1", "--mem=2000", "--time=60")
# A file system that takes its time, as long as the file SLOW says (seconds).
SLOW_FILES = """
import os, time
def slowly(function):
    def wrapped(*arguments):
        with open(os.environ["SLOW"]) as file:
            time.sleep(float(file.read() or 0))
        return function(*arguments)
    return wrapped
os.pread, os.fsync = slowly(os.pread), slowly(os.fsync)
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small disk that all nodes see: mounted before they start."""
    path = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="module")
def cluster(disk: Path) -> Iterator[None]:
    with two_nodes("KillWait=20"):  # what ranks have to save in, on a machine that may be busy
        yield


class Run:
    """A run folder, and the command that begins or continues it."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.jobs: list[Job] = []
        self.slow = root / "slow"
        self.slow.write_text("0.02")

    @property
    def arguments(self) -> tuple[str, str, str]:
        return str(self.root / "tiny.yaml"), f"data.shards={self.root / 'shards'}", f"run={self.folder}"

    @property
    def environment(self) -> dict[str, str]:
        return {"SLOW": str(self.slow), "PYTHONPATH": str(self.root), "WANDB_MODE": "offline"}

    def submit(self, *options: str) -> Job:
        job = sbatch(
            self.root,
            "slurm/train.sh",
            *self.arguments,
            options=(*SBATCH, *options),
            environment=self.environment,
        )
        self.jobs.append(job)
        return job

    @property
    def metrics(self) -> list[dict[str, float]]:
        return read_metrics(self.folder / "metrics.jsonl")

    @property
    def state(self) -> dict[str, Any]:
        """What `latest` points at says of the run; proves that this checkpoint is whole."""
        latest = self.folder / "checkpoints" / "latest"
        if not latest.exists():
            return {"step": 0}
        checkpoint = latest.parent / latest.read_text().strip()
        assert what_is_torn(checkpoint) is None
        return dict(json.loads((checkpoint / "state.json").read_text()))

    @property
    def saved(self) -> int:
        """The step that `latest` points at."""
        return int(self.state["step"])

    def wandb_ids(self) -> set[str]:
        """The run ids of all offline folders, of which each start of a job writes one."""
        parts = list((self.folder / "wandb").glob("offline-run-*"))
        starts = sum(job.log.count("train.sh: job ") for job in self.jobs)
        assert min(2, starts) <= len(parts) <= starts  # a start may be over before W&B has begun
        return {part.name.rpartition("-")[2] for part in parts}

    def reaches(self, step: int, job: Job) -> None:
        def reached() -> bool:
            assert job.info["JobState"] not in ("FAILED", "COMPLETED"), job.log
            return bool(self.metrics) and self.metrics[-1]["step"] >= step

        wait_for(reached, lambda: f"{job.info}\n{job.log}")

    def starts_again(self, job: Job, restarts: int) -> int:
        """Wait until the job runs again; the step from which it goes on."""
        wait_for(lambda: f", restart {restarts}, run" in job.log, lambda: f"{job.info}\n{job.log}")
        return self.saved

    @property
    def last_words(self) -> str:
        """Steps, and the end of each rank's output: what a failure is explained with."""
        ends = [path.read_text()[-3000:] for path in sorted((self.folder / "logs").glob("rank-*.out"))]
        return "\n".join([f"saved {self.saved}, recorded {self.metrics[-1]['step']}", *ends])

    def curve(self) -> list[tuple[float, ...]]:
        return [(line["step"], line["train/loss"], line["train/grad_norm"]) for line in self.metrics]

    def strays(self) -> list[str]:
        folders = [path for path in (self.folder / "checkpoints").iterdir() if path.is_dir()]
        return [path.name for path in folders if not path.name.startswith("step-")]


def continued(job: Job) -> list[int]:
    return [int(step) for step in re.findall(r"continuing after step (\d+) of", job.log)]


def rank(job: Job, number: int) -> psutil.Process:
    """The process of a rank, of which each node runs one."""

    def find() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                where = process.environ()
                ours = where.get("SLURM_JOB_ID") == job.id and where.get("SLURM_PROCID") == str(number)
                if ours and "SLURM_STEP_ID" in where and process.cmdline()[1:3] == ["-m", "training"]:
                    found.append(process)
            except (psutil.Error, IndexError):
                continue
        return found

    return min(wait_for(find, lambda: job.log), key=lambda process: process.create_time())


@pytest.fixture(scope="module")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(tmp_path_factory.mktemp("undisturbed"))
    run.slow.write_text("0")
    job = run.submit()
    assert job.ends() == "COMPLETED", job.log
    return run


def new_run(root: Path, folder: Path | None = None) -> Run:
    options = (
        f"max_steps: {STEPS}\ncheckpoint: {{every_steps: {EVERY}, keep_last: 2}}\ntracker: {{wandb: auto}}\n"
    )
    kept = [line for line in TINY.splitlines() if not line.startswith(("max_steps", "checkpoint", "tracker"))]
    write_config(root, "\n".join(kept) + "\n" + options)
    make_shards(root / "shards")
    (root / "sitecustomize.py").write_text(SLOW_FILES)
    return Run(root, folder or root / "run")


@pytest.fixture
def run(cluster: None, tmp_path: Path) -> Iterator[Run]:
    yield new_run(tmp_path)
    make_healthy()


def assert_equal(run: Run, undisturbed: Run) -> None:
    """Every step once, the same numbers to the bit, the same model, one W&B run."""
    assert run.curve() == undisturbed.curve()
    assert [step for step, *_ in run.curve()] == list(range(1, STEPS + 1))
    weights = "model/unet/diffusion_pytorch_model.safetensors"
    assert (run.folder / weights).read_bytes() == (undisturbed.folder / weights).read_bytes()
    assert run.wandb_ids() == {run.state["wandb_id"]}
    assert run.saved == STEPS
    assert not run.strays()


def test_two_nodes_train_one_model(undisturbed: Run) -> None:
    job, logs = undisturbed.jobs[0], undisturbed.folder / "logs"
    assert job.log.startswith(
        f"train.sh: job {job.id}, restart 0, run {undisturbed.folder} from the beginning\n"
    )
    assert f"max_steps: {STEPS}\n" in job.log  # the plan, before the first step
    assert "× ranks 2;" in job.log
    assert job.log.splitlines()[-1].startswith("next: python -m sampling edit")
    assert {path.name for path in logs.glob("*.out")} == {"rank-0.out", "rank-1.out"}
    assert "Traceback" not in job.log + "".join(path.read_text() for path in logs.iterdir())
    assert_equal(undisturbed, undisturbed)


def test_what_operators_do(run: Run, undisturbed: Run, record_fault: Recorder) -> None:
    job = run.submit()
    run.reaches(6, job)
    call("scontrol", "requeue", job.id)
    stops = [run.starts_again(job, 1)]
    run.reaches(stops[-1] + 4, job)
    urgent = preempt()
    stops.append(run.starts_again(job, 2))
    run.reaches(stops[-1] + 4, job)
    assert "JobState=COMPLETED" in call("scontrol", "show", "job", "--oneliner", urgent)
    call("scancel", job.id)
    assert job.ends() == "CANCELLED"
    wait_for(lambda: run.saved == run.metrics[-1]["step"], lambda: run.last_words)
    stops.append(run.saved)
    again = run.submit()
    assert again.ends() == "COMPLETED", again.log
    assert continued(job) + continued(again) == stops
    assert "starts again" not in job.log  # Slurm did it, or nobody
    assert_equal(run, undisturbed)
    record_fault("`scontrol requeue`", "saves after the current step; continues automatically")
    record_fault(
        "preemption by a job of higher priority", "saves after the current step; continues automatically"
    )
    record_fault("`scancel`", "saves after the current step; the same command continues")


def test_killed_ranks(run: Run, undisturbed: Run, record_fault: Recorder) -> None:
    run.slow.write_text("0")  # all of a step is arithmetic
    job = run.submit()
    run.reaches(EVERY + 2, job)
    rank(job, 1).kill()
    stops = [run.starts_again(job, 1)]
    first = rank(job, 0)
    run.slow.write_text("0.02")
    wait_for(run.strays, lambda: job.log, pause=0.001)
    first.kill()
    assert run.strays(), "the save was over before the kill"
    stops.append(run.starts_again(job, 2))
    run.reaches(stops[-1] + EVERY + 1, job)
    run.slow.write_text("0.5")  # a step's data takes eight seconds
    time.sleep(1)
    rank(job, 1).kill()
    stops.append(run.starts_again(job, 3))
    run.slow.write_text("0")
    assert job.ends() == "COMPLETED", job.log
    assert continued(job) == stops
    assert job.log.count("task 1: Killed; the job starts again") == 2
    assert (run.folder / "logs" / "rank-0.out").read_text().count("error: another rank has gone") == 2
    assert_equal(run, undisturbed)
    outcome = "the job restarts from the last checkpoint"
    record_fault("a rank is killed (SIGKILL) in the middle of a step", outcome)
    record_fault(
        "a rank is killed while it writes a checkpoint", "the incomplete checkpoint is removed; " + outcome
    )
    record_fault("a rank is killed while it loads data", outcome)


def test_the_time_limit_and_a_lost_node(run: Run, undisturbed: Run, record_fault: Recorder) -> None:
    run.slow.write_text("0.2")
    # Slurm may send the signal up to a minute before its time: 30 to 90 seconds from the start here.
    job = run.submit("--time=2", "--signal=USR1@30")
    stops = [run.starts_again(job, 1)]
    assert stops == [run.metrics[-1]["step"]]  # saved after the running step
    assert "saved and stopped before the end; the job starts again" in job.log
    run.slow.write_text("0.02")
    run.reaches(stops[0] + EVERY + 1, job)
    power_off("node2")
    wait_for(lambda: job.info["JobState"] == "PENDING", lambda: job.log)
    call(TOOL, "start", "node2")
    run.slow.write_text("0")
    stops.append(run.starts_again(job, 2))
    assert job.ends() == "COMPLETED", job.log
    # On a slow machine the time limit comes again before the end; that is the first fault.
    assert continued(job)[:2] == stops
    assert_equal(run, undisturbed)
    record_fault(
        "the time limit (`--signal=USR1@…`)",
        "saves after the current step; the job requeues itself and continues",
    )
    record_fault("a node is powered off", "Slurm requeues the job, which continues from the last checkpoint")


def test_a_full_disk_and_a_corrupt_shard(
    cluster: None, disk: Path, tmp_path: Path, undisturbed: Run, record_fault: Recorder
) -> None:
    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)

    run = new_run(tmp_path, disk / "run")
    job = run.submit()
    run.reaches(EVERY + 1, job)
    used = shutil.disk_usage(disk).used
    resize(str(used + 100_000))
    assert job.ends() == "FAILED"
    assert job.info["Restarts"] == "0"
    # The checkpoint, or what is written beside it at that moment.
    assert re.match(rf"error: .*{run.folder}.* cannot be written", last_line(job)), job.log
    assert last_line(job).endswith("make room and run again")
    stops = [run.saved]
    resize("500m")

    shard = run.root / "shards" / "toy-train-000001.tar"
    whole = shard.read_bytes()
    again = run.submit()
    run.reaches(stops[-1] + EVERY + 1, again)
    with tarfile.open(shard) as tar, shard.open("r+b") as file:
        for member in tar.getmembers():
            file.seek(member.offset_data)
            file.write(bytes(member.size))
    assert again.ends() == "FAILED"
    assert re.match(rf"error: shard {shard}: sample s\d+", last_line(again)), again.log
    stops.append(run.saved)
    with shard.open("r+b") as file:
        file.write(whole)
    last = run.submit()
    assert last.ends() == "COMPLETED", last.log
    assert continued(again) + continued(last) == stops
    assert_equal(run, undisturbed)
    record_fault(
        "the disk is full at a checkpoint",
        "one error sentence, the last complete checkpoint is kept; with free space the same command "
        "continues",
    )
    record_fault(
        "a shard becomes corrupt",
        "one error sentence with shard and sample; with the shard restored the same command continues",
    )
    make_healthy()


def test_a_run_of_a_sweep_starts_again_alone(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path)
    for name, value in run.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    command = ["train", *run.arguments, "--sweep", "seed=1,2", "--cpus-per-task=1", "--mem=3000", "--time=60"]
    assert main(["submit", *command]) == 0
    array = capsys.readouterr().out.partition("_")[0]
    runs, ids = [run.folder / f"seed={seed}" for seed in (1, 2)], [f"{array}_{part}" for part in range(2)]
    wait_for(lambda: all((folder / "metrics.jsonl").exists() for folder in runs))
    call("scancel", "--signal=USR1", ids[1])  # the last, which shares its own id with the array
    run.slow.write_text("0")
    wait_for(lambda: all((folder / "finished.json").exists() for folder in runs))
    logs = [path.read_text() for path in sorted((run.folder / "slurm").rglob("*_log.out"))]
    assert [log.count("saved and stopped before the end; the job starts again") for log in logs] == [0, 1]
    assert [log.count("train.sh: job") for log in logs] == [1, 2]
    make_healthy()


def test_a_chain_goes_on_where_its_first_job_was_cancelled(
    run: Run, undisturbed: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in run.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    command = ["train", *run.arguments, "--chain", "2", *SBATCH]
    assert main(["submit", *command]) == 0
    ids = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    first, second = (Job(run.folder / "slurm", number) for number in ids)
    run.jobs += [first, second]
    run.reaches(6, first)
    assert second.info["Dependency"].startswith(f"afterany:{first.id}")
    call("scancel", first.id)
    assert first.ends() == "CANCELLED"
    stopped = wait_for(lambda: run.saved == run.metrics[-1]["step"] and run.saved, lambda: first.log)
    run.slow.write_text("0")
    assert second.ends() == "COMPLETED", second.log
    assert continued(second) == [stopped]
    assert_equal(run, undisturbed)


def test_mistakes_are_told_before_any_rank_starts(cluster: None, tmp_path: Path) -> None:
    config = str(write_config(tmp_path))
    job = sbatch(tmp_path, "slurm/train.sh", config, "run=x", "max_stps=3", options=SBATCH)
    assert job.ends() == "FAILED"
    assert job.log.startswith("error: ")
    assert "did you mean 'max_steps'?" in job.log
    assert job.info["ExitCode"] == "2:0"
    assert not (tmp_path / "x").exists()


def last_line(job: Job) -> str:
    return job.log.rstrip().splitlines()[-1]
