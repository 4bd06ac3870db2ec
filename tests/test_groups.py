"""`make test` makes an expensive fixture once: all its tests go to one of the two workers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

SUITE = """\
import os
from pathlib import Path
import pytest

@pytest.fixture(scope="session")
def hard_runs():
    pass

@pytest.mark.parametrize("number", range(4))
def test_shared(hard_runs, number):
    with open({places!r}, "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\\n")

@pytest.mark.parametrize("number", range(4))
def test_of_the_file(number):
    Path({own!r} + os.environ["PYTEST_XDIST_WORKER"]).touch()
"""


@pytest.mark.processes
def test_files_that_share_an_expensive_fixture_run_in_one_worker(tmp_path: Path) -> None:
    """xdist passes groups in the tests' names, which not every version of pytest lets it change."""
    places = str(tmp_path / "places")
    for name in ("a", "b"):
        text = SUITE.format(places=places, own=str(tmp_path / f"{name}-"))
        (tmp_path / f"test_{name}.py").write_text(text)
    [options] = re.findall(r"^WORKERS := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    command = [sys.executable, "-m", "pytest", *options.split(), "-p", "tests.conftest"]
    command += ["-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={tmp_path}", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    workers = (tmp_path / "places").read_text().split()
    assert len(workers) == 8
    assert len(set(workers)) == 1
    assert all(len(list(tmp_path.glob(f"{name}-gw*"))) == 1 for name in ("a", "b"))
