"""slurm/train.sh without a cluster: what it does about each end of a rank, as srun reports it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.training.synthetic import make_shards, write_config

ENDS = {  # srun's line -> its exit code, whether the job starts again, what the log says
    "task 1: Exited with exit code 75": (75, True, "saved and stopped before the end; the job starts again"),
    "task 1: Killed": (137, True, "task 1: Killed; the job starts again"),
    "task 1: Out Of Memory": (137, True, "task 1: Out Of Memory; the job starts again"),
    "task 1: Exited with exit code 137": (
        137,
        True,
        "task 1: Exited with exit code 137; the job starts again",
    ),
    "task 1: Exited with exit code 1": (1, False, "Exited with exit code 1; the end of "),
    "task 1: Segmentation fault": (139, True, "task 1: Segmentation fault; the job starts again"),
}


def command(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def job(root: Path, end: str, code: int) -> subprocess.CompletedProcess[str]:
    """One start of a job whose srun ends so; what it asked of scontrol is in root/asked."""
    tools = root / "tools"
    tools.mkdir(exist_ok=True)
    command(tools, "srun", f'echo "srun: error: node2: {end}" >&2; exit {code}')
    command(tools, "scontrol", f'echo "$*" >>{root / "asked"}')
    command(tools, "squeue", "echo NONE")
    command(tools, "sinfo", "echo node2")
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_PARTITION": "main",
    }
    (root / "run" / "logs").mkdir(parents=True, exist_ok=True)
    (root / "run" / "logs" / "rank-1.out").write_text("error: the end of rank 1\n")
    arguments = [str(write_config(root)), f"data.shards={root / 'shards'}", f"run={root / 'run'}"]
    return subprocess.run(
        ["bash", str(ROOT / "slurm/train.sh"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_shards(tmp_path / "shards")
    return tmp_path


@pytest.mark.processes
@pytest.mark.parametrize("end", ENDS)
def test_a_job_starts_again_after_a_kill_and_not_after_an_error(root: Path, end: str) -> None:
    code, again, words = ENDS[end]
    run = job(root, end, code)
    assert run.returncode == code, run.stderr
    assert words in run.stdout + run.stderr
    assert (root / "asked").exists() == again
    assert ("error: the end of rank 1" in run.stderr) == (not again)


@pytest.mark.processes
def test_a_worker_killed_three_times_at_the_same_place_ends_the_job(root: Path) -> None:
    runs = [job(root, "task 0: Exited with exit code 137", 137) for _ in range(3)]
    asked = (root / "asked").read_text().splitlines()
    assert [words for words in asked if "hostnames" not in words] == ["requeue 7"] * 2
    assert "killed twice on node2; the partition has no other node" in runs[1].stdout
    assert "three times without a checkpoint in between; submit the same command again" in runs[-1].stderr
