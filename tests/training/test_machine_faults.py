"""Faults of the machine: no memory, disks and file servers that fail, damaged lines."""

import errno
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from intarsia.config import load_config
from intarsia.errors import EXIT_FAILURE, UserError, run_command
from intarsia.files import atomic_folder, naming, read_json
from tests.faults import Recorder
from tests.training.synthetic import make_shards
from tests.training.test_data import dataset_of
from training.config import BatchShape, TrainConfig
from training.data import open_files
from training.run.faults import explain_file_errors, explain_memory_errors, gpu_memory_cures
from training.run.state import RunFolder
from training.tracking import tracker
from training.tracking.progress import start_logging
from training.tracking.tracker import RunTracker, read_metrics

ALONE, PAIR = BatchShape(4, 2, 1), BatchShape(4, 2, 2)
# What torch 2.13 says on a GPU without room, to its first advice.
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which "
    "1.02 GiB is free. Of the allocated memory 70 GiB is allocated by PyTorch. If reserved but unallocated "
    "memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)


def explained(error: BaseException, config: TrainConfig, shape: BatchShape) -> str:
    with pytest.raises(UserError) as told, explain_memory_errors(config, shape):
        raise error
    assert told.value.exit_code == EXIT_FAILURE
    assert "\n" not in str(told.value)
    return str(told.value)


def test_no_memory_on_a_gpu_names_the_cures_in_their_order(record_fault: Recorder) -> None:
    words = explained(torch.OutOfMemoryError(CUDA), TrainConfig(), PAIR)
    assert words == (
        "no memory is left on the GPU (CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
        "capacity of 79.10 GiB of which 1.02 GiB is free); try in this order micro_batch_size=2 with "
        "global_batch_size=16, then activation_checkpointing=true, then zero_stage=2, then zero_stage=3, "
        "then offload_optimizer=true; `python -m training estimate` with this config shows what each needs"
    )
    record_fault("no memory on a GPU", "one sentence with the remedies in their order")


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_other_words_for_it_are_known(said: str) -> None:
    assert explained(RuntimeError(said), TrainConfig(), ALONE).startswith("no memory is left on the GPU (")


def test_a_cure_that_is_taken_is_not_named_again_and_each_gives_a_valid_config(tmp_path: Path) -> None:
    taken = TrainConfig(micro_batch_size=1, activation_checkpointing=True, offload_optimizer=True)
    assert gpu_memory_cures(taken, BatchShape(1, 8, 1)) == []
    assert (
        explained(torch.OutOfMemoryError(CUDA), taken, BatchShape(1, 8, 1)).count("take GPUs with more") == 1
    )
    compiled = TrainConfig(compile=True, micro_batch_size=3)
    assert gpu_memory_cures(compiled, BatchShape(3, 1, 2)) == [
        "micro_batch_size=1 with global_batch_size=6",
        "activation_checkpointing=true",
        "zero_stage=2",
        "offload_optimizer=true",
    ]
    (tmp_path / "c.yaml").write_text("{}\n")
    for options in ([], ["zero_stage=0"], ["compile=true", "micro_batch_size=3"]):
        config = load_config(TrainConfig, tmp_path / "c.yaml", options)
        for cure in gpu_memory_cures(config, PAIR):
            load_config(TrainConfig, tmp_path / "c.yaml", [*options, *cure.split(" with ")])


def test_no_memory_on_the_machine_is_told_apart_and_other_errors_stay() -> None:
    for allocate in (lambda: torch.empty(10**15), lambda: np.empty(10**15)):
        with (
            pytest.raises(
                UserError, match=r"left on this machine \(.*; lower data\.num_workers or data\.open"
            ),
            explain_memory_errors(TrainConfig(), ALONE),
        ):
            allocate()
    with pytest.raises(RuntimeError, match="shapes"), explain_memory_errors(TrainConfig(), ALONE):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


