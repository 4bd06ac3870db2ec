"""Programs in processes of their own, forked from one that has imported torch and DeepSpeed already.

Each start of a new interpreter costs seconds of imports. A test of the start itself, or of what a command
imports, starts one all the same.
"""

import atexit
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.paths import ROOT

Program = Callable[[list[str]], int | None]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "offline"}


@dataclass(frozen=True)
class Ended:
    """How a program ended, as of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Fork:
    """A program that was started."""

    process: BaseProcess
    folder: Path

    @property
    def stderr(self) -> str:
        """What it has written until now."""
        return (self.folder / "2").read_text()

    def wait(self, seconds: float | None = None) -> Ended:
        """Wait for its end; after the given time it fails."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it still runs after {seconds} s: {self.stderr}"
        ended = Ended(self.process.exitcode, (self.folder / "1").read_text(), self.stderr)
        shutil.rmtree(self.folder)
        return ended


def begin(
    program: Program, arguments: Sequence[object], environment: dict[str, str] | None = None, path: str = ""
) -> Fork:
    """Start a program, a function of a module; `path`: a further folder of Python's path."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    folder = Path(tempfile.mkdtemp(prefix="intarsia-fork-"))
    for number in (1, 2):
        (folder / str(number)).touch()
    own = ENVIRONMENT | (environment or {})
    sys.audit("subprocess.Popen", sys.executable)  # which tests/conftest.py heeds
    process = context.Process(target=_be, args=(program, [str(a) for a in arguments], own, path, folder))
    with pytest.MonkeyPatch.context() as patch:
        for key, value in ENVIRONMENT.items():
            patch.setenv(key, value)  # of the process that is forked, where this is its first start
        process.start()
    return Fork(process, folder)


def run(program: Program, *arguments: object, **environment: str) -> Ended:
    """Start a program and wait for its end."""
    return begin(program, arguments, environment).wait()


def script(arguments: list[str]) -> None:
    """`python FILE ARGUMENT ...`."""
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).parent))
    runpy.run_path(arguments[0], run_name="__main__")


def _be(program: Program, arguments: list[str], environment: dict[str, str], path: str, folder: Path) -> None:
    for number in (1, 2):
        os.dup2(os.open(folder / str(number), os.O_WRONLY | os.O_APPEND), number)
    # Blocked where a test of the loader's workers in pytest's process started the fork server.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir(ROOT)
    os.environ.update(environment)
    tempfile.tempdir = None  # remembered from before; TMPDIR may name another
    os.environ.pop("WANDB_SERVICE", None)  # of a test that ran W&B in pytest's process, and has ended it
    sys.path[:0] = [path] if path else []
    code = program(arguments)
    atexit._run_exitfuncs()  # type: ignore[attr-defined] # as at the end of a program; W&B flushes in one
    sys.exit(code)
