"""Structure maps in training: their draws, the samples they come from, and what they are worth."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from intarsia.conditions.structure import structure_channels
from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.model import EditModel, build_model
from tests.training.synthetic import make_shards, write_config
from training.config import TrainConfig
from training.data.batch import Batch, collate
from training.data.batches import open_dataset
from training.data.streams import open_streams
from training.estimate.counting import count
from training.model.build import choose_trained
from training.objective.draws import Draws, draw, noise_levels
from training.objective.edit import EditTrainee, loss_of, prepare, told
from training.objective.task import Step

EDGES = "model.structure.maps=[edges]"
CPU = torch.device("cpu")


def configured(folder: Path, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, write_config(folder), overrides)


def test_maps_are_left_out_by_draws_of_their_own(tmp_path: Path) -> None:
    both = configured(tmp_path, "model.structure={maps: [edges, pose], dropout: 0.3}")
    plain = configured(tmp_path, "objective.offset_noise=0.1")
    positions = torch.arange(400)
    drawn = draw(1, positions, both.model, 0.2, 0.1)
    without = draw(1, positions, plain.model, 0.2, 0.1)
    for name in ("timesteps", "dropped", "noise", "image_noise", "masked_noise"):
        assert torch.equal(getattr(drawn, name), getattr(without, name))
    assert without.without_maps is None
    left_out = drawn.without_maps
    assert left_out is not None
    assert left_out.shape == (400, 2)
    share = left_out.float().mean(dim=0)
    assert (share - 0.3).abs().max() < 4 * (0.3 * 0.7 / 400) ** 0.5
    agree = (left_out[:, 0] == left_out[:, 1]).float().mean()
    assert abs(agree - (0.3**2 + 0.7**2)) < 4 * 0.5 / 400**0.5, "independent of each other"
    assert abs(float((left_out[:, 0] == drawn.dropped).float().mean()) - (0.06 + 0.56)) < 4 * 0.5 / 400**0.5
    some = torch.tensor([7, 3])
    again = draw(1, some, both.model, 0.2).without_maps
    assert again is not None
    assert torch.equal(again, left_out[some])


def hand_made_batch(config: TrainConfig, dataset_folder: Path, *positions: int) -> Batch:
    run = config.model_copy(
        update={"data": config.data.model_copy(update={"shards": (str(dataset_folder),)})}
    )
    dataset = open_dataset(run)
    batch = collate([dataset[position] for position in positions])
    if isinstance(batch, UserError):
        raise batch
    return batch


def test_a_map_that_is_left_out_is_no_map_and_validation_measures_both(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (6,))
    config, plain = configured(tmp_path, EDGES), configured(tmp_path)
    model = build_model(config.model, 0)
    batch, bare = hand_made_batch(config, shards, 0, 1, 2), hand_made_batch(plain, shards, 0, 1, 2)
    assert bare.structure is None
    assert batch.structure is not None
    assert batch.structure.any()
    drawn = replace(
        draw(0, batch.positions, config.model, 0.0), without_maps=torch.tensor([[True], [False], [True]])
    )
    step = prepare(model, noise_levels(config.model.noise), batch, drawn, CPU)
    no_maps = prepare(build_model(plain.model, 0), noise_levels(config.model.noise), bare, drawn, CPU)
    assert torch.equal(step.channels[:, :5], no_maps.channels)
    assert not step.channels[[0, 2], 5:].any()
    assert torch.equal(step.channels[1, 5:], batch.structure[1].float() / 255)
    ways = told(config, step)
    assert list(ways) == ["", "structure"]
    assert not ways[""].channels[:, 5:].any()
    assert torch.equal(ways[""].channels[:, :5], step.channels[:, :5])
    assert told(plain, no_maps) == {"": no_maps}


def test_another_map_comes_from_a_member_of_the_shard(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (3,))
    [tar] = shards.glob("*.tar")
    depth = configured(tmp_path, "model.structure.maps=[depth]")
    with pytest.raises(UserError, match=r"sample s0000\d has no member depth.png; add the map to every"):
        hand_made_batch(depth, shards, 0)

    def add(side: int) -> None:
        with tarfile.open(tar, "a") as file:
            for number in range(3):
                content = io.BytesIO()
                Image.fromarray(np.full((side, side), 50 + number, np.uint8)).save(content, "PNG")
                member = tarfile.TarInfo(f"s{number:05d}.depth.png")
                member.size = content.tell()
                content.seek(0)
                file.addfile(member, content)

    add(32)
    batch = hand_made_batch(depth, shards, 0, 1, 2)
    assert batch.structure is not None
    assert batch.edit_mask is not None
    for key, channels, edit_mask in zip(batch.keys, batch.structure, batch.edit_mask, strict=True):
        inside = edit_mask.reshape(16, 2, 16, 2).amin(dim=(1, 3)) == 255
        assert channels[0][inside].unique().tolist() == [50 + int(key[1:])]
    add(16)  # the later member counts
    with pytest.raises(UserError, match=r"depth.png has shape \(16, 16\), the image \(32, 32\)"):
        hand_made_batch(depth, shards, 0)


def test_streams_have_only_maps_that_are_computed(tmp_path: Path) -> None:
    fields = "fields: {image: jpg, box: json:bbox}, box_format: xyxy, box_unit: pixels"
    stream = f"data.stream={{{fields}, samples: 10}}"
    config = configured(tmp_path, stream, "model.structure.maps=[edges,depth]")
    with pytest.raises(UsageError, match=r"structure\.maps has depth, which streams do not have"):
        open_streams(config, [])


def test_the_estimate_counts_the_channel(tmp_path: Path) -> None:
    plain = configured(tmp_path)
    with torch.device("meta"):
        model = EditModel(plain.model)
        choose_trained(model, plain)
    without = sum(param.numel() for param in model.parameters() if param.requires_grad)
    assert count(configured(tmp_path, EDGES)).trained - without == 8 * 9


@pytest.mark.portable
@pytest.mark.whole
def test_after_200_steps_the_map_is_worth_half_of_the_masked_error(tmp_path: Path) -> None:
    """Pictures whose hole shows a random colour in each cell, which noise of t = 400 hides and the map shows.

    Seen: an error of .05 with the map and .67 without.
    """
    config = configured(
        tmp_path, "model.structure.maps=[pose]", "model.vae.scaling_factor=1", "exemplar_dropout=0"
    )
    model = build_model(config.model, 0)
    trainee = EditTrainee(model)
    optimizer = torch.optim.AdamW((p for p in trainee.parameters() if p.requires_grad), 0.01)
    for number in range(200):
        step = at_400(model, config, coloured(config, 8, seed=number))
        loss_of(trainee(step), step).backward()
        optimizer.step()
        optimizer.zero_grad()
    batch = coloured(config, 64, seed=1000)
    with torch.no_grad():
        errors = []
        for left_out in (False, True):
            step = at_400(model, config, batch, torch.full((64, 1), left_out))
            missed = (trainee(step) - step.target).square().mean(dim=1, keepdim=True)
            errors.append(float((missed * batch.stored["mask"]).sum() / batch.stored["mask"].sum()))
    assert errors[1] >= 1.5 * errors[0]


def coloured(config: TrainConfig, number: int, seed: int) -> Batch:
    """Stored latents that are the picture's own colours, one pixel of 2 x 2 in each cell, and their mean."""
    cells = np.random.default_rng(seed).integers(0, 256, (number, 16, 16, 3), np.uint8)
    hole = np.zeros((number, 16, 16), np.uint8)
    hole[:, 4:12, 4:12] = 255
    cells[hole == 0] = 128
    pictures, masks = (part.repeat(2, axis=1).repeat(2, axis=2) for part in (cells, hole))
    maps = [
        structure_channels(config.model, {"pose": picture}, picture, mask)
        for picture, mask in zip(pictures, masks, strict=True)
    ]
    mask = torch.from_numpy(hole)[:, None] / 255
    colours = torch.from_numpy(cells).permute(0, 3, 1, 2) / 42.5 - 3
    latents = torch.cat([colours, colours.mean(dim=1, keepdim=True)], dim=1)
    stored = {
        "image": torch.stack([latents, torch.zeros_like(latents)], dim=1),
        "masked": torch.stack([latents * (1 - mask), torch.zeros_like(latents)], dim=1),
        "mask": mask,
        "features": torch.zeros(number, 16),
    }
    first = seed * number
    keys, positions = [""] * number, torch.arange(first, first + number)
    shown = torch.from_numpy(np.stack(maps))
    return Batch(positions, keys, None, None, None, stored, structure=shown)


def at_400(model: EditModel, config: TrainConfig, batch: Batch, left_out: Tensor | None = None) -> Step:
    draws: Draws = draw(config.seed, batch.positions, config.model, 0.0)
    draws = replace(draws, timesteps=torch.full_like(draws.timesteps, 400))
    if left_out is not None:
        draws = replace(draws, without_maps=left_out)
    return prepare(model, noise_levels(config.model.noise), batch, draws, CPU)
