"""Switches for speed: off they are off, and on they give the same numbers, or the same to rounding."""

from pathlib import Path

import pytest
import torch
from torch import nn

from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.model import build_model
from tests.closeness import longest_sum, relative_error, rounding
from tests.processes import starts_processes
from tests.training.launch import Runs, launch
from tests.training.synthetic import make_shards, write_config
from training.config import BatchShape, TrainConfig, may_change
from training.data.batches import open_dataset
from training.model.build import new_model
from training.model.speed import compile_frozen, compute_in_fp8, halve_norms
from training.objective.draws import draw_batch
from training.objective.preparation import Preparation
from training.optimizer.engine import deepspeed_config
from training.option_groups import SpeedConfig

CPU = torch.device("cpu")
SAME = ["draws_in_workers", "encode_ahead", "pin_memory", "foreach_averages", "tf32", "cudnn_benchmark"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def config_of(folder: Path, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, write_config(folder), overrides)


@pytest.fixture(scope="module")
@starts_processes
def runs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run of four steps for each switch of SAME, one with all, and `plain`."""
    root = tmp_path_factory.mktemp("runs")
    config = write_config(root)
    named = {name: [f"speed.{name}=true"] for name in SAME}
    named |= {"plain": [], "all": [f"speed.{name}=true" for name in SAME]}
    common = [f"data.shards={shards}", "max_steps=4", "data.num_workers=1", "grad_accum_steps=2"]
    jobs = [
        {"config": str(config), "overrides": [*common, *own, f"run={root / name}"]}
        for name, own in named.items()
    ]
    launch(root, "speed", jobs)
    return Runs(root)


@pytest.mark.parametrize("name", [*SAME, "all"])
def test_the_curve_and_the_weights_stay_the_same_to_the_bit(runs: Runs, name: str) -> None:
    assert runs.losses(name) == runs.losses("plain")
    for key, value in runs.weights("plain").items():
        assert torch.equal(value, runs.weights(name)[key])


def test_every_switch_is_off_by_default() -> None:
    assert all(value in (False, "default") for value in SpeedConfig().model_dump().values())


def test_a_batch_is_prepared_before_the_one_before_it_is_asked_for(shards: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, f"data.shards={shards}", "speed.encode_ahead=true", "data.num_workers=0")
    prepare = Preparation(config, build_model(config.model, 0), CPU)
    made: list[int] = []
    now = prepare._now
    prepare._now = lambda batch: made.append(int(batch.positions[0])) or now(batch)
    size = config.micro_batch_size
    span = range(0, 3 * size, size)
    source = prepare.batches(open_dataset(config), BatchShape(size, 1, 1), 0, span)
    for number, batch in enumerate(source):
        assert len(made) == min(number + 2, 3)
        assert prepare(batch).timesteps.tolist() == draw_batch(config, batch.positions).timesteps.tolist()
    assert made == [0, size, 2 * size]


def test_workers_draw_what_the_training_process_would(shards: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, f"data.shards={shards}", "speed.draws_in_workers=true", "data.num_workers=1")
    prepare = Preparation(config, build_model(config.model, 0), CPU)
    for batch in prepare.batches(open_dataset(config), BatchShape(2, 1, 1), 0, range(0, 4, 2)):
        own = draw_batch(config, batch.positions)
        for name, value in vars(batch.draws).items():
            mine = getattr(own, name)
            assert torch.equal(value, mine) if isinstance(mine, torch.Tensor) else value is mine


def test_halved_norms_answer_in_the_dtype_of_their_input(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    unet = build_model(config.model, 0).unet
    names = list(unet.state_dict())
    assert halve_norms(unet) == sum(isinstance(m, nn.GroupNorm | nn.LayerNorm) for m in unet.modules())
    assert list(unet.state_dict()) == names
    plain, x = nn.GroupNorm(4, 32), torch.randn(2, 32, 5, 5)
    half = nn.GroupNorm(4, 32)
    halve_norms(half)
    assert torch.equal(plain(x), half(x))
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = half(x.bfloat16()), plain(x.bfloat16())
    assert ours.dtype == torch.bfloat16
    assert torch.allclose(ours.float(), theirs.float(), rtol=2**-6, atol=2**-6)


@pytest.mark.portable
def test_compiled_frozen_networks_answer_alike(tmp_path: Path) -> None:
    config = config_of(tmp_path, "speed.compile_frozen=true", "speed.compile_mode=max-autotune")
    model = build_model(config.model, 0)
    side, tower = config.model.image_size, config.model.image_encoder.image_size
    picture, exemplar = torch.randn(2, 3, side, side), torch.randn(2, 3, tower, tower)

    def answers() -> list[torch.Tensor]:
        with torch.no_grad():
            return [model.vae.encode(picture).latent_dist.mean, model.encode_exemplar(exemplar)]

    plain = answers()
    compile_frozen(model, config, backend="aot_eager")
    for ours, theirs in zip(answers(), plain, strict=True):
        assert relative_error(ours, theirs) < rounding(longest_sum(model.vae, model.image_encoder))


def test_switches_reach_the_engine_and_the_layout(tmp_path: Path) -> None:
    shape = BatchShape(2, 1, 2)
    zero = deepspeed_config(config_of(tmp_path, "speed.overlap_comm=true"), shape)["zero_optimization"]
    assert zero["overlap_comm"] is True
    assert "overlap_comm" not in deepspeed_config(config_of(tmp_path), shape)["zero_optimization"]
    model = new_model(config_of(tmp_path, "speed.channels_last=true"), CPU, is_main=True)
    seen = []
    model.unet.conv_in.register_forward_hook(
        lambda _, inputs, output: seen.extend(
            value.is_contiguous(memory_format=torch.channels_last) for value in (inputs[0], output)
        )
    )
    size = model.config.latent_size
    latents = torch.randn(2, model.config.unet.in_channels, size, size)
    model.unet(latents, 3, encoder_hidden_states=torch.randn(2, 1, model.config.unet.cross_attention_dim))
    assert seen == [True, True]
    assert all(weight.is_contiguous() for weight in model.unet.parameters())  # as optimizers take them


def test_formats_are_set_for_the_process_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flags = ((torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "benchmark"))
    before = [getattr(part, name) for part, name in flags]
    caplog.set_level("INFO")
    new_model(config_of(tmp_path, "speed.tf32=true", "speed.cudnn_benchmark=true"), CPU, is_main=True)
    assert (before, [getattr(part, name) for part, name in flags]) == ([False, False], [True, True])
    for part, name in flags:
        setattr(part, name, False)
    assert "use TF32" in caplog.text
    assert "little or no effect on a CPU" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["speed.compile_mode=cuda-graphs"], "needs compile or speed.compile_frozen"),
        (["speed.half_norms=true"], "speed.half_norms=true needs precision=bf16"),
        (["speed.fp8=true"], "speed.fp8=true needs precision=bf16"),
        (["speed.overlap_comm=true", "zero_stage=0"], "needs zero_stage=1, 2 or 3"),
    ],
)
def test_switches_that_cannot_work_are_refused(tmp_path: Path, overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        config_of(tmp_path, *overrides)


def test_fp8_without_torchao_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao", None)
    monkeypatch.setitem(__import__("sys").modules, "torchao.float8", None)
    with pytest.raises(UserError, match="needs torchao, which is not installed"):
        compute_in_fp8(nn.Linear(16, 16))


def test_what_changes_numbers_cannot_change_within_a_run() -> None:
    fixed = {name for name in SpeedConfig.model_fields if not may_change(f"speed.{name}")}
    assert fixed == {"tf32", "half_norms", "fp8"}
