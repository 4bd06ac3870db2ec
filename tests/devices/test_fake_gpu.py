"""Devices and dtypes, checked without a GPU: a tensor that stays on the CPU is found here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.paths import ROOT
from tests.processes import starts_processes

GUARD = Path(__file__).parent / "guard.cpp"


@pytest.fixture(scope="module")
@starts_processes
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Scenario of `fake_gpu` -> its error."""
    library = tmp_path_factory.mktemp("guard") / "guard.so"
    include = Path(torch.__file__).parent / "include"
    command = [
        "g++",
        "-O0",
        "-shared",
        "-fPIC",
        "-std=c++20",
        str(GUARD),
        "-I",
        str(include),
        "-o",
        str(library),
    ]
    subprocess.run(command, check=True, capture_output=True)
    run = [sys.executable, "-m", "tests.devices.fake_gpu", str(library)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.whole
def test_every_piece_keeps_its_tensors_on_one_device_in_dtypes_that_go_together(
    outcomes: dict[str, str],
) -> None:
    wrong = {name: error for name, error in outcomes.items() if error and not name.startswith("mistake")}
    assert not wrong
    assert len(outcomes) > 30
    assert sum("four tokens" in name for name in outcomes) == 2 + 3 * 2  # queries and keys learn


@pytest.mark.whole
def test_mistakes_are_found(outcomes: dict[str, str]) -> None:
    planted = {name: error for name, error in outcomes.items() if name.startswith("mistake")}
    assert len(planted) == 3
    assert all("device" in error or "dtype" in error or "type" in error for error in planted.values()), (
        planted
    )
