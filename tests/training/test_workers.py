"""Loader workers: the same batches however they are started, and a sentence when one of them ends."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from intarsia.errors import UserError
from tests.faults import Recorder
from tests.paths import ROOT
from tests.training.synthetic import make_shards
from tests.training.test_data import dataset_of
from training.config import BatchShape
from training.data import workers
from training.data.batches import Batch, batches
from training.data.order import DataOrder
from training.data.workers import EXIT_KILLED, WorkerKilled, about_end, start_context
from training.option_groups import DataConfig

METHODS = ("fork", "forkserver", "spawn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def read(folder: Path, number: int, open_shards: int = 2) -> Iterator[Batch]:
    """Eight steps of one rank, the dataset with a file open as after validation."""
    dataset = dataset_of(folder, open_shards=open_shards)
    assert dataset[0]
    return batches(DataConfig(num_workers=number), dataset, BatchShape(4, 1, 1), 0, range(0, 32, 4))


@pytest.mark.processes
@pytest.mark.parametrize("method", METHODS)
def test_batches_are_the_same_however_workers_are_started(
    folder: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(read(folder, 0))
    monkeypatch.setattr(workers, "START_METHOD", method)
    found = list(read(folder, 2))
    assert [batch.keys for batch in found] == [batch.keys for batch in expected]
    assert all(
        bool((getattr(ours, name) == getattr(theirs, name)).all())
        for ours, theirs in zip(found, expected, strict=True)
        for name in ("positions", "image", "edit_mask", "exemplar")
    )


def test_a_dataset_is_copied_into_workers_without_open_files_and_what_it_remembers(folder: Path) -> None:
    dataset = dataset_of(folder)
    places = [dataset.order.locate(position) for position in range(40)]
    assert dataset[0]
    again = pickle.loads(pickle.dumps(dataset))
    assert len(dataset.reader.files) == 1
    assert len(again.reader.files) == 0
    assert [again.order.locate(position) for position in range(40)] == places
    large = DataOrder([1000] * 10_000, 5, 16)
    large.locate(123_456)
    assert len(pickle.dumps(large)) < 100_000  # the counts alone, and not an epoch's order


# Signals to every process of the job, as Slurm may send them; only the training process decides.
SIGNALLED = """
import os, signal, sys
from pathlib import Path
import psutil
from tests.training.test_workers import read

def main():
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    found = read(Path(sys.argv[1]), 2)
    keys = next(found).keys
    children = psutil.Process().children(recursive=True)
    for child in children:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(child.pid, number)
    left = [batch for batch in found]
    print(len(children), 1 + len(left), sum(child.is_running() for child in children[:2]))

if __name__ == "__main__":
    main()
"""


@pytest.mark.processes
def test_stop_signals_to_all_processes_of_a_job_end_no_helper(
    folder: Path, tmp_path: Path, record_fault: Recorder
) -> None:
    script = tmp_path / "signalled.py"
    script.write_text(SIGNALLED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(folder)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.split()[1:] == ["8", "2"], run.stderr
    assert int(run.stdout.split()[0]) == 4  # resource tracker, fork server, two workers
    assert "Traceback" not in run.stderr
    record_fault(
        "a stop signal reaches every process of the job",
        "loader workers and their helpers go on; the training process decides",
    )


@pytest.mark.processes
def test_a_killed_worker_is_a_kill_and_no_error(folder: Path, record_fault: Recorder) -> None:
    found = read(folder, 1)
    next(found)
    server = next(child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline()))
    [worker] = server.children()
    worker.kill()
    with pytest.raises(
        WorkerKilled, match=rf"a loader worker \(process {worker.pid}\) was killed, by the sys"
    ):
        list(found)
    assert WorkerKilled.exit_code == EXIT_KILLED == 128 + signal.SIGKILL
    record_fault(
        "a loader worker is killed (SIGKILL)",
        "one sentence; exit code 137, after which `slurm/train.sh` restarts the job",
    )


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (-signal.SIGBUS, r"found no room in shared memory; enlarge /dev/shm, or lower data\.num_workers"),
        (-signal.SIGSEGV, r"ended by signal SIGSEGV; data\.num_workers=0 reads in the training process"),
        (3, "ended with code 3; data.num_workers=0"),
    ],
)
def test_a_worker_that_ends_otherwise_is_an_error(exit_code: int, words: str) -> None:
    error = about_end(7, exit_code)
    assert error.exit_code == 1
    with pytest.raises(UserError, match=rf"^a loader worker \(process 7\) {words}"):
        raise error


def test_training_forks_no_process_that_has_threads() -> None:
    assert start_context().get_start_method() == "forkserver"
