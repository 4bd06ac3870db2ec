"""A sample that gives no finite number: no rank takes that step, the run goes on, and the sample is named."""

import json

import pytest
import torch

from tests.training.conftest import BAD, STAGES
from tests.training.launch import Runs, numbers, of_kind, wandb_parts
from tests.training.synthetic import SAME_LOSS
from training.tracking.tracker import read_metrics

STEPS = 4


def skipped_steps(hard_runs: Runs, name: str) -> list[int]:
    counts = [0, *(record["train/skipped"] for record in hard_runs.metrics(name))]
    return [step for step in range(1, STEPS + 1) if counts[step] > counts[step - 1]]


def test_the_sample_comes_once_per_epoch_of_two_steps(hard_runs: Runs) -> None:
    assert len(skipped_steps(hard_runs, "stage0")) == 2


@pytest.mark.parametrize("name", [*STAGES, "pair0", "pair2"])
def test_a_skipped_step_changes_nothing_but_the_position(hard_runs: Runs, name: str) -> None:
    for step in skipped_steps(hard_runs, name):
        if step > 1:
            folders = [hard_runs.root / name / "checkpoints" / f"step-{n:08d}" for n in (step - 1, step)]
            before, after = map(numbers, folders)
            assert all(torch.equal(before[key], after[key]) for key in before)
            states = [json.loads((folder / "state.json").read_text()) for folder in folders]
            assert states[1]["position"] == states[0]["position"] + 4
            assert states[1]["skipped"] == states[0]["skipped"] + 1


@pytest.mark.parametrize("name", [*STAGES, "pair0", "pair2"])
def test_all_stages_and_ranks_skip_the_same_steps_and_agree_on_the_others(hard_runs: Runs, name: str) -> None:
    assert skipped_steps(hard_runs, name) == skipped_steps(hard_runs, "stage0")
    ours, theirs = ([loss for loss in hard_runs.losses(n) if loss is not None] for n in (name, "stage0"))
    assert ours == pytest.approx(theirs, rel=SAME_LOSS)
    assert len(ours) == STEPS - 2


def test_a_resume_after_a_skipped_step_is_exact(hard_runs: Runs) -> None:
    assert hard_runs.metrics("resumed")[-1]["train/skipped"] == 2
    assert hard_runs.losses("resumed") == hard_runs.losses("stage1")
    ours, theirs = hard_runs.weights("resumed"), hard_runs.weights("stage1")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", ["stage1", "pair2", "resumed"])
def test_the_samples_of_skipped_steps_are_written_down_once(hard_runs: Runs, name: str) -> None:
    lines = [json.loads(line) for line in (hard_runs.root / name / "skipped.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == skipped_steps(hard_runs, name)
    assert all(line["suspects"] == [BAD] and len(line["samples"]) == 4 for line in lines)


@pytest.mark.parametrize("name", ["stage1", "pair2", "ended"])
def test_each_skipped_step_is_an_event(hard_runs: Runs, name: str) -> None:
    events = read_metrics(hard_runs.root / name / "events.jsonl")
    expected = skipped_steps(hard_runs, "stage0")[: 1 if name == "ended" else None]
    assert [event["step"] for event in events if event["event"] == "skipped"] == expected


def test_it_is_an_alert_in_wandb_even_where_it_ends_the_run(hard_runs: Runs) -> None:
    [records] = wandb_parts(hard_runs.root / "ended")
    [alert] = of_kind(records, "alert")
    assert alert["title"] == "ended: NaN"
    assert alert["text"].startswith(f"step {skipped_steps(hard_runs, 'stage0')[0]}: no finite gradient")


def test_too_many_in_a_row_end_the_run_with_the_samples_name(hard_runs: Runs) -> None:
    """The sentence is held by the run's `fails`; nothing after that step was done."""
    assert not (hard_runs.root / "ended" / "finished.json").exists()
    assert len(hard_runs.metrics("ended")) == skipped_steps(hard_runs, "stage0")[0] - 1
