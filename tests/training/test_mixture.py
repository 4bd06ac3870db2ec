"""Mixtures of data sets: shares to the position, pure functions, timesteps by data set, and old runs."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from tests.training.synthetic import make_shards, make_video_shards, write_config
from training.config import TrainConfig, may_change
from training.data.batches import SampleDataset, open_dataset
from training.data.mixture import BLOCK, MixedOrder, ShardMixture, whole_shares
from training.data.order import DataOrder
from training.objective.draws import draw_batch


def mixed(counts: list[list[int]], weights: list[float], seed: int = 5) -> MixedOrder:
    firsts = [sum(map(len, counts[:place])) for place in range(len(counts))]
    orders = [DataOrder(numbers, seed, 2) for numbers in counts]
    return MixedOrder(orders, firsts, ShardMixture(weights, seed))


@pytest.mark.parametrize("weights", [[1, 1], [0.7, 0.3], [5, 2, 1], [1e-9, 1], [1 / 3, 1 / 3, 1 / 3]])
def test_every_block_holds_the_shares(weights: list[float]) -> None:
    mixture = ShardMixture(weights, seed=1)
    for block in (0, 1, 77):
        found = Counter(mixture.locate(block * BLOCK + place)[0] for place in range(BLOCK))
        for number, weight in enumerate(weights):
            assert abs(found[number] - BLOCK * weight / sum(weights)) <= 1


def test_shares_add_up_and_are_never_nothing() -> None:
    assert whole_shares([1, 1, 1], 10) == [4, 3, 3]
    assert whole_shares([1e-9] * 4 + [1], 6) == [1, 1, 1, 1, 2]


def test_each_data_set_is_seen_once_per_epoch_of_its_own() -> None:
    order = mixed([[3, 5], [4, 0, 7]], [2, 1])
    seen: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    for position in range(3 * BLOCK):
        shard, sample = order.locate(position)
        number = 0 if shard < 2 else 1
        assert order.epoch(position) == len(seen[number]) // (8, 11)[number]
        seen[number].append((shard, sample))
    for number, total in ((0, 8), (1, 11)):
        for first in range(0, len(seen[number]) - total, total):
            assert len(set(seen[number][first : first + total])) == total


def test_the_sets_are_well_mixed() -> None:
    order = ShardMixture([1, 1], seed=3)
    sets = [order.locate(position)[0] for position in range(4 * BLOCK)]
    changes = sum(one != other for one, other in pairwise(sets))
    assert 0.45 < changes / len(sets) < 0.55


def test_a_place_depends_on_the_position_alone() -> None:
    order, other = mixed([[3, 5], [4]], [2, 1]), mixed([[3, 5], [4]], [2, 1])
    forwards = [order.locate(position) for position in range(2500)]
    assert [other.locate(position) for position in reversed(range(2500))] == forwards[::-1]


def config_of(folder: Path, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, write_config(folder), overrides)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("mixture")
    return make_shards(root / "stills"), make_video_shards(root)


def sets_of(dataset: SampleDataset, positions: range) -> list[str]:
    found = []
    for position in positions:
        item = dataset[position]
        assert isinstance(item, tuple)
        found.append(item[1].meta.source if hasattr(item[1], "meta") else "")
    return found


def test_stills_and_pairs_come_in_their_shares(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    stills, pairs = folders
    mix = f"[{{path: {stills}, weight: 0.75}}, {{path: {pairs}, weight: 0.25}}]"
    dataset = open_dataset(config_of(tmp_path, f"data.shards={mix}"))
    found = Counter(sets_of(dataset, range(400)))
    assert 60 < found["video"] < 140
    assert found["video"] + found["coco"] == 400
    frames = set()
    for position in range(400):
        item = dataset[position]
        assert isinstance(item, tuple)
        sample: Any = item[1]
        if sample.meta.exemplar_from:
            frames.add((sample.meta.frame, sample.meta.exemplar_from.frame))
            assert sample.image.shape == (32, 32, 3)
    assert len(frames) > 10  # pairs are drawn afresh


def test_without_weights_nothing_changes(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    config = config_of(tmp_path, f"data.shards={folders[0]}")
    order = open_dataset(config).order
    assert isinstance(order, DataOrder)
    positions = torch.arange(64)
    weighted = config_of(tmp_path, f"data.shards=[{{path: {folders[0]}, weight: 2}}]")
    assert draw_batch(weighted, positions).timesteps.equal(draw_batch(config, positions).timesteps)


def test_each_set_is_trained_at_its_half_of_the_timesteps(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    stills, pairs = folders
    mix = f"[{{path: {stills}, timesteps: clean}}, {{path: {pairs}, timesteps: noisy}}]"
    config = config_of(tmp_path, f"data.shards={mix}", "data.any_timesteps=0.2")
    assert config.data.shards == (str(stills), str(pairs))
    positions = torch.arange(3000)
    drawn, total = draw_batch(config, positions), config.model.noise.num_train_timesteps
    plain = draw_batch(
        config.model_copy(update={"data": config.data.model_copy(update={"timesteps": ()})}), positions
    )
    assert drawn.noise.equal(plain.noise)
    assert drawn.dropped.equal(plain.dropped)
    sets = torch.tensor([ShardMixture(config.data.weights, config.seed).locate(p)[0] for p in range(3000)])
    clean, noisy = drawn.timesteps[sets == 0], drawn.timesteps[sets == 1]
    # One in ten of each is elsewhere: half of the fifth that may be anywhere.
    assert (clean < total // 2).float().mean() == pytest.approx(0.9, abs=0.03)
    assert (noisy >= total // 2).float().mean() == pytest.approx(0.9, abs=0.03)
    own = noisy[noisy >= total // 2].float()
    assert own.mean() == pytest.approx(total * 0.75, rel=0.02)
    assert (own.min(), own.max()) <= (total * 0.51, total)
    kept = (drawn.timesteps == plain.timesteps).float().mean()
    assert kept == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.shards=[{path: a, weight: 0}]", "weight"),
        (
            "data.shards=[{path: a, wieght: 1}]",
            r"^data\.shards\[0\]: unknown key 'wieght'; did you mean 'weight'\? valid here: path, weight",
        ),
        ("data.weight=1", "^command line: unknown key 'data.weight'; did you mean 'weights'"),
        ("data={shards: [a, b], weights: [1]}", r"data\.weights has 1 values for 2 folders in data\.shards"),
        ("data={shards: [a], timesteps: [noisy]}", r"data\.timesteps needs data\.weights"),
        ("data={shards: [{path: a}], weights: [1]}", "give one"),
    ],
)
def test_a_wrong_mixture_is_refused(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        config_of(tmp_path, override)


def test_a_data_set_without_samples_has_no_share(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    empty = make_shards(tmp_path / "none", ())
    mix = f"[{{path: {folders[0]}}}, {{path: {empty}}}]"
    with pytest.raises(UserError, match=f"{empty} holds no samples, so that it can have no share"):
        open_dataset(config_of(tmp_path, f"data.shards={mix}"))


def test_shares_are_among_what_a_run_cannot_change() -> None:
    assert may_change("data.shards")  # folders may be moved
    assert not any(may_change(f"data.{name}") for name in ("weights", "timesteps", "any_timesteps"))
