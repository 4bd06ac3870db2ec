"""Ray in a separate process: what it prints goes to a file, its sudden death becomes one sentence."""

import contextlib
import ctypes
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataprep.shards.build_shard import ShardJob
from dataprep.workers.pipeline import run_shards_here
from intarsia.errors import UserError
from intarsia.files import ROOT

_PR_SET_PDEATHSIG = 1
_SECONDS_TO_START = 180  # until there is a worker; Ray waits 60 for one that is silent, and starts another
_SECONDS_TO_END = 20  # that Ray may take to shut down before it is killed


def run_shards(
    jobs: list[ShardJob], workers: int | None = None, address: str | None = None, verbose: bool = False
) -> Iterator[dict[str, Any]]:
    """Build shards in parallel and yield each one's counts as it is committed, in any order.

    Ray runs in a separate process, unless it already runs in this one.

    Args:
        jobs: shards to build.
        workers: number of processes of the local Ray; the number of CPUs if None.
        address: address of a running Ray cluster whose nodes see the same folders; a local Ray if None.
        verbose: whether Ray and its workers may print.

    Raises:
        UserError: if Ray does not start, or a shard failed for a reason that is not a picture's.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield from run_shards_here(jobs, workers, address, verbose)
    else:
        yield from run_apart(jobs, workers, address, verbose)


def run_apart(
    jobs: list[ShardJob], workers: int | None, address: str | None, verbose: bool
) -> Iterator[dict[str, Any]]:
    """`run_shards` in a child process whose end is always noticed.

    When Ray's own processes are killed, Ray ends the process that started it, without an exception and after
    pages of its log. The child dies with this process.

    Raises:
        UserError: what the child raised, or that it died; the message names the file with Ray's output.
    """
    _refuse_namesakes(Path.cwd())
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    handle, log = tempfile.mkstemp(prefix="intarsia-ray-", suffix=".log")
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "dataprep.workers.apart"],  # without the current folder
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if verbose else handle,
        env=os.environ | {"PYTHONPATH": path},
    )
    os.close(handle)
    said_all = died = False
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(pickle.dumps((jobs, workers, address, verbose)))
        child.stdin.close()
        if not select.select([child.stdout], [], [], _SECONDS_TO_START)[0]:
            raise UserError(
                f"Ray had not one worker after {_SECONDS_TO_START} s; run with -v to see what they print"
            )
        for line in child.stdout:
            report = json.loads(line)
            said_all = "error" in report or "done" in report
            if "error" in report:
                raise UserError(report["error"])
            if said_all:
                return
            if "up" not in report:
                yield report
        died = True
    except BrokenPipeError:
        died = True
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_SECONDS_TO_END if said_all or died else 0)
        child.kill()
        code = child.wait()
        if not died:
            Path(log).unlink(missing_ok=True)
    raise _death(code, Path(log))


def _refuse_namesakes(folder: Path) -> None:
    """Ray's workers look for modules in the current folder first."""
    if folder.resolve() != ROOT and (folder / "dataprep" / "__init__.py").exists():
        raise UserError(
            f"{folder} has a package of its own called dataprep, which Ray's workers would import; "
            "run the command in another folder"
        )


def _death(code: int, log: Path) -> UserError:
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return UserError(
        f"Ray ended {how} while building (its log: {log}); the shards so far are kept, run the same command "
        "again"
    )


def main() -> None:
    """The child's side: reads jobs from stdin, writes a line of JSON for each shard to stdout."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as channel:
        os.dup2(2, 1)  # what Ray prints is not a report
        jobs, workers, address, verbose = pickle.load(sys.stdin.buffer)
        try:
            for report in run_shards_here(
                jobs, workers, address, verbose, lambda: channel.write('{"up": true}\n')
            ):
                channel.write(json.dumps(report) + "\n")
            channel.write(json.dumps({"done": True}) + "\n")
        except UserError as error:
            channel.write(json.dumps({"error": str(error)}) + "\n")


if __name__ == "__main__":
    main()
