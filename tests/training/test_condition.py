"""Conditions of several tokens: one that nothing of ours knows, and the exemplar's class and patches."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from intarsia.architecture import CONDITIONS
from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.files import read_json
from intarsia.model import EditModel, build_model
from intarsia.original import to_original
from intarsia.weights import read_model
from sampling.editing import edit
from sampling.methods.run_inversion import invert_picture
from sampling.settings import EditSettings, InversionSettings
from tests.extending import write_example
from tests.processes import starts_processes
from tests.sampling.tiny import request
from tests.training.launch import Runs, largest_difference, launch
from tests.training.stored import store
from tests.training.synthetic import LR, SAME_LOSS, make_shards, write_config
from training.config import TrainConfig
from training.estimate.counting import count
from training.model.build import choose_trained

FOUR = "model.condition=four"
PATCHES, MAPS = "patches", "maps"
KINDS = {
    PATCHES: ["model.exemplar.tokens=class+patches"],
    MAPS: ["model.structure.maps=[edges]", "objective.compose=true"],
}
STEPS = 4
FEW = EditSettings(num_inference_steps=2, guidance_scale=3)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example of docs/extending.md as a module that can be imported, here and in other processes."""
    folder = tmp_path_factory.mktemp("four")
    write_example(folder, "four", "intarsia/conditions/four.py", "intarsia/architecture.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        importlib.import_module("four")
        yield folder
    CONDITIONS.pop("four")
    sys.modules.pop("four")


@pytest.fixture(scope="module")
@starts_processes
def runs(four: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs `whole`, `resumed` (stopped after two steps) and `stored` (from stored latents) of four tokens.

    Of class and patches: PATCHES, PATCHES-resumed, and PATCHES-zero1 … zero3. Of structure maps and a
    composed input: MAPS, MAPS-resumed, MAPS-stored and MAPS-zero1 … zero3.
    """
    root = tmp_path_factory.mktemp("runs")
    config, shards = write_config(root), make_shards(root / "shards")
    common = [
        f"data.shards={shards}",
        f"max_steps={STEPS}",
        "preview={every_steps: 2, num_images: 2, num_inference_steps: 2}",
        "validation={every_steps: 4, num_samples: 4}",
    ]

    def job(name: str, *options: str, **more: object) -> dict[str, object]:
        overrides = [*common, *KINDS.get(name.partition("-")[0], [FOUR]), f"run={root / name}", *options]
        return {"config": str(config), "overrides": overrides, "imports": ["four"], **more}

    with pytest.MonkeyPatch.context() as patch:
        for kind in ([FOUR], KINDS[MAPS]):
            store(load_config(TrainConfig, config, [*common, *kind, "data.latents=true"]), patch)
    jobs = [job("whole"), job("resumed", stop_after=2), job("resumed"), job("stored", "data.latents=true")]
    for kind in KINDS:
        jobs += [job(kind), job(f"{kind}-resumed", stop_after=2), job(f"{kind}-resumed")]
    jobs += [job(f"{MAPS}-stored", "data.latents=true")]
    jobs += [job(f"{kind}-zero{stage}", f"zero_stage={stage}") for kind in KINDS for stage in (1, 2, 3)]
    launch(root, "four", jobs, path=four)
    return Runs(root)


def query_and_key(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: value for name, value in weights.items() if ".attn2.to_q." in name or ".attn2.to_k." in name
    }


def test_query_and_key_learn(runs: Runs) -> None:
    config = load_config(TrainConfig, runs.root / "tiny.yaml", [FOUR])
    before = query_and_key(build_model(config.model, config.seed).unet.state_dict())
    after = query_and_key(runs.weights("whole"))
    assert before
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_a_resume_is_exact_and_stored_features_train_alike(runs: Runs) -> None:
    assert runs.losses("resumed") == runs.losses("whole")
    assert runs.losses("stored") == pytest.approx(runs.losses("whole"), rel=1e-2)  # latents stored in 16 bits
    for name, value in runs.weights("whole").items():
        assert torch.equal(value, runs.weights("resumed")[name])


def test_class_and_patches_resume_exactly_and_train_alike_at_each_stage(runs: Runs) -> None:
    whole = runs.weights(PATCHES)
    assert runs.losses(f"{PATCHES}-resumed") == runs.losses(PATCHES)
    assert largest_difference(runs.weights(f"{PATCHES}-resumed"), whole) == 0
    for stage in (1, 2, 3):
        name = f"{PATCHES}-zero{stage}"
        assert runs.losses(name) == pytest.approx(runs.losses(PATCHES), rel=SAME_LOSS)
        assert largest_difference(runs.weights(name), whole) < LR / 100
    folder = runs.root / PATCHES / "model"
    assert read_json(folder / "intarsia.json") == {"exemplar": {"tokens": "class+patches"}}
    model = read_model(folder)
    assert model.exemplar_encoder.null_exemplar.shape == (1, 17, 8)
    both, alone = (edit(model, [request(n) for n in some], FEW)[0].image for some in ((1, 2), (1,)))
    assert np.abs(both.astype(int) - alone).max() <= 1, "an edit depends on its own request only"
    inverting = InversionSettings(method="negative-condition", num_inference_steps=2)
    assert invert_picture(model, request(1), inverting, EditSettings()).image.shape == request(1).image.shape


def test_maps_and_composed_input_resume_exactly_and_train_alike_at_each_stage(runs: Runs) -> None:
    whole = runs.weights(MAPS)
    assert runs.losses(f"{MAPS}-resumed") == runs.losses(MAPS)
    assert largest_difference(runs.weights(f"{MAPS}-resumed"), whole) == 0
    assert runs.losses(f"{MAPS}-stored") == pytest.approx(runs.losses(MAPS), rel=1e-2)
    for stage in (1, 2, 3):
        name = f"{MAPS}-zero{stage}"
        assert runs.losses(name) == pytest.approx(runs.losses(MAPS), rel=SAME_LOSS)
        assert largest_difference(runs.weights(name), whole) < LR / 100
    assert whole["conv_in.weight"][:, 9:].any(), "the map's weights learn"
    folder = runs.root / MAPS / "model"
    assert read_json(folder / "intarsia.json") == {"structure": {"maps": ["edges"]}, "compose": True}
    assert edit(read_model(folder), [replace(request(1), structure={"edges": "picture"})], FEW)


def test_validation_and_previews_show_the_model_with_and_without_its_maps(runs: Runs) -> None:
    last = runs.metrics(MAPS)[-1]
    for name in ("val", "val_ema"):
        assert last[f"{name}/loss"] != last[f"{name}/loss_structure"] > 0
    names = ("whole", MAPS)
    widths = []
    for name in names:
        with Image.open(runs.root / name / "previews" / f"step-{STEPS:08d}.png") as grid:
            widths.append(grid.width)
    assert widths[1] > widths[0]
    assert not any("structure" in key for key in runs.metrics("whole")[-1])


def test_it_previews_and_its_model_folder_samples_and_inverts(runs: Runs) -> None:
    assert (runs.root / "whole" / "previews" / f"step-{STEPS:08d}.png").is_file()
    folder = runs.root / "whole" / "model"
    assert read_json(folder / "intarsia.json") == {"condition": "four"}
    model = read_model(folder)
    one, other = (
        edit(model, [request(1)], EditSettings(num_inference_steps=2, guidance_scale=scale))[0].image
        for scale in (1, 5)
    )
    assert (one != other).any(), "the null tokens are not the exemplar's"
    inverting = InversionSettings(method="null-condition", num_inference_steps=2)
    result = invert_picture(model, request(1), inverting, EditSettings())
    assert result.image.shape == request(1).image.shape


def model_with(condition: str, config: Path, *overrides: str) -> tuple[EditModel, TrainConfig]:
    options = load_config(TrainConfig, config, [f"model.condition={condition}", *overrides])
    model = build_model(options.model, 0)
    choose_trained(model, options)
    return model, options


def trained(model: EditModel) -> set[str]:
    return {name for name, param in model.unet.named_parameters() if param.requires_grad}


@pytest.mark.long
def test_what_depends_on_the_number_of_tokens_asks_the_model(four: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    several, single = (trained(model_with(name, config)[0]) for name in ("four", "exemplar"))
    idle = {
        name for name in several if any(part in name for part in (".attn2.to_q", ".attn2.to_k", ".norm2."))
    }
    assert several - single == {name for name in idle if "attentions" in name}
    base = ["lora.rank=2", "model.init.model_folder=base"]
    targets = {
        name: load_config(TrainConfig, config, [f"model.condition={name}", *base]).lora
        for name in ("exemplar", "four")
    }
    assert set(targets["four"].targets) - set(targets["exemplar"].targets) == {"attn2.to_q", "attn2.to_k"}
    counts = [count(load_config(TrainConfig, config, [f"model.condition={name}"])) for name in targets]
    assert counts[1].frozen < counts[0].frozen
    assert counts[1].flops["forward"] > counts[0].flops["forward"]


def test_what_cannot_be_is_refused_in_a_sentence(runs: Runs, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with pytest.raises(UsageError, match="condition='five' is not one of exemplar, text, both, four"):
        load_config(TrainConfig, config, ["model.condition=five"])
    folder = runs.root / "whole" / "model"
    other = load_config(TrainConfig, config, [f"model.init.model_folder={folder}"])
    with pytest.raises(UserError, match="has condition=four, the model config exemplar; set"):
        build_model(other.model, 0)
    with pytest.raises(UserError, match="cannot hold a model with condition=four"):
        to_original(read_model(folder))
