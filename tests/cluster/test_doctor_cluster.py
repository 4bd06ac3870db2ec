"""`slurm doctor --nodes` on a real Slurm: what each node is like, and whether it sees the same folders."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm import cli
from tests.cluster.virtual import TOOL, call, two_nodes

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with two_nodes():
        yield


def test_two_nodes_that_see_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--nodes", "2", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "cluster virtual\n" in said
    assert "ok      all 2 nodes: Python: " in said
    assert "ok      node2: host name: node2 is 198.51.100.2\n" in said
    assert f"ok      one for all nodes: {tmp_path}\n" in said


def test_a_folder_of_the_same_name_on_a_node_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(TOOL, "exec", "node2", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path))
    assert cli.main(["doctor", "--nodes", "2", str(tmp_path)]) == 1
    assert f"FAILURE one for all nodes: {tmp_path} is another on node2\n" in capsys.readouterr().out


def test_nodes_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--nodes", "3", "--srun=--immediate=2"]) == 1
    assert "error: 3 of 3 nodes could not run" in (said := capsys.readouterr().err)
    assert "Requested nodes are busy" in said
    assert not subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout
