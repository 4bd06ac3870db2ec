"""A node on which ranks are killed again and again, on a real Slurm: the job goes on without it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.virtual import Job, sbatch, two_nodes
from tests.faults import Recorder

pytestmark = pytest.mark.cluster
# What the script takes for Python: plan and run folder as ever, but a rank lives on good nodes only.
PYTHON = """#!/bin/bash
[[ $1 == -c || $* == *--dry-run* ]] && exec {python} "$@"
echo "$(hostname) step $(ls {folder}/starts | wc -l)" | tee {folder}/starts/$$
mkdir -p {folder}/run/checkpoints && ls {folder}/starts | wc -l >{folder}/run/checkpoints/latest
[[ " {bad} " == *" $(hostname) "* ]] && kill -KILL $$
exit 0
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with two_nodes():
        yield


def submit(folder: Path, bad: str, *options: str) -> Job:
    (folder / "starts").mkdir()
    (folder / "python").write_text(PYTHON.format(python=sys.executable, folder=folder, bad=bad))
    (folder / "python").chmod(0o755)
    arguments = "configs/train/demo.yaml", f"run={folder / 'run'}"
    options = (*options, "--nodes=1", "--cpus-per-task=1", "--mem=500", "--time=10")
    return sbatch(
        folder,
        "slurm/train.sh",
        *arguments,
        options=options,
        environment={"PYTHON": str(folder / "python")},
    )


def hosts(folder: Path) -> list[str]:
    starts = [path.read_text().split() for path in (folder / "starts").iterdir()]
    return [host for host, _, _ in sorted(starts, key=lambda words: int(words[2]))]


def test_it_is_excluded_after_the_second_time(cluster: None, tmp_path: Path, record_fault: Recorder) -> None:
    job = submit(tmp_path, "node1")
    assert job.ends() == "COMPLETED", job.log
    assert hosts(tmp_path) == ["node1", "node1", "node2"]
    assert job.log.count("the job starts again") == 2
    assert "train.sh: ranks were killed twice on node1; it is excluded from now on\n" in job.log
    record_fault(
        "ranks are killed twice on one node", "the job restarts without that node, if there are others"
    )


def test_it_stays_when_the_partition_has_no_other(cluster: None, tmp_path: Path) -> None:
    job = submit(tmp_path, "node1 node2", "--exclude=node2", "--export=ALL,MAX_RESTARTS=2")
    assert job.ends() == "FAILED", job.log
    assert hosts(tmp_path) == ["node1"] * 3
    assert "killed twice on node1; the partition has no other node to take instead\n" in job.log
    assert job.info["ExcNodeList"] == "node2"
