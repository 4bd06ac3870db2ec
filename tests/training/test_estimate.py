"""What a run will need, told beforehand: held to published counts and to what a real process holds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from intarsia.config import load_config
from intarsia.model import EditModel
from sampling.denoise.gpus import GPUS
from tests.paths import ROOT
from tests.processes import starts_processes
from tests.training.synthetic import make_shards, write_config
from training.config import TrainConfig, batch_shape
from training.estimate import counting
from training.estimate.counting import Counts, count
from training.estimate.figures import estimate_run
from training.estimate.linear import linear_flops
from training.estimate.memory import STAGES, memory_at, peak_tflops
from training.estimate.text import estimate_text
from training.model.build import choose_trained

pytestmark = pytest.mark.long
GIGA = 1e9
OPTIONS = {"averages": 0, "moment_bytes": 4, "accumulates": False, "offload": False, "on_gpu": True}

# Some 17 million weights; activations and weights weigh alike.
MIDDLE = """\
model:
  image_size: 64
  unet:
    block_out_channels: [64, 320]
    down_block_types: [DownBlock2D, CrossAttnDownBlock2D]
    cross_attention_dim: 64
  vae: {block_out_channels: [32, 32], layers_per_block: 1}
  image_encoder: {hidden_size: 64, intermediate_size: 64, num_hidden_layers: 5, num_attention_heads: 4,
    image_size: 32, patch_size: 8}
