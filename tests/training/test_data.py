"""Shards to batches: what is read, and what is said when it cannot be."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from intarsia.errors import UserError
from tests.training.synthetic import SIZE, make_sample, make_shards
from training.config import BatchShape
from training.data.batches import Batch, SampleDataset, batches
from training.data.order import DataOrder
from training.data.reader import ShardReader
from training.data.shards import check_size, find_shards
from training.option_groups import DataConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "shards")


def dataset_of(folder: Path, size: int = SIZE, open_shards: int = 2) -> SampleDataset:
    shards = find_shards([str(folder)])
    order = DataOrder([shard.count for shard in shards], seed=1, window_shards=2)
    return SampleDataset(ShardReader(shards, open_shards), order, size, seed=1)


def change_manifest(folder: Path, **values: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def read(
    folder: Path, workers: int, shape: BatchShape, rank: int = 0, start: int = 0, steps: int = 8
) -> list[Batch]:
    span = range(start, start + steps * shape.global_batch, shape.global_batch)
    return list(batches(DataConfig(num_workers=workers), dataset_of(folder), shape, rank, span))


def test_a_batch_is_the_samples_themselves_in_uint8(folder: Path) -> None:
    batch = read(folder, 0, BatchShape(4, 1, 1), steps=1)[0]
    assert batch.image.dtype == batch.edit_mask.dtype == batch.exemplar.dtype == torch.uint8
    assert batch.image.shape == (4, SIZE, SIZE, 3)
    assert batch.exemplar.shape == (4, 224, 224, 3)
    for key, mask in zip(batch.keys, batch.edit_mask, strict=True):
        assert np.array_equal(mask.numpy(), make_sample(int(key[1:])).edit_mask)


def test_positions_run_on_from_epoch_to_epoch(folder: Path) -> None:
    keys = [key for batch in read(folder, 0, BatchShape(4, 1, 1)) for key in batch.keys]
    assert len(keys) == 32
    assert sorted(keys[:16]) == sorted(keys[16:]) == [f"s{i:05d}" for i in range(16)]


def test_a_global_batch_larger_than_the_data_set_wraps_into_the_next_epoch(folder: Path) -> None:
    batch = read(folder, 0, BatchShape(40, 1, 1), steps=1)[0]
    assert sorted(batch.keys[:16]) == sorted(batch.keys[16:32])
    assert batch.positions.tolist() == list(range(40))


def test_ranks_workers_and_start_change_nothing(folder: Path) -> None:
    whole = {
        p: k
        for b in read(folder, 0, BatchShape(4, 1, 1))
        for p, k in zip(b.positions.tolist(), b.keys, strict=True)
    }
    split: dict[int, str] = {}
    for rank in (0, 1):
        for batch in read(folder, 2, BatchShape(1, 2, 2), rank, start=8, steps=6):
            split |= dict(zip(batch.positions.tolist(), batch.keys, strict=True))
    assert split == {position: whole[position] for position in range(8, 32)}


def test_a_damaged_sample_is_named_with_its_shard_through_workers(folder: Path) -> None:
    tar = folder / "toy-train-000001.tar"
    content = tar.read_bytes()
    start = content.index(b"\xff\xd8\xff")
    tar.write_bytes(content[: start + 40] + b"\0" * 200 + content[start + 240 :])
    with pytest.raises(
        UserError, match=r"toy-train-000001\.tar: sample s00005: member image\.jpg is damaged; put it back"
    ):
        read(folder, 1, BatchShape(4, 1, 1))


def test_a_truncated_shard_is_named(folder: Path) -> None:
    tar = folder / "toy-train-000002.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(
        UserError,
        match=r"toy-train-000002\.tar.*put it back, or delete it and run the same `python -m dataprep build`",
    ):
        read(folder, 0, BatchShape(4, 1, 1))


def test_a_shard_that_holds_other_than_its_manifest_says_is_refused(folder: Path) -> None:
    shutil.copy(folder / "toy-train-000001.tar", folder / "toy-train-000002.tar")
    with pytest.raises(UserError, match="holds 4 samples, its manifest says 7"):
        read(folder, 0, BatchShape(4, 1, 1))


def test_missing_shards_and_folders_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "toy-train-000001.tar").unlink()
    with pytest.raises(UserError, match=r"toy-train-000001\.tar is missing"):
        find_shards([str(folder)])
    with pytest.raises(
        UserError, match=r"nowhere is not a finished shard folder.*`python -m dataprep build`"
    ):
        find_shards([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"several stand in brackets: data\.shards=\[A,B\]"):
        find_shards([f"{folder},{tmp_path}"])
    with pytest.raises(UserError, match=r"data\.shards names .* 2 times; name it once"):
        find_shards([str(folder), f"{folder}/"])
    with pytest.raises(
        UserError, match=r"train-000000\.tar is a single tar; give the folder, or its address"
    ):
        find_shards([f"{folder}/toy-train-000000.tar"])


def test_several_folders_are_one_data_set_unless_names_clash(folder: Path, tmp_path: Path) -> None:
    other = make_shards(tmp_path / "other", (2,))
    with pytest.raises(UserError, match=r"two shard folders hold toy-train-000000\.tar"):
        find_shards([str(folder), str(other)])
    (other / "toy-train-000000.tar").rename(other / "toy-val-000000.tar")
    (other / "manifest.json").write_text(
        json.dumps({"format_version": 1, "shardlist": [{"url": "toy-val-000000.tar", "nsamples": 2}]})
    )
    assert [shard.count for shard in find_shards([str(folder), str(other)])] == [5, 4, 7, 2]


def test_pictures_of_another_size_are_refused_with_both_remedies(folder: Path) -> None:
    remedies = "32×32, model.image_size is 64; build the shards with --image-size 64, or set model.image_size"
    item = dataset_of(folder, size=64)[0]
    assert isinstance(item, UserError)
    assert remedies in str(item)
    change_manifest(folder, config={"profile": "tuple", "image_size": SIZE})
    check_size(find_shards([str(folder)]), SIZE)
    with pytest.raises(UserError, match=remedies):  # of the manifest alone, before any model is made
        check_size(find_shards([str(folder)]), 64)
    change_manifest(folder, config={"profile": "source", "image_size": SIZE})
    check_size(find_shards([str(folder)]), 64)


def test_shards_of_another_format_version_are_refused(folder: Path) -> None:
    change_manifest(folder, format_version=2)
    with pytest.raises(UserError, match=r"data\.shards=.* has format version 2, this program reads 1; build"):
        find_shards([str(folder)])


def test_pipes_are_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="a pipe cannot be read from its middle"):
        find_shards(["pipe:curl http://example.org/shards"])


def test_whole_pictures_are_drawn_afresh_in_every_epoch_and_alike_in_every_call(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "shards", (6,), size=96)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"config": {"profile": "source"}}))
    dataset, again = dataset_of(folder, size=48), dataset_of(folder, size=48)
    first, second = ([dataset.sample(0, i, epoch) for i in range(6)] for epoch in (0, 1))
    assert all(sample.image.shape == (48, 48, 3) for sample in first + second)
    assert all((sample.edit_mask >= 128).any() for sample in first + second)
    assert any(not np.array_equal(a.edit_mask, b.edit_mask) for a, b in zip(first, second, strict=True))
    for i, sample in enumerate(second):
        assert np.array_equal(sample.edit_mask, again.sample(0, i, 1).edit_mask)
        assert np.array_equal(sample.exemplar, again.sample(0, i, 1).exemplar)


def test_few_files_stay_open(folder: Path) -> None:
    dataset = dataset_of(folder, open_shards=1)
    keys = [dataset[p][1].meta.key for p in range(16)]  # type: ignore[index]
    assert len(set(keys)) == 16
    assert len(dataset.reader.files) == 1
