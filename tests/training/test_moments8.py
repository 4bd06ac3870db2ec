"""Moments in 8 bits: torchao's numbers, at every size, saved and loaded without a further rounding."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from tests.closeness import relative_error, rounding
from tests.processes import starts_processes
from tests.training.launch import Runs, largest_difference, launch, numbers
from tests.training.synthetic import LR, make_shards, write_config
from training.checkpoint.resume import load
from training.checkpoint.saver import Saver
from training.config import TrainConfig, batch_shape
from training.estimate.figures import estimate_run
from training.optimizer import fragments
from training.optimizer.ema import EmaAdamW
from training.optimizer.engine import make_optimizer
from training.optimizer.moments8 import BYTES, EightBitAdamW, Moment, encode
from training.option_groups import CheckpointConfig
from training.ranks.distributed import World
from training.run.state import TrainState

CPU = torch.device("cpu")
OPTIONS = {"lr": 1e-2, "weight_decay": 0.1, "fused": True}
FARTHEST = {
    True: 0.0071,
    False: 0.0036,
}  # docs/training.md: the largest change, as a share of the block's largest


def params_of(*sizes: int) -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=rng)) for size in sizes]


def train(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: int, seed: int = 1) -> None:
    rng = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=rng) * torch.rand(1, generator=rng)
        optimizer.step()


def moment_of(values: Tensor, signed: bool) -> Moment:
    moment = Moment(len(values), signed, CPU)
    moment.write(0, values)
    moment.settle()
    return moment


@pytest.mark.long
def test_the_weights_are_those_of_torchaos_own_optimizer() -> None:
    from torchao.optim import AdamW8bit

    ours, theirs = params_of(4096, 12_288, 256 * 51), params_of(4096, 12_288, 256 * 51)
    optimizer = EightBitAdamW(ours, **OPTIONS)
    with torch.compiler.set_stance("force_eager"):
        train(AdamW8bit(theirs, lr=1e-2, weight_decay=0.1), theirs, 6)
    train(optimizer, ours, 6)
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    plain = params_of(4096, 12_288, 256 * 51)
    train(EmaAdamW(plain, **OPTIONS), plain, 6)
    assert not torch.equal(plain[0], ours[0])


def test_small_tensors_and_the_last_block_are_as_in_fp32() -> None:
    ours, plain = params_of(4095, 4096 + 200, 100), params_of(4095, 4096 + 200, 100)
    optimizer = EightBitAdamW(ours, ema_decay=0.9, **OPTIONS)
    train(optimizer, ours, 6)
    train(EmaAdamW(plain, ema_decay=0.9, **OPTIONS), plain, 6)
    for place, same in enumerate((slice(0, None), slice(4096, None), slice(0, None))):
        assert torch.equal(ours[place][same], plain[place][same])
    assert not torch.equal(ours[1][:4096], plain[1][:4096])


@pytest.mark.portable
def test_averages_follow_and_an_overflow_leaves_everything_alone() -> None:
    params = params_of(5000)
    optimizer = EightBitAdamW(params, ema_decay=0.5, **OPTIONS)
    average = params[0].detach().clone()
    for update in range(4):
        train(optimizer, params, 1, seed=update)
        average.lerp_(params[0].detach(), 1 - min(0.5, (1 + update) / (10 + update)))
    assert relative_error(optimizer.state[params[0]]["ema"], average) < rounding(4)
    before = copy.deepcopy(
        (params[0].detach(), {k: vars_of(v) for k, v in optimizer.state[params[0]].items()})
    )
    optimizer.overflow = True
    train(optimizer, params, 1)
    assert str(before) == str(
        (params[0].detach(), {k: vars_of(v) for k, v in optimizer.state[params[0]].items()})
    )


def vars_of(value: Any) -> Any:
    return vars(value) if isinstance(value, Moment) else value


def blocks(signed: bool) -> Tensor:
    """Moments of many sizes: zeros, single numbers, tiny ones, and blocks whose largest is negative."""
    rng = torch.Generator().manual_seed(3)
    size = 10.0 ** torch.linspace(-14, 3, 500)[:, None]
    numbers = torch.randn(500, 256, generator=rng) ** 3 * size
    numbers[::7] *= (torch.rand(72, 256, generator=rng) < 0.01).float()
    numbers[::11, 5] = -numbers[::11].abs().amax(1) * 1.5
    return numbers if signed else numbers**2


@pytest.mark.parametrize("signed", [True, False])
def test_decoded_numbers_are_encoded_as_they_were(signed: bool) -> None:
    from torchao.optim.subclass_8bit import OptimState8bit

    trained = OptimState8bit.zeros((500 * 256,), signed=signed)
    trained.copy_(blocks(signed).view(-1))  # as an update does it
    decoded = trained.dequantize()
    codes, scales = encode(decoded.view(-1, 256), trained.qmap)
    again = trained.qmap[codes.int()] * scales[:, None]
    assert torch.equal(again.view(-1), decoded)
    theirs = OptimState8bit.zeros((500 * 256,), signed=signed)
    theirs.copy_(decoded)
    assert torch.equal(theirs.dequantize(), decoded) is not signed  # without our search


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shift", [1, 100, 255])
def test_other_borders_of_the_blocks_change_no_more_than_stated(signed: bool, shift: int) -> None:
    first = moment_of(blocks(signed).view(-1), signed)
    decoded = first.stretch().decoded()
    second = moment_of(decoded[shift:], signed).stretch().decoded()
    whole = len(second) // 256 * 256
    old, new = (numbers[:whole].view(-1, 256) for numbers in (decoded[shift:], second))
    most = old.abs().amax(1, keepdim=True).clip(1e-12)
    assert ((old - new).abs() / most).max() < FARTHEST[signed]
    assert ((old - new).abs() / most).max() > FARTHEST[signed] / 2  # the bound is near


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 0, 3, 1)])
def test_numbers_that_come_in_parts_are_encoded_like_the_whole(order: tuple[int, ...]) -> None:
    values = torch.randn(10_007, generator=torch.Generator().manual_seed(4)) * torch.linspace(0, 9, 10_007)
    ends = (0, 5, 300, 4000, 9_990, 10_007)
    moment = Moment(10_007, True, CPU)
    stretch = moment.stretch()
    for place in order:
        part = slice(ends[place], ends[place + 1])
        stretch.narrow(0, part.start, part.stop - part.start)[0 : part.stop - part.start] = values[part]
    moment.settle()
    whole = moment_of(values, True)
    assert torch.equal(moment.codes, whole.codes)
    assert torch.equal(moment.scales, whole.scales)
    assert torch.equal(moment.rest, whole.rest)
    assert torch.equal(moment.rest, values[9_984:])
    pieces = list(stretch[3:9_999].split(1000))
    assert torch.equal(torch.cat(pieces), stretch.decoded()[3:9_999])


class PlainEngine:
    """DeepSpeed's engine at stage 0, as far as saving goes."""

    device = CPU

    def __init__(self, kind: type[EmaAdamW], seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.module = nn.Linear(90, 77)
        self.optimizer = kind(self.module.parameters(), ema_decay=0.9, **OPTIONS)
        fragments.begin(self)

    def zero_optimization_stage(self) -> int:
        return 0


def saved(engine: PlainEngine, folder: Path, asynchronous: bool = True) -> Path:
    saver = Saver(folder, CheckpointConfig(asynchronous=asynchronous), World(0, 1, CPU))
    saver.start(engine, TrainState(step=3, position=0))
    saver.finish()
    return folder / "step-00000003"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_loaded_checkpoint_goes_on_bit_for_bit(tmp_path: Path, asynchronous: bool) -> None:
    engine, other = PlainEngine(EightBitAdamW), PlainEngine(EightBitAdamW, seed=1)
    train(engine.optimizer, list(engine.module.parameters()), 3)
    checkpoint = saved(engine, tmp_path, asynchronous)
    held = numbers(checkpoint)
    assert {key.partition("/")[0] for key in held} == {"weight", "exp_avg", "exp_avg_sq", "ema"}
    load(other, checkpoint, 3)
    for one in (engine, other):
        gathered = fragments.gather(one, "exp_avg", keep=True)
        assert torch.equal(gathered["weight"].flatten(), held["exp_avg/weight"])
        train(one.optimizer, list(one.module.parameters()), 3, seed=2)
    ours, theirs = (numbers(saved(one, tmp_path / str(place))) for place, one in enumerate((engine, other)))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_moments_of_fp32_are_packed_and_unpacked(tmp_path: Path) -> None:
    plain, packed, again = PlainEngine(EmaAdamW), PlainEngine(EightBitAdamW), PlainEngine(EmaAdamW)
    train(plain.optimizer, list(plain.module.parameters()), 3)
    load(packed, saved(plain, tmp_path / "plain"), 3)
    load(again, saved(packed, tmp_path / "packed"), 3)
    assert torch.equal(plain.module.weight, again.module.weight)
    for kind, signed in (("exp_avg", True), ("exp_avg_sq", False)):
        old = plain.optimizer.state[plain.module.weight][kind].flatten()
        new = again.optimizer.state[again.module.weight][kind].flatten()
        whole = len(old) // 256 * 256
        most = old[:whole].view(-1, 256).abs().amax(1, keepdim=True)
        assert ((old - new)[:whole].view(-1, 256).abs() / most).max() < FARTHEST[signed]
        assert torch.equal(old[whole:], new[whole:])


@pytest.fixture(scope="module")
@starts_processes
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs of four steps: NAME0 and NAME1 by ZeRO's stage on two ranks, the others on one."""
    root = tmp_path_factory.mktemp("eight")
    shards, config = make_shards(root / "shards"), write_config(root)
    wide = [
        "model.unet.block_out_channels=[16,32]",
        "micro_batch_size=2",
        "global_batch_size=8",
        "max_steps=4",
    ]

    def job(name: str, *overrides: str, moments: str = "8bit", **more: Any) -> dict[str, Any]:
        options = [f"data.shards={shards}", f"run={root / name}", f"optimizer.moments={moments}", *overrides]
        return {"config": str(config), "overrides": [*wide, *options], **more}

    pair = [
        job("pair0", "zero_stage=0"),
        job("pair1", "zero_stage=1"),
        job("pair2", "zero_stage=2"),
        job("resumed1", "zero_stage=1", stop_after=2),
        job("resumed1", "zero_stage=1"),
        job("shrunk", "zero_stage=1", stop_after=2),
    ]
    alone = [
        job("fp32", moments="fp32"),
        job("eight"),
        job("resumed", stop_after=2),
        job("resumed"),
        job("shrunk"),
        job("mixed", moments="fp32", stop_after=1),
        job("mixed", stop_after=1),
        job("mixed", moments="fp32"),
    ]
    launch(root, "pair", pair, ranks=2)
    launch(root, "alone", alone)
    return Runs(root)


@pytest.mark.parametrize("name", ["eight", "pair0", "pair1", "pair2", "shrunk", "mixed"])
def test_training_is_near_that_in_fp32(runs: Runs, name: str) -> None:
    assert runs.losses(name) == pytest.approx(runs.losses("fp32"), rel=0.001)
    assert len(runs.losses(name)) == 4
    assert 0 < largest_difference(runs.weights(name), runs.weights("fp32")) < 4 * LR


def test_stage_2_is_stage_1(runs: Runs) -> None:
    assert runs.losses("pair2") == pytest.approx(runs.losses("pair1"), rel=1e-4)


@pytest.mark.parametrize(("name", "whole"), [("resumed", "eight"), ("resumed1", "pair1")])
def test_a_run_on_the_same_ranks_goes_on_bit_for_bit(runs: Runs, name: str, whole: str) -> None:
    assert runs.losses(name) == runs.losses(whole)
    ours, theirs = (numbers(runs.root / one / "checkpoints" / "step-00000004") for one in (name, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("option", ["zero_stage=3", "offload_optimizer=true"])
def test_what_cannot_keep_them_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match=rf"optimizer\.moments=8bit does not go with {option}"):
        load_config(TrainConfig, write_config(tmp_path), ["optimizer.moments=8bit", option])


def test_without_torchao_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(TrainConfig, write_config(tmp_path), ["optimizer.moments=8bit"])
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(UserError, match="needs torchao, which is not installed; install it with"):
        make_optimizer(config, params_of(5))


@pytest.mark.long
def test_estimate_counts_the_bytes_that_they_have(tmp_path: Path) -> None:
    moment = Moment(256 * 400, True, CPU)
    held = sum(tensor.nbytes for tensor in (moment.codes, moment.scales, moment.rest))
    assert held == BYTES * 256 * 400
    config = load_config(TrainConfig, write_config(tmp_path), ["optimizer.moments=8bit"])
    content = estimate_run(config, batch_shape(config, 2), ["h100"], mfu=0.5)
    trained = content["weights"]["trained"]
    assert content["memory"]["0"]["moments"] == int(2 * BYTES * trained)
    assert content["memory"]["1"]["moments"] == pytest.approx(BYTES * trained, abs=8)
    assert list(content["memory"]) == ["0", "1", "2"]
    assert content["cpu_memory"]["checkpoint"] == 16 * trained // 2