# -- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, r"m\.jsonl cannot be written \(.*No space left.*\); make room and run again"),
        (errno.EDQUOT, r"m\.jsonl cannot be written \(.*quota.*\); make room and run again"),
        (
            errno.EIO,
            r"m\.jsonl cannot be read or written \(.*\); the disk or its file server has a fault: repair it",
        ),
        (
            errno.ESTALE,
            r"m\.jsonl cannot be read or written \(.*\); the file server lost the open file: run",
        ),
        (
            errno.EROFS,
            r"m\.jsonl cannot be read or written \(.*\); its file system is mounted read-only: remount",
        ),
    ],
)
def test_what_a_disk_breaks_is_told_in_a_sentence(
    tmp_path: Path, number: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError(number, os.strerror(number))
    with (
        pytest.raises(UserError, match=rf"^run={tmp_path}: {words}"),
        explain_file_errors(RunFolder(tmp_path)),
        naming("m.jsonl"),
    ):  # open already: the system names no file
        raise error
    with pytest.raises(UserError, match="a file cannot be"), explain_file_errors(RunFolder(tmp_path)):
        raise error

    def command(argv: Any) -> None:
        raise OSError(number, os.strerror(number))

    assert run_command(command, []) == EXIT_FAILURE
    assert capsys.readouterr().err.startswith("error: ")


def test_safetensors_own_words_for_it_are_understood(tmp_path: Path) -> None:
    words = r"cannot be read or written .*read-only: remount"
    with pytest.raises(UserError, match=words), explain_file_errors(RunFolder(tmp_path)):
        raise Exception(f"Error while serializing: I/O error: … (os error {errno.EROFS})")
    with pytest.raises(Exception, match="os error 2") as other, explain_file_errors(RunFolder(tmp_path)):
        save_file({"a": torch.zeros(1)}, tmp_path / "no" / "such.safetensors")
    assert not isinstance(other.value, UserError)
    with pytest.raises(PermissionError), explain_file_errors(RunFolder(tmp_path)):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_real_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Memory of a process at an address that it does not have is the one file that fails everywhere."""
    (tmp_path / "state.json").symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error") as failed:
        read_json(tmp_path / "state.json")
    assert failed.value.filename == str(tmp_path / "state.json")
    words = r"state\.json cannot be read or written \(.*Input/output error"
    with pytest.raises(UserError, match=words), explain_file_errors(RunFolder(tmp_path)):
        read_json(tmp_path / "state.json")


def test_a_folder_that_fails_half_way_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Stale") as failed, atomic_folder(tmp_path / "model", "index"):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    assert failed.value.filename == str(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


class Failing:
    """os.pread that fails so often; the file server has lost sight of what is open."""

    def __init__(self, times: int) -> None:
        self.times, self.pread = times, os.pread

    def __call__(self, *arguments: Any) -> bytes:
        if self.times:
            self.times -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self.pread(*arguments)


def test_a_shard_that_the_server_lost_sight_of_is_opened_again_and_a_second_failure_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_fault: Recorder
) -> None:
    folder = make_shards(tmp_path / "shards")
    dataset = dataset_of(folder)
    expected = dataset.sample(1, 0, 0)
    opened = list(dataset.reader.files._open)
    monkeypatch.setattr(os, "pread", Failing(1))
    assert (dataset.sample(1, 0, 0).image == expected.image).all()
    assert list(dataset.reader.files._open) == opened
    monkeypatch.setattr(os, "pread", Failing(2))
    with pytest.raises(
        UserError, match=r"^shard .*000001\.tar cannot be read \(Stale .*\); the file server lost"
    ):
        dataset.sample(1, 0, 0)
    assert (dataset.sample(1, 0, 0).image == expected.image).all()
    assert open_files.unreadable("shard x", OSError(errno.EACCES, "no")).args[0].endswith(open_files.REMEDY)
    record_fault(
        "a file server fails while a shard is open (ESTALE)",
        "the shard is opened again, once; then one sentence with its name",
    )


def test_a_log_that_cannot_be_written_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Rank:
        rank, is_main = 1, False

    start_logging(RunFolder(tmp_path), Rank())  # type: ignore[arg-type]
    log = logging.getLogger("training")
    try:
        log.info("before")
        os.close(log.handlers[0].stream.fileno())  # type: ignore[attr-defined]
        for _ in range(3):
            log.info("after")
    finally:
        log.handlers = []
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "rank-1.log cannot be written ([Errno 9] Bad file descriptor): its log ends here" in said
    assert (tmp_path / "logs" / "rank-1.log").read_text().endswith("INFO before\n")


# -- lines ---------------------------------------------------------------------------------------------

WHOLE = [{"step": step, "train/loss": 1.0} for step in (1, 2, 3)]


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    tracker.log.propagate = True
    tracker.log.parent.propagate = True  # type: ignore[union-attr]
    with caplog.at_level(logging.WARNING):
        yield caplog


def damaged(path: Path) -> bytes:
    """Three whole lines, among them a bad byte, a number, one without a step, and what a power cut leaves."""
    lines = [json.dumps(line).encode() for line in WHOLE]
    others = [b'{"step": 1, "x": "\xff"}', b"17", b'{"train/loss": 2}', b"\0" * 40]
    path.write_bytes(b"\n".join([lines[0], *others, *lines[1:]]) + b"\n")
    return path.read_bytes()


def test_a_run_goes_on_from_the_whole_lines_and_says_so_once(
    tmp_path: Path, heard: pytest.LogCaptureFixture, record_fault: Recorder
) -> None:
    folder = RunFolder(tmp_path)
    before = damaged(folder.metrics)
    RunTracker(folder, 2, None).log(3, {"train/loss": 5.0})
    assert heard.text.count("4 lines (first 2) are damaged and left out; the file as it was is metrics") == 1
    assert read_metrics(folder.metrics) == [*WHOLE[:2], {"step": 3, "train/loss": 5.0}]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == before
    heard.clear()
    RunTracker(folder, 3, None)
    assert not heard.text
    damaged(folder.metrics)
    RunTracker(folder, 3, None)
    assert (tmp_path / "metrics.jsonl.damaged1").is_file()
    record_fault(
        "`metrics.jsonl` has damaged lines",
        "the run continues with the others, warns once, and keeps a copy of the file",
    )


def test_a_damaged_event_is_left_out_too(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path)
    RunTracker(folder, 0, None)
    with folder.events.open("a") as file:
        file.write('{"step": 3}\n17\n')
    RunTracker(folder, 0, None)
    assert [record["event"] for record in read_metrics(folder.events)] == ["started", "continued"]
    assert "events.jsonl: 2 lines (first 2) are damaged and left out" in heard.text


def test_who_only_reads_says_so_and_changes_nothing(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    before = damaged(path)
    assert read_metrics(path) == WHOLE
    assert path.read_bytes() == before
    assert "4 lines (first 2) are damaged and left out" in heard.text
    path.write_text("17\n")
    assert read_metrics(path) == []
    assert "line 1 is damaged and left out" in heard.text
