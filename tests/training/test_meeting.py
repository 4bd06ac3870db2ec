"""Ranks that meet, or do not: who is missing is said within seconds, and nobody waits for ever."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from intarsia.errors import run_command
from tests import forks
from tests.faults import Recorder
from tests.forks import Fork
from tests.paths import ROOT
from tests.training.synthetic import make_shards, write_config
from training.__main__ import main
from training.ranks import distributed, meeting
from training.ranks.meeting import strangers


def meet(arguments: list[str]) -> int:
    """Rank, size, patience and GPU of a rank that meets the others and ends."""
    meeting._SAY_AFTER_S, meeting._TRY_S = 0.5, 0.2
    rank, size, patience, *gpu = arguments

    def work(_: list[str]) -> None:
        meeting.meet(int(rank), int(size), float(patience), *gpu)
        print("met")

    return run_command(work, [])


def train(arguments: list[str]) -> int:
    """`python -m training`, which soon says whom it waits for."""
    meeting._SAY_AFTER_S = 0.5
    return main(arguments)


def begin(port: int, rank: int, size: int, patience: float, *gpu: str) -> Fork:
    environment = at(port) | {"TORCH_CPP_LOG_LEVEL": "ERROR"}
    return forks.begin(meet, [rank, size, patience, *gpu], environment)


def at(port: int) -> dict[str, str]:
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def ends(*ranks: Fork) -> list[tuple[int, str]]:
    """Exit code and all words of each."""
    ended = [rank.wait(300) for rank in ranks]
    return [(one.returncode, one.stdout + one.stderr) for one in ended]


def heard(rank: Fork, words: str) -> bool:
    """Whether a running rank says this at the beginning of a line."""
    while rank.process.is_alive():
        if re.search(rf"^{words}", rank.stderr, re.M):
            return True
        time.sleep(0.02)
    return False


def port() -> int:
    return distributed._free_port()


@pytest.mark.processes
def test_ranks_that_are_all_there_meet() -> None:
    there = port()
    found = ends(*(begin(there, rank, 3, 120, f"GPU-{rank}") for rank in range(3)))
    assert [code for code, _ in found] == [0, 0, 0]
    assert all(words.startswith("met\n") for _, words in found)


# As under srun: nobody but rank 0 keeps a store, and torch.distributed opens it once more.
def connect(_: list[str]) -> None:
    world = distributed.connect(120, 120)
    print("ranks", world.gather(world.rank), world.any(world.rank == 1))
    distributed.disconnect(world)


@pytest.mark.processes
def test_ranks_without_torchrun_go_on_to_torch_distributed() -> None:
    places = at(port()) | {"WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    ranks = [forks.begin(connect, [], places | {"RANK": str(rank)}) for rank in range(2)]
    for code, words in ends(*ranks):
        assert code == 0, words
        assert "ranks [0, 1] True" in words


@pytest.mark.processes
def test_without_rank_0_the_others_say_what_they_wait_for_and_end(record_fault: Recorder) -> None:
    there = port()
    [(code, said)] = ends(begin(there, 1, 2, 3))
    assert code == 1
    assert re.search(rf"^rank 1 has waited \d+ s for rank 0 at 127\.0\.0\.1:{there} \(.+\)$", said, re.M)
    assert re.search(
        rf"^error: rank 1 on \S+ waited 3 s for rank 0 at 127\.0\.0\.1:{there} \(.+\); start all ranks with "
        r"one launcher \(srun or torchrun\), with MASTER_ADDR and MASTER_PORT that each node can reach, or",
        said,
        re.M,
    )
    record_fault(
        "rank 0 does not start",
        "the others say what they wait for after 10 s, and end after `start_timeout_s`",
    )


@pytest.mark.processes
def test_ranks_that_do_not_come_are_named_to_all_that_did(record_fault: Recorder) -> None:
    there = port()
    early = begin(there, 1, 4, 150)
    assert heard(early, r"rank 1 has waited \d+ s for rank 0 ")
    (first, said), (second, other) = ends(begin(there, 0, 4, 4), early)
    assert (first, second) == (1, 1)
    assert re.search(r"^rank 0 has waited \d+ s for ranks 2, 3 of 4$", said, re.M)
    for words in (said, other):
        assert "error: ranks 2, 3 of 4 did not come within 4 s; start all ranks with one launcher" in words
    record_fault(
        "some ranks do not start",
        "rank 0 names them after 10 s; all that started end after `start_timeout_s` with their numbers",
    )


@pytest.mark.processes
def test_a_rank_that_was_started_twice_is_refused(record_fault: Recorder) -> None:
    there = port()
    found = ends(begin(there, 0, 3, 150), *(begin(there, 1, 3, 150) for _ in range(2)))
    assert [code for code, _ in found] == [1, 1, 1]
    assert all("error: rank 1 was started twice, the second time on " in words for _, words in found)
    record_fault("a rank is started twice", "all ranks end at once with its number")


@pytest.mark.processes
def test_a_port_in_use_is_named(record_fault: Recorder) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        there = taken.getsockname()[1]
        [(code, said)] = ends(begin(there, 0, 2, 60))
    assert code == 1
    assert f"error: port {there} of " in said
    assert (
        "is in use, so rank 0 cannot listen there; end the process that uses it, or set MASTER_PORT" in said
    )
    record_fault("the port of the ranks is in use", "one error sentence with port and host")


def test_ranks_of_another_launch_and_a_shared_gpu_are_named() -> None:
    one, other = {"host": "a", "size": 2, "gpu": "GPU-1"}, {"host": "b", "size": 4, "gpu": ""}
    assert strangers([one, other]) == "rank 1 (b) was started as one of 4 ranks, rank 0 (a) as one of 2"
    assert strangers([one, one]) == "ranks 0 and 1 (a) have the same GPU (GPU-1): start one task for each GPU"
    assert strangers([one, one | {"host": "b"}]) == ""
    assert strangers([other | {"size": 2}] * 2) == ""


@pytest.mark.processes
def test_a_training_rank_whose_launcher_is_missing_ends_within_its_patience(tmp_path: Path) -> None:
    """Before, it waited for twice distributed_timeout_s: an hour."""
    shards = make_shards(tmp_path / "shards")
    words = [write_config(tmp_path), f"data.shards={shards}", f"run={tmp_path / 'run'}", "start_timeout_s=2"]
    began = time.monotonic()
    run = forks.begin(main, words, at(port()) | {"RANK": "1", "WORLD_SIZE": "2"}).wait()
    assert run.returncode == 1, run.stderr
    assert "waited 2 s for rank 0 at 127.0.0.1:" in run.stderr
    assert "Traceback" not in run.stderr
    assert time.monotonic() - began < 150


@pytest.mark.processes
def test_a_stop_signal_ends_the_wait(tmp_path: Path) -> None:
    """Before, the flag was set and the rank waited on: only SIGKILL ended it."""
    shards = make_shards(tmp_path / "shards")
    words = [write_config(tmp_path), f"data.shards={shards}", f"run={tmp_path / 'run'}"]
    words.append("start_timeout_s=300")
    rank = forks.begin(train, words, at(port()) | {"RANK": "0", "WORLD_SIZE": "2"})
    assert heard(rank, "rank 0 has waited")
    rank.process.terminate()
    ended = rank.wait(180)
    assert ended.returncode == 75, ended.stderr
    assert "error: stopped by a signal before all ranks had met; run the same command again" in ended.stderr


# A task of `srun --gpus-per-task=1`: it sees one GPU, and its number on the node is 3. Which devices are set?
ONE_GPU = """
import os
from unittest import mock
import torch

