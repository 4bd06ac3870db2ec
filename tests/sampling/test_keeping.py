"""Visitors' files go by age and by size, and after a server's sudden end."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sampling.web.keeping import forget, look_regularly, own_folder, remove_left

HOLD = """
import sys, time
from pathlib import Path
from sampling.web.keeping import own_folder

with own_folder(Path(sys.argv[1])) as own:
    (own / "f").touch()
    print(own, flush=True)
    time.sleep(600)
"""


def put(folder: Path, name: str, size: int, age: float) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age,) * 2)
    return path


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_old_files_go_and_needed_ones_stay(tmp_path: Path) -> None:
    needed = put(tmp_path, "inputs/needed", 1, 9000)
    put(tmp_path, "inputs/old", 1, 9000)
    put(tmp_path, "young", 1, 500)
    forget([tmp_path], 3600, 100, {needed})
    assert left(tmp_path) == {"needed", "young"}


def test_the_oldest_go_while_there_are_too_many_bytes(tmp_path: Path) -> None:
    for number in range(6):
        put(tmp_path, f"{number}", 10, 900 - number * 100)
    put(tmp_path, "new", 10, 0)
    forget([tmp_path], 3600, 40)
    assert left(tmp_path) == {"3", "4", "5", "new"}
    forget([tmp_path], 3600, 5)
    assert left(tmp_path) == {"new"}, "what is new may be in use"


def test_the_clock_looks_without_an_edit(tmp_path: Path) -> None:
    put(tmp_path, "old", 1, 9000)
    look_regularly(lambda: forget([tmp_path], 3600, 100), every=0.05)
    end = time.monotonic() + 60
    while left(tmp_path) and time.monotonic() < end:
        time.sleep(0.02)
    assert not left(tmp_path)


@pytest.mark.processes
def test_the_folder_of_a_killed_server_goes_with_the_next_and_a_running_one_stays(tmp_path: Path) -> None:
    servers = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = [Path(server.stdout.readline().strip()) for server in servers]  # type: ignore[union-attr]
    servers[0].send_signal(signal.SIGKILL)
    servers[0].wait()
    unlocked = tmp_path / "intarsia-serve-of-an-earlier-version"
    unlocked.mkdir()
    os.utime(unlocked, (0, 0))
    assert (folders[0] / "f").exists(), "a killed process tidies nothing up"
    with own_folder(tmp_path) as own:
        assert sorted(tmp_path.iterdir()) == sorted([own, folders[1]])
    servers[1].kill()
    servers[1].wait()
    assert not own.exists()


def test_a_folder_that_another_server_takes_for_an_ended_ones_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one begins at the same moment, and has the lock between its file and our hold of it."""
    hold, taken = fcntl.flock, []

    def late(lock: Any, operation: int) -> None:
        if not taken:
            taken.append(Path(lock.name).parent)
            remove_left(tmp_path)
        hold(lock, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with own_folder(tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own] != taken
        remove_left(tmp_path)
        assert own.exists()
    assert not own.exists()
