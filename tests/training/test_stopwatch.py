"""Where the time of a step goes."""

import pytest
import torch
from torch import nn

from intarsia.config import load_config
from tests.paths import ROOT
from training.config import BatchShape, TrainConfig
from training.tracking import stopwatch
from training.tracking.stopwatch import PARTS, Stopwatch, matmul_peak, seconds_at_peak


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


class Slow(nn.Module):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def forward(self) -> None:
        self.clock.now += 4


def test_every_second_is_counted_once_and_pauses_are_not(clock: Clock) -> None:
    trainee = Slow(clock)
    watch = Stopwatch(trainee, BatchShape(micro=2, accum=1, world=3), torch.device("cpu"), 0.5)
    for _ in range(2):
        with watch.waiting():
            clock.now += 1
        clock.now += 2  # the frozen networks
        trainee()
        clock.now += 8
        watch.lap("backward")
        clock.now += 16
        watch.lap("optimizer")
        clock.now += 32
        with watch.paused(), torch.no_grad():
            trainee()
            clock.now += 1000
        watch.images += 6
    values = watch.values()
    seconds = {"data_wait": 1, "encode": 2, "forward": 4, "backward": 8, "optimizer": 16, "other": 32}
    assert {part: values[f"perf/{part}_s"] for part in PARTS} == pytest.approx(seconds)
    assert values["perf/step_s"] == pytest.approx(63)
    assert values["perf/data_wait"] == pytest.approx(1 / 63)
    assert values["perf/images_per_s"] == pytest.approx(6 / 63)
    assert values["perf/mfu"] == pytest.approx(2 / 63 * 0.5)
    watch.restart()
    assert watch.values()["perf/step_s"] < 1e-6


def test_the_peak_of_matrix_products_is_a_speed() -> None:
    assert 1e8 < matmul_peak(torch.device("cpu"), torch.float32, side=256) < 1e14


@pytest.mark.long
def test_a_gpu_run_gets_its_mfu_and_a_cpu_run_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.estimate.counting import count_flops
    from training.ranks.distributed import World

    config = load_config(TrainConfig, ROOT / "configs/train/demo.yaml")
    monkeypatch.setattr(stopwatch, "matmul_peak", lambda device, dtype: 1e12)
    on_gpu = seconds_at_peak(config, World(0, 1, torch.device("cuda")))
    assert on_gpu == pytest.approx(sum(count_flops(config).values()) / 1e12)
    assert seconds_at_peak(config, World(1, 2, torch.device("cuda"))) is None
    assert seconds_at_peak(config, World(0, 1, torch.device("cpu"))) is None
    stored = config.model_copy(update={"data": config.data.model_copy(update={"latents": True})})
    flops = count_flops(stored)
    assert (flops["vae"], flops["clip"]) == (0, 0)