recorded, begin = [], torch.distributed.init_process_group

def on_gloo(backend=None, **options):
    options.pop("device_id", None)
    return begin("gloo", **options)

for name, value in {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "set_device": lambda device: recorded.append(getattr(device, "index", device)),
    "get_device_properties": lambda device: mock.Mock(uuid="GPU-1"),
}.items():
    mock.patch.object(torch.cuda, name, value).start()
mock.patch.object(torch.distributed, "init_process_group", on_gloo).start()
os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="3", MASTER_ADDR="127.0.0.1")
os.environ["MASTER_PORT"] = os.environ["FREE_PORT"]

from training.ranks import distributed
world = distributed.connect()
import deepspeed
try:
    model = torch.nn.Linear(1, 1)
    deepspeed.initialize(model=model, config={"train_batch_size": 1}, dist_init_required=False)
except AssertionError:  # torch for CPUs has no such device to move the model to
    pass
print("devices", world.device, recorded, os.environ["LOCAL_RANK"])
"""


@pytest.mark.processes
def test_a_task_that_sees_one_gpu_takes_it_and_so_does_deepspeed(record_fault: Recorder) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FREE_PORT": str(port())}
    environment.pop("DS_ACCELERATOR", None)  # an earlier test that trained on CPUs leaves it in this process
    command = [sys.executable, "-c", ONE_GPU]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.splitlines()[-1:] == ["devices cuda:0 [0, 0] 0"], run.stderr
    record_fault(
        "`--gpus-per-task`: each task sees one GPU as number 0", "the task and DeepSpeed use that GPU"
    )


@pytest.mark.parametrize(("local", "visible", "expected"), [(3, 1, 0), (3, 8, 3), (0, 1, 0)])
def test_both_ways_of_binding_gpus_give_each_rank_its_own(local: int, visible: int, expected: int) -> None:
    """--gpus-per-task or --gpu-bind show each task one GPU; --gpus-per-node shows it all of them."""
    assert distributed._gpu_of(local, visible) == expected
    with pytest.raises(distributed.UserError, match=r"LOCAL_RANK=3 but this process sees 2 GPUs; start one"):
        distributed._gpu_of(3, 2)
