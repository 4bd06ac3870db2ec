"""Stored latents: equal to what is computed online, resumed, and refused where they do not belong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from intarsia.conditioning import sample_latents
from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.model import EditModel, build_model
from intarsia.model_folder import frozen_hash
from tests.closeness import longest_sum, relative_error, rounding
from tests.training.file_server import serving
from tests.training.stored import encode_here, store
from tests.training.synthetic import make_shards, write_config
from tests.training.test_redraw import SAMPLES, dataset
from training.__main__ import main
from training.config import BatchShape, TrainConfig
from training.data.batches import Batch, SampleDataset, batches, open_dataset, use_latents
from training.data.latents import latents_folder
from training.latents.encode_shards import LatentJob, has_latents
from training.model.frozen import halve_frozen
from training.objective.draws import draw_batch, noise_levels
from training.objective.edit import EditTrainee, loss_of, prepare
from training.objective.encode import posteriors

CPU = torch.device("cpu")


def config_of(folder: Path, shards: Path | str, *overrides: str) -> TrainConfig:
    if not (folder / "tiny.yaml").exists():
        write_config(folder)
    return load_config(TrainConfig, folder / "tiny.yaml", [f"data.shards={shards}", *overrides])


def opened(config: TrainConfig, model: EditModel) -> SampleDataset:
    found = open_dataset(config)
    use_latents(config, found, model)
    return found


def first_batch(config: TrainConfig, samples: SampleDataset, size: int = 4, start: int = 0) -> Batch:
    return next(batches(config.data, samples, BatchShape(size, 1, 1), 0, range(start, start + size, size)))


def both_ways(
    config: TrainConfig, model: EditModel, size: int, start: int = 0
) -> list[dict[str, torch.Tensor]]:
    """Latents, mask and features that a step is made of, computed online and from stored latents."""
    answers = []
    for stored in (False, True):
        options = config.model_copy(update={"data": config.data.model_copy(update={"latents": stored})})
        batch = first_batch(options, opened(options, model), size, start)
        draws, seen = draw_batch(config, batch.positions), posteriors(model, batch, CPU)
        scale = config.model.vae.scaling_factor
        answers.append(
            {
                "latents": sample_latents(*seen.image.unbind(1), draws.image_noise, scale),
                "masked_image_latents": sample_latents(*seen.masked.unbind(1), draws.masked_noise, scale),
                "mask": seen.mask,
                "pooled": seen.features,
            }
        )
    return answers


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return config_of(tmp_path, make_shards(tmp_path / "shards"), "data.num_workers=0")


@pytest.fixture
def model(config: TrainConfig) -> EditModel:
    return build_model(config.model, config.seed)


@pytest.mark.portable
@pytest.mark.parametrize("start", [0, 12])
def test_stored_latents_are_the_online_ones_to_the_rounding_of_float16(
    config: TrainConfig, model: EditModel, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    store(config, monkeypatch)
    online, stored = both_ways(config, model, 16, start)
    assert online.keys() == stored.keys()
    for name in ("latents", "masked_image_latents"):
        bound = 2**-10 * (online[name].abs() + 0.18215)  # half a step of mean and of deviation × noise, twice
        assert ((online[name] - stored[name]).abs() < bound).all(), name
        assert float((online[name] - stored[name]).abs().max()) > 0
    assert torch.equal(online["mask"], stored["mask"])
    assert relative_error(stored["pooled"], online["pooled"]) < rounding(longest_sum(model.image_encoder))


def test_in_bf16_they_are_the_very_same(
    config: TrainConfig, model: EditModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = config.model_copy(update={"precision": "bf16"})
    halve_frozen(model, keep_exact=False)
    model.vae.to(memory_format=torch.channels_last)  # as it is stored and trained with: one order of sums
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several share a batch's sums in another way for each size of batch
    try:
        store(half, monkeypatch)
        online, stored = both_ways(half, model, 3)  # in the batch size that they were stored with
    finally:
        torch.set_num_threads(threads)
    assert all(
        torch.equal(online[name], stored[name]) for name in ("latents", "masked_image_latents", "mask")
    )


def test_training_takes_the_same_loss_from_them_and_no_frozen_network(
    config: TrainConfig, model: EditModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(config, monkeypatch)
    scheduler, losses = noise_levels(config.model.noise), []
    for latents in (False, True):
        options = config.model_copy(update={"data": config.data.model_copy(update={"latents": latents})})
        batch = first_batch(options, opened(options, model), 16)
        if latents:
            assert batch.image is None
            model.vae.to("meta")
            model.image_encoder.to("meta")
        draws = draw_batch(config, batch.positions)
        with torch.no_grad():
            step = prepare(model, scheduler, batch, draws, CPU)
            losses.append(float(loss_of(EditTrainee(model)(step), step)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_order_keys_and_positions_are_those_of_the_shards(
    config: TrainConfig, model: EditModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(config, monkeypatch)
    stored = config.model_copy(update={"data": config.data.model_copy(update={"latents": True})})
    with_pixels, without = open_dataset(config), opened(stored, model)
    for start in (0, 8, 20):
        a, b = (first_batch(config, samples, 8, start) for samples in (with_pixels, without))
        assert a.keys == b.keys
        assert torch.equal(a.positions, b.positions)


def test_the_same_command_again_does_what_is_missing_and_nothing_else(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, encoded = store(config, monkeypatch)
    assert encoded == [f"toy-train-{number:06d}.tar" for number in range(3)]
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert store(config, monkeypatch) == (folder, [])
    (folder / "manifest.json").unlink()
    (folder / "toy-train-000001.json").unlink()
    (folder / "toy-train-000002.safetensors").write_bytes(b"cut")
    (folder / ".toy-train-000000.safetensors.tmp-1").write_bytes(b"half")
    assert store(config, monkeypatch) == (folder, ["toy-train-000001.tar", "toy-train-000002.tar"])
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    assert after["toy-train-000000.safetensors"] == before["toy-train-000000.safetensors"]


def test_the_command_says_where_they_are_and_how_to_train_with_them(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoded = encode_here(config, monkeypatch)
    shards = config.data.shards[0]
    assert main(["cache-latents", shards, str(tmp_path / "tiny.yaml"), "data.num_workers=0"]) == 0
    assert len(encoded) == 3
    said = capsys.readouterr().err
    [folder] = Path(shards).glob("latents-*")
    assert f"latents: {folder}\n" in said
    assert f"data.shards={shards} data.latents=true" in said


def test_the_hash_follows_what_latents_depend_on(config: TrainConfig, model: EditModel) -> None:
    first = frozen_hash(model)
    with torch.no_grad():
        next(model.unet.parameters()).add_(1)
    assert frozen_hash(model) == first
    halve_frozen(model, keep_exact=True)
    assert frozen_hash(model) == first
    with torch.no_grad():
        next(model.image_encoder.parameters()).add_(1)
    second = frozen_hash(model)
    with torch.no_grad():
        next(model.vae.parameters()).add_(1)
    larger = build_model(config.model.model_copy(update={"image_size": 64}), config.seed)
    assert len({first, second, frozen_hash(model), frozen_hash(larger)}) == 4


def test_latents_of_another_model_or_none_are_refused(
    config: TrainConfig, model: EditModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config.model_copy(update={"data": config.data.model_copy(update={"latents": True})})
    remedy = r"run `python -m training cache-latents .*shards CONFIG` with this run's config"
    with pytest.raises(UserError, match=rf"holds no finished latents-[0-9a-f]{{12}} \(none\); {remedy}"):
        opened(wanted, model)
    folder, _ = store(config, monkeypatch)
    other = build_model(config.model, seed=99)
    with pytest.raises(UserError, match=rf"\(only {folder.name}, of another autoencoder, image encoder or"):
        opened(wanted, other)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"model": "0"}))
    with pytest.raises(UserError, match="is of another model or program"):
        opened(wanted, model)


def test_latents_of_a_shard_as_it_was_before_or_damaged_are_refused(
    config: TrainConfig, model: EditModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = store(config, monkeypatch)
    wanted = config.model_copy(update={"data": config.data.model_copy(update={"latents": True})})
    path = folder / "toy-train-000001.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"000001\.safetensors are missing or cut; run `python -m training"):
        opened(wanted, model)
    path.write_bytes(content)
    samples = opened(wanted, model)
    path.write_bytes(content[:3000])  # afterwards, while training
    assert any("000001.safetensors are cut" in str(samples[p]) for p in range(16))
    path.write_bytes(b"\xff" * len(content))
    assert any("000001.safetensors are damaged" in str(opened(wanted, model)[p]) for p in range(16))

    shards = Path(config.data.shards[0])
    rebuilt = make_shards(shards.parent / "rebuilt", (5, 4, 7), size=64)
    shutil.copy(rebuilt / "manifest.json", shards / "manifest.json")
    with pytest.raises(UserError, match=r"are of another toy-train-000000\.tar than the manifest of"):
        opened(wanted, model)


def test_a_damaged_shard_is_not_encoded(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = Path(config.data.shards[0]) / "toy-train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"toy-train-000001\.tar differs from its manifest; restore it"):
        store(config, monkeypatch)


def test_latents_are_read_from_a_web_server_as_from_the_folder(
    config: TrainConfig, model: EditModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store(config, monkeypatch)
    with serving(tmp_path) as server:
        remote = [f"{server.address}/shards", "data.num_workers=0", f"data.cache_dir={tmp_path / 'cache'}"]
        wanted = config_of(tmp_path, *remote, "data.latents=true")
        batch = first_batch(wanted, opened(wanted, model), 8)
        assert not any(name.endswith(".tar") for name in server.requests)  # no pixel is needed
        with pytest.raises(UsageError, match="give a folder of this machine"):
            store(wanted, monkeypatch)
    local = config.model_copy(update={"data": config.data.model_copy(update={"latents": True})})
    expected = first_batch(local, opened(local, model), 8)
    assert all(torch.equal(batch.stored[name], expected.stored[name]) for name in expected.stored)


@pytest.mark.portable
def test_crops_with_fresh_masks_use_the_latents_of_their_pictures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(tmp_path / "shards", "tuple", None)
    config = config_of(
        tmp_path, tmp_path / "shards", "data.num_workers=0", "data.redraw=true", "model.image_size=64"
    )
    model = build_model(config.model, config.seed)
    store(config, monkeypatch)
    for start in (0, SAMPLES):
        online, stored = both_ways(config, model, SAMPLES, start)
        assert torch.allclose(online["latents"], stored["latents"], atol=2e-3)
        assert not torch.equal(online["latents"], stored["latents"])
        for name in ("masked_image_latents", "pooled"):
            assert relative_error(stored[name], online[name]) < rounding(longest_sum(model)), name


def test_whole_pictures_are_stored_as_data_prep_drew_them_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(tmp_path / "shards", "source", None)
    options = ["data.num_workers=0", "model.image_size=64"]
    fresh = config_of(tmp_path, tmp_path / "shards", *options, "data.latents=true")
    with pytest.raises(UsageError, match=r"set data\.redraw=false, or data\.latents=false"):
        open_dataset(fresh)
    with pytest.raises(UsageError, match=r"set data\.redraw=false"):
        store(fresh, monkeypatch)
    drawn = config_of(tmp_path, tmp_path / "shards", *options, "data.latents=true", "data.recipe=pbe")
    remedy = r"set data\.recipe=null and data\.redraw=false, or data\.latents=false"
    with pytest.raises(UsageError, match=remedy):
        open_dataset(drawn)
    config_of(tmp_path, tmp_path / "shards", "data.recipe=null", "data.redraw=false")  # is a valid remedy
    baked = config_of(tmp_path, tmp_path / "shards", *options, "data.redraw=false")
    store(baked, monkeypatch)
    online, stored = both_ways(baked, build_model(baked.model, baked.seed), SAMPLES)
    assert torch.allclose(online["latents"], stored["latents"], atol=2e-3)
    assert torch.equal(online["mask"], stored["mask"])


def test_any_reader_of_safetensors_reads_them(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import safe_open

    folder, _ = store(config, monkeypatch)
    with safe_open(folder / "toy-train-000000.safetensors", "np") as file:
        assert json.loads(file.metadata()["keys"]) == [f"s{number:05d}" for number in range(5)]
        assert {name: file.get_tensor(name).shape for name in file.keys()} == {  # noqa: SIM118 - no mapping
            "image": (5, 2, 4, 16, 16),
            "masked": (5, 2, 4, 16, 16),
            "mask": (5, 1, 16, 16),
            "pooled": (5, 16),
        }
        assert file.get_tensor("image").dtype == np.float16
        assert (file.get_tensor("image")[:, 1] > 0).all()  # deviations


def test_an_empty_shard_has_empty_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path, make_shards(tmp_path / "shards", (3, 0)), "data.num_workers=0")
    store(config, monkeypatch)
    wanted = config.model_copy(update={"data": config.data.model_copy(update={"latents": True})})
    batch = first_batch(wanted, opened(wanted, build_model(config.model, config.seed)), 3)
    assert sorted(batch.keys) == ["s00000", "s00001", "s00002"]


def test_what_is_complete_is_judged_by_networks_content_and_size(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = store(config, monkeypatch)
    digest = json.loads((folder / "manifest.json").read_text())["model"]
    assert folder == Path(latents_folder(config.data.shards[0], digest)).resolve()
    shard = open_dataset(config).reader.shards[0]
    job = LatentJob(shard, str(folder), digest, 3)
    assert has_latents(job)
    assert not has_latents(replace(job, digest="0"))
    assert not has_latents(replace(job, shard=replace(shard, sha256="0")))
    assert not has_latents(replace(job, shard=replace(shard, count=9)))
