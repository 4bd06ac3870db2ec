"""`make test-quick` leaves out what starts other programs, and nothing that starts one can hide from it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

SUITE = """\
import subprocess, sys
import pytest
from tests.processes import starts_processes

def start():
    subprocess.run([sys.executable, "-c", ""], check=True)

@pytest.fixture
def started():
    start()

@pytest.fixture
@starts_processes
def known():
    start()

def test_nothing(): pass
def test_a_cheap_program(): subprocess.run(["true"], check=True)
def test_hidden(): start()
def test_hidden_in_a_fixture(started): pass
def test_of_a_known_fixture(known): pass

def test_ranks(tmp_path):
    import torch.distributed
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)

def test_after_ranks(): pass
@pytest.mark.processes
def test_marked(): start()
"""


@pytest.mark.processes
@pytest.mark.parametrize("quick", [True, False])
def test_a_test_that_starts_a_program_is_marked_or_fails(quick: bool, tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    options = [
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "-rA",
        "-c",
        os.devnull,
        f"--rootdir={tmp_path}",
    ]
    if quick:
        [command] = re.findall(r"^test-quick:.*\n\t.*(-m '.*')$", (ROOT / "Makefile").read_text(), re.M)
        options += ["-m", command.removeprefix("-m ").strip("'")]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    found = {
        outcome: set(re.findall(rf"^{outcome} \S+::(\w+)", run.stdout, re.M))
        for outcome in ("PASSED", "ERROR")
    }
    assert found["ERROR"] == {"test_hidden", "test_hidden_in_a_fixture", "test_ranks"}, run.stdout
    marked = {"test_marked", "test_of_a_known_fixture"}
    assert found["PASSED"] - found["ERROR"] == {
        "test_nothing",
        "test_a_cheap_program",
        "test_after_ranks",
    } | (set() if quick else marked)
    assert "this test starts python" in run.stdout
    assert "mark it with @pytest.mark.processes" in run.stdout
