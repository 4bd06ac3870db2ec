"""A rank that hangs is named, and the run ends."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import Recorder
from tests.paths import ROOT
from tests.training.launch import Runs, of_kind, wandb_parts
from training.ranks.watchdog import Beat, describe_stall
from training.tracking.tracker import read_metrics


def test_a_sleeping_rank_is_named_and_the_run_ends_with_1(hard_runs: Runs) -> None:
    code, _, words = (hard_runs.root / "hung.txt").read_text().partition("\n")
    assert code == "1"
    assert "error: rank 1 (host " in words
    assert re.search(
        r"at 'computing, step 2' \(many_runs.py:\d+\) has not moved for 15 s and the other", words
    )
    logs = "".join(path.read_text() for path in (hard_runs.root / "hung" / "logs").iterdir())
    assert "noting_draw" in logs  # the stack of the function that sleeps
    last = read_metrics(hard_runs.root / "hung" / "events.jsonl")[-1]
    assert last["event"] == "stalled"
    assert last["text"].startswith("rank 1 (host ")


def test_it_is_an_alert_in_wandb_although_the_process_ended_at_once(hard_runs: Runs) -> None:
    [records] = wandb_parts(hard_runs.root / "hung")
    [alert] = of_kind(records, "alert")
    assert alert["title"] == "hung: run stalled"
    assert "rank 1 (host " in alert["text"]


def test_all_ranks_in_the_same_place_are_said_to_be_so() -> None:
    beats = [Beat(0, 7, "computing, step 3", "a"), Beat(1, 7, "computing, step 3", "b")]
    assert describe_stall(beats, 60).startswith(
        "no rank has moved for 60 s, all stand at 'computing, step 3'"
    )


def test_several_ranks_behind_are_all_named() -> None:
    beats = [Beat(0, 7, "x", "a"), Beat(1, 6, "loading data, step 3", "b"), Beat(2, -1, "start", "unknown")]
    assert describe_stall(beats, 60).startswith("rank 2 (host unknown) at 'start' has not moved for 60 s")


def test_of_ranks_in_the_same_place_the_one_in_no_collective_call_is_named() -> None:
    beats = [Beat(rank, 7, "computing, step 3", "a", waiting=rank != 1) for rank in range(3)]
    assert describe_stall(beats, 60).startswith("rank 1 (host a) at 'computing, step 3' has not moved")


# As with NCCL: a collective call returns at once, and the rank waits where it asks for the answer.
LIKE_NCCL = """
import logging, os, sys, time
from pathlib import Path
import torch
import torch.distributed as dist
from training.ranks import watchdog

def wait_for_the_gpu(tensor):
    time.sleep(1000)

torch.Tensor.item = wait_for_the_gpu
rank = int(os.environ["RANK"])
watchdog.log.addHandler(logging.FileHandler(Path(sys.argv[1]) / f"rank-{rank}.log"))
dist.init_process_group("gloo")
control = dist.new_group(backend="gloo")
dog = watchdog.Watchdog(rank, 2, 12)
gradient = torch.ones(3)
for step in range(1, 4):
    dog.at(f"computing, step {step}")
    for bucket in range(2):
        if (rank, step, bucket) == (1, 3, 1):
            time.sleep(1000)  # hangs, between two exchanges of the same place
        exchange = dist.all_reduce(gradient, async_op=True)
        if step < 3:
            exchange.wait()
    dist.barrier(group=control) if step < 3 else gradient.sum().item()
"""


@pytest.mark.processes
def test_a_rank_that_hangs_is_named_though_the_others_wait_for_their_gpus(
    tmp_path: Path, record_fault: Recorder
) -> None:
    """Before, both stood at the same place and neither in a collective call: no rank could be named."""
    (tmp_path / "like_nccl.py").write_text(LIKE_NCCL)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, str(tmp_path / "like_nccl.py"), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stderr
    words = (
        r"error: rank 1 \(host \S+\) at 'computing, step 3' \(like_nccl\.py:\d+\) has not moved for 12 s and"
    )
    assert re.search(words, run.stderr), run.stderr
    assert "no rank has moved" not in run.stderr
    exchanges = json.loads((tmp_path / "rank-0.exchanges.json").read_text())["entries"]
    assert sum(entry["profiling_name"] == "gloo:all_reduce" for entry in exchanges) == 6
    assert "wait_for_the_gpu" in (tmp_path / "rank-0.log").read_text()
    record_fault(
        "a rank hangs while the others wait in `.item()`, as with NCCL",
        "all ranks end with a sentence that names it, its host, place and line of code",
    )
