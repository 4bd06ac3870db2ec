"""The task noised-clip: its loss by groups, its runs, and what they leave for guidance."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from intarsia.conditions.noised import WEIGHTS, read_noised
from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.model import build_model
from intarsia.model_folder import NOISED_ENCODER
from intarsia.weights import read_model, save_model
from sampling.denoise.machine import open_model
from sampling.editing import edit
from sampling.settings import EditSettings, MachineSettings
from tests.processes import starts_processes
from tests.sampling.tiny import request
from tests.training.launch import Runs, largest_difference, launch
from tests.training.synthetic import LR, SAME_LOSS, make_shards, write_config
from tests.training.test_text import TOWER
from training.config import TrainConfig
from training.objective.noised import contrast_errors

MODELS = {"model": [], "both": ["model.condition=both", TOWER]}
NOISED = ["task=noised-clip", "model.noised={size: toy, patch: 4, dim: 8, group: 2}"]
FEW = EditSettings(num_inference_steps=3, scheduler="ddim")


@pytest.fixture(scope="module")
@starts_processes
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs `whole`, `resumed` (stopped after two steps), and `elastic`, begun by two ranks at stage 2.

    `prompts` and `prompts-resumed` are told exemplar and prompt, and compare with both.
    """
    root = tmp_path_factory.mktemp("noised")
    config, shards = write_config(root), make_shards(root / "shards")
    for name, told in MODELS.items():
        save_model(build_model(load_config(TrainConfig, config, told).model, 5), root / name)
    common = [
        f"data.shards={shards}",
        f"model.init.model_folder={root / 'model'}",
        "global_batch_size=4",
        "validation={every_steps: 4, num_samples: 4}",
    ]

    def job(name: str, *options: str, **more: object) -> dict[str, object]:
        return {
            "config": str(config),
            "overrides": [*common, *NOISED, f"run={root / name}", *options],
            **more,
        }

    launch(root, "pair", [job("elastic", "micro_batch_size=2", "zero_stage=2", stop_after=2)], ranks=2)
    both = [*MODELS["both"], f"model.init.model_folder={root / 'both'}", "model.noised.condition=both"]
    jobs = [job("whole"), job("resumed", stop_after=2), job("resumed"), job("elastic", "micro_batch_size=2")]
    jobs += [
        job("prompts", *both),
        job("prompts-resumed", *both, stop_after=2),
        job("prompts-resumed", *both),
    ]
    launch(root, "alone", jobs)
    return Runs(root)


def weights(runs: Runs, name: str) -> dict[str, torch.Tensor]:
    return load_file(runs.root / name / "noised" / WEIGHTS)


def test_a_sample_has_one_loss_in_any_micro_batch() -> None:
    rng = torch.Generator().manual_seed(0)
    seen, known = torch.randn(2, 32, 8, generator=rng)

    def errors(size: int) -> torch.Tensor:
        parts = zip(seen.split(size), known.split(size), strict=True)
        groups = [(a.unflatten(0, (-1, 4)), b.unflatten(0, (-1, 4))) for a, b in parts]
        return torch.cat([contrast_errors((a @ b.transpose(1, 2))[None]) for a, b in groups])

    assert torch.allclose(errors(32), errors(8), rtol=1e-6)
    assert torch.allclose(errors(32), errors(4), rtol=1e-6)


def test_right_pairs_cost_nothing_and_equal_ones_the_logarithm_of_the_group() -> None:
    assert contrast_errors(100 * torch.eye(4)[None, None]).max() < 1e-6
    assert torch.allclose(contrast_errors(torch.ones(1, 1, 4, 4)), torch.tensor(4.0).log())


def test_a_run_goes_on_bit_for_bit_and_with_other_ranks_to_rounding(runs: Runs) -> None:
    assert runs.losses("resumed") == runs.losses("whole")
    assert largest_difference(weights(runs, "resumed"), weights(runs, "whole")) == 0
    assert runs.losses("elastic") == pytest.approx(runs.losses("whole"), rel=SAME_LOSS)
    assert largest_difference(weights(runs, "elastic"), weights(runs, "whole")) < LR / 100
    assert runs.metrics("whole")[-1]["val/loss"] > 0


def test_a_run_with_prompts_goes_on_bit_for_bit_and_its_folder_guides_by_either(runs: Runs) -> None:
    assert runs.losses("prompts-resumed") == runs.losses("prompts") != runs.losses("whole")
    assert largest_difference(weights(runs, "prompts-resumed"), weights(runs, "prompts")) == 0
    plain = read_model(runs.root / "both")
    guided, _ = open_model(
        runs.root / "both", MachineSettings(device="cpu", noised_clip=runs.root / "prompts" / "noised")
    )
    strong = FEW.model_copy(update={"clip_guidance": 50.0})
    for own in (replace(request(1), prompt=""), replace(request(1), prompt="a dog", exemplar=None)):
        [expected], [changed] = edit(plain, [own], FEW), edit(guided, [own], strong)
        assert (changed.image != expected.image).any()


def test_the_folder_guides_edits_of_its_model_alone(runs: Runs, tmp_path: Path) -> None:
    folder, base = runs.root / "whole" / "noised", runs.root / "model"
    assert {path.name for path in folder.iterdir()} == {NOISED_ENCODER, WEIGHTS, "README.md"}
    card = (folder / "README.md").read_text()
    assert "--noised-clip" in card
    assert "Finds the exemplar" in card and "dropout" not in card and "Repaints" not in card
    plain = read_model(base)
    guided, _ = open_model(base, MachineSettings(device="cpu", noised_clip=folder))
    [expected], [idle] = (edit(model, [request(1)], FEW) for model in (plain, guided))
    assert (expected.image == idle.image).all(), "without a scale it changes nothing"
    [changed] = edit(guided, [request(1)], FEW.model_copy(update={"clip_guidance": 50.0}))
    assert (changed.image != expected.image).any()
    with pytest.raises(UserError, match="clip_guidance=50 needs a noised encoder; give its folder"):
        edit(plain, [request(1)], FEW.model_copy(update={"clip_guidance": 50.0}))
    other = build_model(plain.config, 6)
    with pytest.raises(UserError, match="trained with another autoencoder or image tower than this model"):
        read_noised(folder, other)
    narrow = build_model(
        plain.config.model_copy(update={"noise": plain.config.noise.model_copy(update={"beta_end": 0.02})}), 5
    )
    with pytest.raises(UserError, match=r"was trained for a model with noise=.*train one for this model"):
        read_noised(folder, narrow)
    with pytest.raises(UserError, match=r"is not a noised encoder: it has no noised\.json"):
        read_noised(base, plain)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.noised={}"], r"model\.noised belongs to task=noised-clip"),
        (["task=noised-clip", "micro_batch_size=6"], r"must be a multiple of model\.noised\.group=4"),
        ([*NOISED, "model.noised.patch=3"], r"model\.noised\.patch=3 does not divide latents of 16 cells"),
        ([*NOISED, "preview.every_steps=5"], r"preview\.every_steps=5 has no effect with task=noised-clip"),
        ([*NOISED, "compile=true"], "compile=true has no effect with task=noised-clip"),
        ([*NOISED, "exemplar_dropout=0.1"], r"exemplar_dropout=0\.1 has no effect with task=noised-clip"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_config(TrainConfig, write_config(tmp_path), overrides)
