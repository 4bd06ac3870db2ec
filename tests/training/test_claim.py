"""A run folder is one run's, for as long as that lives and no longer."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from intarsia.errors import UserError
from tests.paths import ROOT
from tests.training.synthetic import make_shards, write_config
from training.__main__ import main
from training.ranks import distributed
from training.ranks.distributed import World
from training.run.claim import claimed
from training.run.state import RunFolder

pytestmark = pytest.mark.processes
ALONE = World(rank=0, size=1, device=None)
# Another process, with a child that outlives it, as data loaders may for a while.
PROGRAM = """
import os, sys, time
from pathlib import Path
from training.run.claim import claimed
from training.ranks.distributed import World
from training.run.state import RunFolder
with claimed(RunFolder(Path(sys.argv[1])), World(0, 1, None)):
    if os.fork():
        print("held", flush=True)
    time.sleep(60)
"""
HOLDER = [sys.executable, "-c", PROGRAM]


@contextmanager
def held_by_another(folder: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    other = subprocess.Popen(
        [*HOLDER, str(folder)],
        cwd=ROOT,
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other
    finally:
        os.killpg(other.pid, 9)
        other.wait()


def test_a_second_run_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with held_by_another(tmp_path, SLURM_JOB_ID="71") as other:
        words = rf"in use by process {other.pid} on .*, Slurm job 71; wait .*delete {tmp_path}/\.lock"
        with pytest.raises(UserError, match=words), claimed(RunFolder(tmp_path), ALONE):
            pass


def test_the_end_of_the_process_ends_its_claim_though_a_child_lives_on(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as other:
        other.kill()
        other.wait()
        os.killpg(other.pid, 0)  # the child is there
        with claimed(RunFolder(tmp_path), ALONE):
            assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_run_that_ended_leaves_the_folder_free(tmp_path: Path) -> None:
    for _ in range(2):
        with claimed(RunFolder(tmp_path), ALONE):
            pass
    with held_by_another(tmp_path):
        pass


@pytest.mark.parametrize(("start", "goes_on"), [("0", False), ("1", False), ("2", True)])
def test_a_requeued_job_takes_over_from_its_earlier_start_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, goes_on: bool
) -> None:
    """The server of a lost node may hold its lock for minutes: as good as a process that still lives."""
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    monkeypatch.setenv("SLURM_RESTART_COUNT", start)
    with held_by_another(tmp_path, SLURM_JOB_ID="71", SLURM_RESTART_COUNT="1"):
        if not goes_on:
            with pytest.raises(UserError, match="is in use by"), claimed(RunFolder(tmp_path), ALONE):
                pass
            return
        with claimed(RunFolder(tmp_path), ALONE):
            third = subprocess.run(
                [*HOLDER, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert "is in use by process" in third.stderr


def test_the_command_refuses_a_folder_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distributed, "connect", lambda *how: ALONE)
    monkeypatch.setattr(distributed.StopFlag, "install", lambda flag: flag)
    config, shards, folder = write_config(tmp_path), make_shards(tmp_path / "shards"), tmp_path / "run"
    folder.mkdir()
    with held_by_another(folder) as other:
        assert main([str(config), f"data.shards={shards}", f"run={folder}"]) == 1
    assert capsys.readouterr().err.startswith(f"error: run={folder} is in use by process {other.pid}")
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "logs"]
