"""A run goes on with other ranks and under another ZeRO stage, with the same numbers."""

import pytest
import torch
from safetensors.torch import load_file

from intarsia.errors import UserError
from intarsia.model_folder import ADAPTERS
from tests.training.conftest import SAVED
from tests.training.launch import Runs, largest_difference, numbers
from tests.training.synthetic import LR, SAME_LOSS
from training.checkpoint.folder import what_is_torn
from training.checkpoint.rank_files import Parts

STEPS, GLOBAL = 4, 8
ADAPTED = ("adapters", "adapters-whole")


@pytest.mark.parametrize("other", ["stage2-alone", "stage3-pair", "stage0-pair", "stage2-offloaded-pair"])
def test_another_stage_and_other_ranks_keep_every_bit(hard_runs: Runs, other: str) -> None:
    ours = numbers(hard_runs.root / "shrunk" / "checkpoints" / SAVED)
    theirs = numbers(hard_runs.root / other / SAVED)
    assert {key.partition("/")[0] for key in ours} == {"weight", "exp_avg", "exp_avg_sq", "ema", "ema2"}
    assert any(tensor.numel() % 2 for tensor in ours.values())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", ["shrunk", "grown", "stages"])
def test_the_curve_goes_on_to_rounding(hard_runs: Runs, name: str) -> None:
    assert hard_runs.losses(name) == pytest.approx(hard_runs.losses("whole"), rel=SAME_LOSS)
    assert len(hard_runs.losses(name)) == STEPS
    assert largest_difference(hard_runs.weights("whole"), hard_runs.weights(name)) < LR / 100


def test_adapters_go_on_at_another_stage_and_with_other_ranks(hard_runs: Runs) -> None:
    assert hard_runs.losses("adapters") == pytest.approx(hard_runs.losses("adapters-whole"), rel=SAME_LOSS)
    ours, whole = (load_file(hard_runs.root / name / "lora" / ADAPTERS) for name in ADAPTED)
    assert largest_difference(ours, whole) < LR / 100
    kept = numbers(hard_runs.root / "adapters" / "checkpoints" / "step-00000004")
    assert all(".lora_" in key for key in kept)
    assert len(kept) == 5 * len(ours)


def test_adapters_go_on_bit_for_bit_over_the_base_of_the_model_folder(hard_runs: Runs) -> None:
    assert hard_runs.losses("adapters-resumed") == hard_runs.losses("adapters-whole")
    names = ("adapters-resumed", "adapters-whole")
    ours, whole = (load_file(hard_runs.root / name / "lora" / ADAPTERS) for name in names)
    assert largest_difference(ours, whole) == 0


def test_stored_latents_go_on_at_another_stage_and_with_other_ranks(hard_runs: Runs) -> None:
    assert hard_runs.losses("stored") == pytest.approx(hard_runs.losses("stored-whole"), rel=SAME_LOSS)
    assert hard_runs.losses("stored") == pytest.approx(hard_runs.losses("whole"), abs=5e-3)  # float16
    assert hard_runs.losses("stored-whole") != hard_runs.losses("whole")


def test_many_exemplar_tokens_go_on_at_another_stage_and_with_other_ranks(hard_runs: Runs) -> None:
    assert hard_runs.losses("tokens") == pytest.approx(hard_runs.losses("tokens-whole"), rel=SAME_LOSS)
    assert largest_difference(hard_runs.weights("tokens"), hard_runs.weights("tokens-whole")) < LR / 100
    assert hard_runs.losses("tokens-whole") != hard_runs.losses("whole")


def test_low_resolution_goes_on_with_other_ranks(hard_runs: Runs) -> None:
    assert hard_runs.losses("low-res") == pytest.approx(hard_runs.losses("low-res-whole"), rel=SAME_LOSS)
    assert largest_difference(hard_runs.weights("low-res"), hard_runs.weights("low-res-whole")) < LR / 100
    assert hard_runs.losses("low-res-whole") != hard_runs.losses("whole")


@pytest.mark.parametrize("name", ["text", "both"])
def test_prompts_go_on_at_another_stage_and_with_other_ranks(hard_runs: Runs, name: str) -> None:
    whole = f"{name}-whole"
    assert hard_runs.losses(name) == pytest.approx(hard_runs.losses(whole), rel=SAME_LOSS)
    assert largest_difference(hard_runs.weights(name), hard_runs.weights(whole)) < LR / 100
    assert hard_runs.losses(whole) != hard_runs.losses("whole")


def test_prompts_go_on_bit_for_bit(hard_runs: Runs) -> None:
    assert hard_runs.losses("both-resumed") == hard_runs.losses("both-whole")
    assert largest_difference(hard_runs.weights("both-resumed"), hard_runs.weights("both-whole")) == 0


def test_compiled_blocks_go_on_at_another_stage_and_with_other_ranks(hard_runs: Runs) -> None:
    assert hard_runs.losses("compiled") == pytest.approx(hard_runs.losses("whole"), rel=SAME_LOSS)
    assert largest_difference(hard_runs.weights("whole"), hard_runs.weights("compiled")) < LR / 100


@pytest.mark.parametrize("name", ["whole", "shrunk", "grown", "stages", "stored", "compiled"])
def test_every_sample_is_seen_exactly_once(hard_runs: Runs, name: str) -> None:
    files = (hard_runs.root / f"{name}-positions").iterdir()
    seen = sorted(int(line) for file in files for line in file.read_text().split())
    assert seen == list(range(STEPS * GLOBAL))


def test_death_in_the_middle_of_a_save_leaves_the_one_before_it(hard_runs: Runs) -> None:
    """Training was in the next step by then, and the other rank had written its part."""
    left = hard_runs.root / "killed-checkpoints"
    assert sorted(path.name for path in left.iterdir()) == [".tmp-step-00000002", "latest", "step-00000001"]
    assert (left / "latest").read_text() == "step-00000001\n"
    assert what_is_torn(left / "step-00000001") is None
    parts = sorted((left / ".tmp-step-00000002").iterdir())
    assert [path.name for path in parts] == [f"part-0000{rank}-of-00002.safetensors" for rank in (0, 1)]
    with pytest.raises(UserError, match="cannot be read"):
        Parts(left / ".tmp-step-00000002")


def test_after_it_the_run_equals_the_undisturbed_one_bit_for_bit(hard_runs: Runs) -> None:
    assert hard_runs.losses("killed") == hard_runs.losses("undisturbed")
    assert largest_difference(hard_runs.weights("killed"), hard_runs.weights("undisturbed")) == 0
    folders = [hard_runs.root / name / "checkpoints" for name in ("killed", "undisturbed")]
    assert len({str(sorted(path.name for path in folder.iterdir())) for folder in folders}) == 1
