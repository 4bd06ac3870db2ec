"""A real Slurm on two virtual nodes of this machine, and jobs on it. Needs root."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.paths import ROOT

TOOL = str(Path(__file__).with_name("slurm-cluster"))
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
T = TypeVar("T")


def call(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, cwd=ROOT).stdout.strip()


def wait_for(
    condition: Callable[[], T], what: Callable[[], object] = str, seconds: float = 180, pause: float = 0.05
) -> T:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain; {what()}"
        time.sleep(pause)
    return value


@contextmanager
def two_nodes(*settings: str) -> Iterator[None]:
    """Both up inside the block; `settings` are lines of slurm.conf."""
    call(TOOL, "down")
    options = [word for setting in settings for word in ("--set", setting)]
    call(TOOL, "up", "--nodes", "2", "--cpus", "2", "--mem", "4096", *options)
    try:
        yield
    finally:
        call(TOOL, "down")


def make_healthy() -> None:
    """No jobs, both nodes idle."""
    for job in call("squeue", "--noheader", "--format=%A").split():
        call("scancel", job)
    for node in ("node1", "node2"):
        call(TOOL, "start", node)
    wait_for(lambda: set(call("sinfo", "-hN", "-o", "%T").split()) == {"idle"}, lambda: call("sinfo"))


def power_off(node: str) -> None:
    call(TOOL, "kill", node)
    call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")  # or wait for Slurm to notice


def preempt() -> str:
    """Give both nodes to a job of higher priority for a second; its id."""
    options = ["--partition=urgent", "--exclusive", "--nodes=2", "--output=/dev/null"]
    return call("sbatch", "--parsable", *options, "--wrap=srun sleep 1")


@dataclass(frozen=True)
class Job:
    """A job that was submitted, and its log."""

    folder: Path
    id: str

    def part(self, number: int) -> "Job":
        """A part of a job array; its own id would not do, since the last part's is that of the array."""
        return Job(self.folder, f"{self.id}_{number}")

    @property
    def info(self) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S*)", call("scontrol", "show", "job", "--oneliner", self.id)))

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob(f"*{self.id}*.out"))

    def ends(self, seconds: float = 180) -> str:
        wait_for(lambda: self.info["JobState"] in ENDED, lambda: f"{self.info}\n{self.log}", seconds)
        return self.info["JobState"]


def sbatch(
    folder: Path,
    script: str,
    *arguments: str,
    options: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> Job:
    """Submit a script of slurm/; logs go to `folder`."""
    environment = os.environ | {"PYTHON": sys.executable} | (environment or {})
    log = "%x-%A_%a.out" if any(option.startswith("--array") for option in options) else "%x-%j.out"
    command = ["sbatch", "--parsable", f"--output={folder}/{log}", *options, script, *arguments]
    run = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, cwd=ROOT, env=environment)
    return Job(folder, run.stdout.strip())
