"""What is left out of training: named parts, and the frozen networks in half precision."""

from pathlib import Path

import pytest
import torch

from intarsia.config import load_config
from intarsia.errors import UsageError
from intarsia.model import EditModel, build_model
from intarsia.weights import read_model, save_model
from tests.training.synthetic import make_sample, write_config
from training.config import TrainConfig
from training.data.batches import collate
from training.model.build import new_model
from training.model.frozen import exact_frozen, freeze_parts
from training.objective.draws import draw_batch, noise_levels
from training.objective.edit import EditTrainee, prepare

CPU = torch.device("cpu")


def config_of(folder: Path, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, write_config(folder), overrides)


def trained(model: EditModel) -> set[str]:
    return {name for name, param in EditTrainee(model).named_parameters() if param.requires_grad}


@pytest.mark.parametrize(
    ("part", "left_out"),
    [
        ("exemplar_encoder", "exemplar_encoder."),
        ("unet.down_blocks", "unet.down_blocks."),
        ("unet.conv_in.bias", "unet.conv_in.bias"),
        ("unet.*.attn1", ".attn1."),
    ],
)
def test_a_part_is_frozen_by_its_name_and_nothing_else(tmp_path: Path, part: str, left_out: str) -> None:
    every = trained(new_model(config_of(tmp_path), CPU, False))
    rest = trained(new_model(config_of(tmp_path, f"freeze=[{part}]"), CPU, False))
    network = part.partition(".")[0]
    assert every - rest == {name for name in every if left_out in name and name.startswith(network)}
    assert every - rest


def test_unknown_parts_and_nothing_left_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"freeze=unet\.dwn: .*it has exemplar_encoder\.final_"):
        new_model(config_of(tmp_path, "freeze=[unet.dwn]"), CPU, False)
    with pytest.raises(UsageError, match=r"freeze=unet, exemplar_encoder leaves nothing to train"):
        new_model(config_of(tmp_path, "freeze=[unet, exemplar_encoder]"), CPU, False)


def test_freezing_tells_how_many_weights(tmp_path: Path) -> None:
    trainee = EditTrainee(build_model(config_of(tmp_path).model, 0))
    null = trainee.exemplar_encoder.null_exemplar.numel()
    assert freeze_parts(trainee, ["exemplar_encoder.null_exemplar"]) == null
    assert freeze_parts(trainee, ["exemplar_encoder.null_exemplar"]) == 0


def test_the_frozen_networks_compute_in_half_precision_and_are_saved_whole(tmp_path: Path) -> None:
    config = config_of(tmp_path, "precision=bf16")
    exact = build_model(config.model, config.seed)
    model = new_model(config, CPU, is_main=True)
    assert model.vae.dtype == model.image_encoder.dtype == torch.bfloat16
    assert model.unet.dtype == torch.float32
    batch = collate([(position, make_sample(position)) for position in range(4)])
    draws, scheduler = draw_batch(config, batch.positions), noise_levels(config.model.noise)
    half, whole = (prepare(m, scheduler, batch, draws, CPU) for m in (model, exact))
    for name in ("noisy_latents", "channels", "features"):
        ours, theirs = getattr(half, name), getattr(whole, name)
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02
    with exact_frozen(model):
        save_model(model, tmp_path / "model")
    assert model.vae.dtype == torch.bfloat16
    saved = read_model(tmp_path / "model")
    for part in ("vae", "image_encoder"):
        expected = exact.get_submodule(part).state_dict()
        own = saved.get_submodule(part).state_dict()
        assert all(torch.equal(own[name], value) for name, value in expected.items())


def test_in_full_precision_nothing_is_halved(tmp_path: Path) -> None:
    model = new_model(config_of(tmp_path), CPU, is_main=True)
    assert model.vae.dtype == model.image_encoder.dtype == torch.float32
    with exact_frozen(model):
        assert model.vae.dtype == torch.float32