optimizer: {lr: 1.0e-4, warmup_steps: 0, ema_decay: 0.99}
micro_batch_size: 4
"""


@pytest.fixture(scope="module")
def middle(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    return count(load_config(TrainConfig, write_config(tmp_path_factory.mktemp("plain"), MIDDLE)))


@pytest.fixture(scope="module")
def real() -> Counts:
    config = load_config(TrainConfig, ROOT / "configs/train/pbe-sd14.yaml", ["micro_batch_size=1"])
    return count(config)


def test_the_real_model_is_as_large_as_published(real: Counts) -> None:
    unused = 22_000_000  # the cross-attention's query and key, and the norm before them
    assert real.trained == pytest.approx(923_306_500 - unused, abs=50_000)
    assert real.frozen - (923_306_500 - real.trained) == 83_653_863 + 303_179_776


def test_the_real_step_computes_what_was_counted_by_hand(real: Counts) -> None:
    """UNet forward 797 GFLOP at 512 pixels, of which the one-token shortcut saves 3.2 %."""
    assert real.flops["vae"] / GIGA == pytest.approx(2233, rel=0.002)
    assert real.flops["clip"] / GIGA == pytest.approx(162, rel=0.005)
    assert real.flops["forward"] / GIGA == pytest.approx(797 * (1 - 0.032), rel=0.003)
    recomputed = 2980 / 2391  # with checkpointing against without
    assert sum(real.flops[part] for part in ("forward", "backward")) / GIGA == pytest.approx(
        2391 * recomputed * (1 - 0.032), rel=0.02
    )


def test_checkpointing_keeps_less_and_computes_more(middle: Counts, tmp_path: Path) -> None:
    config = load_config(TrainConfig, write_config(tmp_path, MIDDLE), ["activation_checkpointing=true"])
    plain, checkpointed = middle, count(config)
    assert checkpointed.saved_bytes < 0.5 * plain.saved_bytes
    assert checkpointed.step_bytes < plain.step_bytes
    assert checkpointed.flops["backward"] > 1.2 * plain.flops["backward"]
    assert plain.saved_bytes < plain.step_bytes < plain.step_and_grads_bytes + 4 * plain.trained


def test_adapters_are_counted_as_they_are_trained(middle: Counts, tmp_path: Path) -> None:
    config = load_config(TrainConfig, write_config(tmp_path, MIDDLE), ["lora.rank=2"])
    with torch.device("meta"):
        model = EditModel(config.model)
        choose_trained(model, config)
    adapters, whole = count(config), middle
    assert adapters.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapters.trained < 0.2 * whole.trained
    assert whole.flops["forward"] < adapters.flops["forward"] < 1.1 * whole.flops["forward"]
    assert adapters.flops["backward"] < whole.flops["backward"]  # frozen weights need no gradient


def test_more_ranks_and_higher_stages_never_need_more() -> None:
    counts = Counts(900_000_000, 400_000_000, 1_600_000_000, {}, 2 * 10**9, 3 * 10**9, 5 * 10**9, 10**9)
    for stage in STAGES:
        peaks = [memory_at(stage, ranks, counts, OPTIONS).peak for ranks in (1, 2, 8, 64)]
        if stage == 0:
            assert peaks.pop(0) < peaks[0]  # one rank alone has no gradients to add up
        assert peaks == sorted(peaks, reverse=True)
    shares = [memory_at(stage, 64, counts, OPTIONS) for stage in STAGES]
    assert shares[0].moments == 8 * counts.trained
    assert shares[1].moments == pytest.approx(8 * counts.trained / 64, abs=8)
    assert shares[0].peak > shares[1].peak > shares[2].peak
    for averages in (1, 2):
        averaging = memory_at(1, 1, counts, OPTIONS | {"averages": averages})
        assert averaging.ema == 4 * counts.trained * averages
        assert averaging.peak == memory_at(1, 1, counts, OPTIONS).peak + averaging.ema
    assert memory_at(1, 1, counts, OPTIONS | {"offload": True}).moments == 0
    packed = memory_at(0, 1, counts, OPTIONS | {"moment_bytes": 1 + 4 / 256})
    assert packed.moments == 2 * counts.trained + 2 * counts.trained // 64
    alone = memory_at(0, 1, counts, OPTIONS)
    assert alone.peak - packed.peak == alone.moments - packed.moments


@pytest.fixture(scope="module")
@starts_processes
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The command with --calibrate, in a process whose freed memory goes back to the system at once."""
    path = write_config(tmp_path_factory.mktemp("middle"), MIDDLE)
    limits = {"MALLOC_MMAP_THRESHOLD_": "200000", "MALLOC_TRIM_THRESHOLD_": "200000"}
    run = subprocess.run(
        [sys.executable, "-m", "training", "estimate", str(path), "--json", "--calibrate", "1"],
        cwd=ROOT,
        env={**os.environ, **limits, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@pytest.mark.whole
def test_the_peak_is_that_of_a_real_process_within_15_percent(calibrated: dict[str, Any]) -> None:
    assert calibrated["zero_stage"] == 0
    estimated = calibrated["memory"]["0"]["peak"]
    assert estimated == pytest.approx(calibrated["measured"]["peak_bytes"], rel=0.15)


@pytest.mark.whole
def test_calibration_times_the_whole_run(calibrated: dict[str, Any]) -> None:
    measured = calibrated["measured"]
    assert measured["hours"] == pytest.approx(measured["seconds_per_step"] * calibrated["steps"] / 3600)
    assert "measured here (cpu)" in estimate_text(calibrated)


def test_hours_are_arithmetic_over_speed_and_shards_are_counted(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    config = load_config(TrainConfig, write_config(tmp_path), [f"data.shards={shards}", "max_steps=8"])
    content = estimate_run(config, batch_shape(config, 2), ["h100"], mfu=0.5)
    gpu = content["gpus"]["h100"]
    flops = content["flops_per_sample"]["whole"] * 8 * 8
    assert gpu["gpu_hours"] == pytest.approx(flops / (0.5 * gpu["fp32_tflops"] * 1e12) / 3600)
    assert gpu["gpu_hours"] == pytest.approx(2 * gpu["hours"])
    size = sum(path.stat().st_size for path in shards.glob("*.tar"))
    assert content["data"] == {"samples": 16, "bytes": size, "epochs": 4.0, "bytes_read": 4.0 * size}
    assert "4.0 epochs" in estimate_text(content)


@pytest.mark.parametrize(
    ("options", "head", "h100", "a100"),
    [
        ([], "fp32 TFLOP/s", 67, 19.5),
        (["speed.tf32=true"], "tf32 TFLOP/s", 494.5, 156),
        (["speed.tf32=true", "precision=bf16"], "bf16 TFLOP/s", 989, 312),
    ],
)
def test_hours_are_calculated_with_the_peak_that_the_head_names(
    tmp_path: Path, options: list[str], head: str, h100: float, a100: float
) -> None:
    config = load_config(TrainConfig, write_config(tmp_path), options)
    content = estimate_run(config, batch_shape(config, 1), ["h100", "a100-80"], mfu=0.5)
    for name, peak in (("h100", h100), ("a100-80", a100)):
        speed = 0.5e12 * peak / content["flops_per_sample"]["whole"]
        assert content["gpus"][name]["images_per_s_per_gpu"] == pytest.approx(speed)
    assert f"{head}  GB" in estimate_text(content)
    assert content["fp8_share"] == 0 and "fp8" not in estimate_text(content)


def test_linear_layers_have_three_products_where_both_gradients_are_computed() -> None:
    first, second, third = nn.Linear(16, 32), nn.Linear(32, 48), nn.Linear(48, 8)
    first.weight.requires_grad_(False)
    first.bias.requires_grad_(False)
    rows = torch.randn(5, 2, 16)
    with linear_flops([first, second]) as flops:  # first: output; second: output and its weight's gradient
        third(second(first(rows))).sum().backward()
    assert flops.total == 2 * 10 * (16 * 32 + 2 * 32 * 48)
    with linear_flops([second, third]) as flops:
        third(second(first(rows))).sum().backward()
    assert flops.total == 2 * 10 * (2 * 32 * 48 + 3 * 48 * 8)


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_fp8_does_the_products_of_the_unets_linear_layers(tmp_path: Path, checkpointing: str) -> None:
    """All of this UNet's sides are multiples of 16: its layers do all `mm` that torch's counter sees."""
    options = ["precision=bf16", f"activation_checkpointing={checkpointing}"]
    config = load_config(TrainConfig, write_config(tmp_path, MIDDLE), [*options, "speed.fp8=true"])
    with FakeTensorMode(), torch.device("cpu"):
        trainee = counting._networks(counting._described(config), config, on_gpu=False)
        with counting._flops() as counter:
            counting._computation(trainee, config)().backward()
    operations = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    products = (operations["aten.mm"] + operations["aten.addmm"]) / config.micro_batch_size
    content = estimate_run(config, batch_shape(config, 1), ["h100", "a100-80"], mfu=0.5)
    whole = content["flops_per_sample"]["whole"]
    ours = content["fp8_share"] * whole
    assert 0.99 * products < ours < 1.0001 * products  # the exemplar's encoder is not converted
    seconds = (ours / 1979e12 + (whole - ours) / 989e12) / 0.5
    assert content["gpus"]["h100"]["images_per_s_per_gpu"] == pytest.approx(1 / seconds)
    assert "hours" not in content["gpus"]["a100-80"]
    text = estimate_text(content)
    assert "fp8+bf16 TFLOP/s  GB" in text
    assert "a100-80           has no fp8: speed.fp8=true is refused there" in text


def test_peaks_in_lower_precision_are_higher() -> None:
    for gpu in GPUS.values():
        assert gpu.fp32_tflops <= gpu.tf32_tflops < gpu.bf16_tflops < (gpu.fp8_tflops or 1e9)
        if gpu.fp8_tflops is not None:
            assert gpu.fp8_tflops == pytest.approx(2 * gpu.bf16_tflops, rel=0.02)
            assert peak_tflops(gpu, "fp8+bf16", 0.0) == pytest.approx(gpu.bf16_tflops)
            assert peak_tflops(gpu, "fp8+bf16", 1.0) == pytest.approx(gpu.fp8_tflops)


def test_two_averages_are_counted_in_memory_and_their_snapshots_on_the_disk(tmp_path: Path) -> None:
    options = ["optimizer={ema_kind: post_hoc, ema_snapshot_every: 4}", "max_steps=10"]
    config = load_config(TrainConfig, write_config(tmp_path), options)
    content = estimate_run(config, batch_shape(config, 2), ["h100"], mfu=0.5)
    trained = content["weights"]["trained"]
    assert content["memory"]["0"]["ema"] == 2 * 4 * trained
    assert content["memory"]["1"]["ema"] == pytest.approx(4 * trained, abs=8)
    assert content["cpu_memory"]["optimizer"] == 0
    assert content["snapshots"] == {"number": 3, "bytes": 3 * 2 * 2 * trained}  # steps 4, 8 and 10
    assert "3 snapshots of the averaged weights" in estimate_text(content)


def test_checkpoints_and_what_the_cpu_holds_are_counted(tmp_path: Path) -> None:
    """The copy and the file hold master weights, two moments and the average (`rank_files.py`)."""
    kept = "checkpoint={every_steps: 2, keep_last: 3, keep_every: 4, asynchronous: true}"
    options = ["optimizer.ema_decay=0.9", "max_steps=10", "offload_optimizer=true", kept]
    config = load_config(TrainConfig, write_config(tmp_path), options)
    content = estimate_run(config, batch_shape(config, 2), ["h100"], mfu=0.5)
    trained = content["weights"]["trained"]
    assert content["checkpoints"] == {"number": 5, "bytes": 5 * 16 * trained}
    assert content["cpu_memory"]["checkpoint"] == pytest.approx(16 * trained / 2, abs=8)
    share = 4 * trained // 2
    pinned = next(2**power for power in range(40) if 2**power >= share)
    # Pinned: master weights, gradients and a buffer; not pinned: two moments and the average.
    assert content["cpu_memory"]["optimizer"] == 3 * pinned + 3 * share
    on_cpu = estimate_run(config, batch_shape(config, 2), ["h100"], mfu=0.5, on_gpu=False)
    assert on_cpu["cpu_memory"]["optimizer"] == 6 * share
    assert "5 checkpoints at most" in estimate_text(content)


def test_wrong_options_are_told_in_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from training.__main__ import main

    config = str(write_config(tmp_path))
    assert main(["estimate", config, "--world-size", "0"]) == 2
    assert "--world-size=0 must be 1 or more" in capsys.readouterr().err
    assert main(["estimate", config, "--mfu", "3"]) == 2
    assert "--mfu=3 must be above 0" in capsys.readouterr().err
    assert main(["estimate", config, "--calibrate", "0"]) == 2
    assert "--calibrate=0 must be 1 or more" in capsys.readouterr().err
