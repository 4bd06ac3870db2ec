"""A rank that hangs is named, and the run ends."""

import re

from tests.training.launch import Runs, of_kind, wandb_parts
from training.ranks.watchdog import Beat, describe_stall
from training.tracking.tracker import read_metrics


def test_a_sleeping_rank_is_named_and_the_run_ends_with_1(hard_runs: Runs) -> None:
    code, _, words = (hard_runs.root / "hung.txt").read_text().partition("\n")
    assert code == "1"
    assert "error: rank 1 (host " in words
    assert re.search(
        r"at 'computing, step 2' \(many_runs.py:\d+\) has not moved for 30 s and the other", words
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
