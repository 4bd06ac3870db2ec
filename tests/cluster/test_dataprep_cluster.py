"""`sbatch slurm/dataprep.sh` on a real Slurm with two nodes: the bytes of a local build, whatever happens."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dataprep.check.verify import verify_folder
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
from tests.faults import Recorder, content, rebuilt, stamps
from tests.paths import COCO_MINI, ROOT

pytestmark = pytest.mark.cluster
SHARDS = 12
BUILD = ["build", "coco", "--annotations", str(COCO_MINI / "annotations.json"), "--images"]
BUILD += [
    str(COCO_MINI / "images"),
    "--image-size",
    "256",
    "--images-per-shard",
    "2",
    "--draws-per-image",
    "120",
]
SBATCH = ("--cpus-per-task=1", "--mem=2500", "--time=10")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a local build makes of the same command."""
    out = tmp_path_factory.mktemp("local") / "out"
    command = [sys.executable, "-m", "dataprep", *BUILD, "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return content(out)


@pytest.fixture(scope="module")
def cluster(reference: dict[str, str]) -> Iterator[None]:
    with two_nodes():
        yield


@pytest.fixture
def submit(cluster: None, tmp_path: Path) -> Iterator[Callable[[], Job]]:
    yield lambda: sbatch(
        tmp_path, "slurm/dataprep.sh", *BUILD, "--out", str(tmp_path / "out"), options=SBATCH
    )
    make_healthy()


def half_done(job: Job, out: Path) -> dict[str, int]:
    """Wait until some shards are whole; their sidecars' times."""
    wait_for(lambda: len(list(out.glob("coco-*.json"))) >= 3, lambda: job.log)
    return stamps(out)


def assert_whole(out: Path, reference: dict[str, str]) -> None:
    assert content(out) == reference
    assert verify_folder(out) == []


def processes(job: Job, node: str, name: str) -> list[psutil.Process]:
    """The job's processes of this name on a node."""
    found = []
    for process in psutil.process_iter():
        try:
            where = process.environ()
            ours = (where.get("SLURM_JOB_ID"), where.get("SLURMD_NODENAME")) == (job.id, node)
            if ours and name in process.cmdline()[0]:
                found.append(process)
        except (psutil.Error, IndexError):
            continue
    return found


def test_two_nodes_give_the_bytes_of_a_local_build(
    submit: Callable[[], Job], tmp_path: Path, reference: dict[str, str]
) -> None:
    job = submit()
    for node in ("node1", "node2"):
        wait_for(lambda node=node: processes(job, node, "ray::Map"), lambda: job.log)  # type: ignore[misc]
    assert job.ends() == "COMPLETED", job.log
    assert_whole(tmp_path / "out", reference)
    assert f"{SHARDS}/{SHARDS} shards" in job.log
    assert "Traceback" not in job.log


def test_a_node_that_is_powered_off(
    submit: Callable[[], Job], tmp_path: Path, reference: dict[str, str], record_fault: Recorder
) -> None:
    job, out = submit(), tmp_path / "out"
    before = half_done(job, out)
    power_off("node2")
    wait_for(lambda: job.info["JobState"] == "PENDING", lambda: job.log)
    call(TOOL, "start", "node2")
    assert job.ends() == "COMPLETED", job.log
    assert job.info["Restarts"] == "1"
    assert_whole(out, reference)
    assert not rebuilt(out, before)
    record_fault(
        "Slurm: a node is powered off halfway", "Slurm requeues the job, which completes automatically"
    )


def test_the_signal_before_the_time_limit_and_preemption(
    submit: Callable[[], Job], tmp_path: Path, reference: dict[str, str], record_fault: Recorder
) -> None:
    job, out = submit(), tmp_path / "out"
    before = half_done(job, out)
    call("scancel", "--batch", "--signal=USR1", job.id)
    wait_for(lambda: ", restart 1, " in job.log, lambda: f"{job.info}\n{job.log}")
    before |= stamps(out)
    wait_for(lambda: len(stamps(out)) > len(before), lambda: job.log)
    before |= stamps(out)
    assert len(before) < SHARDS, "too late"
    preempt()
    wait_for(lambda: ", restart 2, " in job.log, lambda: f"{job.info}\n{job.log}")
    assert job.ends() == "COMPLETED", job.log
    assert_whole(out, reference)
    assert not rebuilt(out, before)
    record_fault(
        "Slurm: the time limit is reached", "the job requeues itself one minute before and completes"
    )
    record_fault(
        "Slurm: a job of higher priority takes the nodes",
        "Slurm requeues the job, which completes automatically",
    )


def test_a_dead_raylet_ends_the_job_and_the_same_command_goes_on(
    submit: Callable[[], Job], tmp_path: Path, reference: dict[str, str], record_fault: Recorder
) -> None:
    job, out = submit(), tmp_path / "out"
    before = half_done(job, out)
    (raylet,) = processes(job, "node2", "/raylet")
    raylet.kill()
    assert job.ends() == "FAILED", job.log
    assert "error: " in job.log
    assert "submit the same command again" in job.log
    assert "Traceback" not in job.log
    Path(ROOT / f"dataprep-{job.id}.ray.log").unlink()
    again = submit()
    assert again.ends() == "COMPLETED", again.log
    assert_whole(out, reference)
    assert not rebuilt(out, before)
    record_fault(
        "Slurm: a node's raylet is killed",
        "the job fails with one error sentence; submitted again, it completes",
    )


def test_mistakes_are_one_sentence(cluster: None, tmp_path: Path) -> None:
    job = sbatch(tmp_path, "slurm/dataprep.sh", "show", "x", options=SBATCH)
    assert job.ends() == "FAILED"
    assert job.log == "error: slurm/dataprep.sh runs `build`; other commands of dataprep need no cluster\n"
    assert job.info["ExitCode"] == "2:0"
