"""Ranks that were given different things are refused, on all of them and at once."""

import re
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from intarsia.config import load_config
from intarsia.errors import UserError
from intarsia.model import EditModel, build_model
from tests.faults import Recorder
from tests.training.launch import forked
from tests.training.synthetic import make_shards, write_config
from training.__main__ import main
from training.config import TrainConfig
from training.model.base_hash import weights_facts
from training.ranks.distributed import World
from training.run.agreement import agree, facts_of


def pair(root: Path, only_rank_1: list[str], *overrides: str) -> tuple[int, str]:
    """Two ranks, of which the second gets overrides of its own, as by a wrapper that goes wrong on one node.

    The larger exit code, and the words of both.
    """
    common = [str(write_config(root)), f"data.shards={root / 'shards'}", f"run={root / 'run'}"]
    common += ["max_steps=1", "validation.every_steps=0", *overrides]
    ended = forked(main, [common, [*common, *only_rank_1]])
    return max(code for code, _ in ended), "".join(words for _, words in ended)


@pytest.mark.processes
def test_other_options_and_shards_are_refused_on_all_ranks_with_both_values(
    tmp_path: Path, record_fault: Recorder
) -> None:
    """Before, such a pair trained on: each rank by its own learning rate, on its own pictures."""
    make_shards(tmp_path / "shards")
    make_shards(tmp_path / "others", (16,))
    other = ["optimizer.lr=0.5", "seed=9", "micro_batch_size=2", f"data.shards={tmp_path / 'others'}"]
    began = time.monotonic()
    code, words = pair(tmp_path, other)
    assert time.monotonic() - began < 180  # starting two processes is most of it
    assert code == 1, words
    said = re.findall(r"^error: the ranks were not started for the same run: (.*)$", words, re.M)
    assert len(said) == 2  # each rank says it
    assert said[0] == said[1]
    assert re.search(r"rank 1 \([^()]+\): optimizer\.lr is 0\.5, rank 0 has 0\.001; ", said[0])
    assert re.search(r"rank 1 \([^()]+\): seed is 9, rank 0 has 3; ", said[0])
    assert re.search(r"rank 1 \([^()]+\): micro_batch_size is 2, rank 0 has 4; ", said[0])
    assert re.search(r"rank 1 \([^()]+\): the data is [0-9a-f]{12}, rank 0 has [0-9a-f]{12}; ", said[0])
    assert said[0].endswith("start all with the same command, code, libraries, data and weights")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    record_fault(
        "a rank has other options or shards",
        "all ranks end before training with rank, host, key and both values",
    )


@pytest.fixture
def networks(tmp_path: Path) -> EditModel:
    """A tiny model whose autoencoder is saved twice, the second one as another."""
    model = build_model(load_config(TrainConfig, write_config(tmp_path)).model, 0)
    model.vae.save_pretrained(tmp_path / "vae")
    model.vae.save_pretrained(tmp_path / "copied")
    model.vae.save_pretrained(tmp_path / "tuned")
    weights = tmp_path / "tuned" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 1e-3 for name, value in load_file(weights).items()}, weights)
    return model


@pytest.mark.processes
def test_other_weights_are_refused_and_other_places_are_not(
    tmp_path: Path, networks: EditModel, record_fault: Recorder
) -> None:
    make_shards(tmp_path / "shards")
    make_shards(tmp_path / "staged")
    init = f"model.init.vae={tmp_path / 'vae'}"
    code, words = pair(tmp_path, [f"model.init.vae={tmp_path / 'tuned'}"], init)
    assert code == 1
    expected = (
        r"rank 1 \([^()]+\): the weights of vae is [0-9a-f]{12}, rank 0 has [0-9a-f]{12}; start all with"
    )
    assert len(re.findall(expected, words)) >= 2, words
    own = [f"model.init.vae={tmp_path / 'copied'}", f"data.shards={tmp_path / 'staged'}"]
    own += [f"data.cache_dir={tmp_path / 'cache'}", "data.open_shards=3", "data.num_workers=1"]
    code, words = pair(tmp_path, own, init)
    assert code == 0, words
    record_fault(
        "a rank has other initial weights",
        "all ranks end before training; another location of the same files is accepted",
    )


class TwoRanks(World):
    """Rank 1, and what rank 0 says."""

    def from_main(self, value: object) -> object:
        return dict(value, torch="2.12.1") | {"the code": "0" * 12}  # type: ignore[call-overload]

    def gather(self, value: object) -> list[object]:
        return [[], value]


def test_other_code_and_libraries_are_differences_too(tmp_path: Path) -> None:
    config, shards = load_config(TrainConfig, write_config(tmp_path)), []
    facts = facts_of(config, shards)
    agree(World(0, 1, torch.device("cpu")), facts)
    with pytest.raises(UserError) as refused:
        agree(TwoRanks(1, 2, torch.device("cpu")), facts)
    ours = torch.__version__
    assert re.search(
        rf"\): torch is {re.escape(ours.partition('+')[0])}\S*, rank 0 has 2\.12\.1", str(refused.value)
    )
    assert re.search(r"\): the code is [0-9a-f]{12}, rank 0 has 0{12};", str(refused.value))
    assert {"Python", "numpy", "optimizer.lr", "model.unet.in_channels"} <= facts.keys()
    assert not {"data.shards", "data.num_workers", "model.init.vae"} & facts.keys()


def test_a_few_values_of_each_weight_tell_other_weights_apart(tmp_path: Path, networks: EditModel) -> None:
    config = load_config(TrainConfig, write_config(tmp_path), [f"model.init.vae={tmp_path / 'vae'}"])
    before = weights_facts(networks, config)
    assert set(before.values()) == {"random", before["the weights of vae"]}
    networks.vae.to(memory_format=torch.channels_last)
    with torch.no_grad():
        networks.unet.conv_in.weight += 1  # began at random
    assert weights_facts(networks, config).keys() == before.keys()
    with torch.no_grad():
        networks.vae.decoder.conv_out.bias[0] += 1e-6
    assert weights_facts(networks, config)["the weights of vae"] != before["the weights of vae"]
