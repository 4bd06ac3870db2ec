"""The benchmark's peer trains the same step, and the table says what was measured."""

from pathlib import Path

import pytest
import torch

from benchmarks.peers.plain_training import PlainTrainer
from benchmarks.training import pictures, same_work, table
from intarsia.config import load_config
from tests.closeness import longest_sum, relative_error, rounding
from tests.training.synthetic import make_shards, write_config
from training.config import TrainConfig, batch_shape
from training.model.build import new_model
from training.objective.draws import draw_batch, noise_levels
from training.objective.edit import EditTrainee, prepare
from training.tracking.stopwatch import PARTS


@pytest.mark.portable
def test_the_peer_sees_and_answers_the_same(tmp_path: Path) -> None:
    """On our weights its UNet, mapper and autoencoder give what ours give, though it knows no shortcut."""
    config = load_config(TrainConfig, write_config(tmp_path), ["optimizer.ema_decay=null"])
    batch = next(pictures(config, batch_shape(config, 1)))
    model = new_model(config, torch.device("cpu"), is_main=True)
    step = prepare(model, noise_levels(config.model.noise), batch, draw_batch(config, batch.positions), "cpu")
    peer = PlainTrainer(config)
    peer.unet.load_state_dict(model.unet.state_dict())
    peer.mapper.load_state_dict(model.exemplar_encoder.state_dict())
    with torch.no_grad():
        tokens = peer.mapper(step.features)
        tokens = torch.where(step.dropped[:, None, None], peer.mapper.null_exemplar, tokens)
        joined = torch.cat([step.noisy_latents, step.channels], dim=1)
        theirs = peer.unet(joined, step.timesteps, encoder_hidden_states=tokens).sample
        ours = EditTrainee(model)(step)
    assert relative_error(ours, theirs) < rounding(longest_sum(model.unet))


@pytest.mark.whole
def test_the_peer_learns(tmp_path: Path) -> None:
    config = load_config(TrainConfig, write_config(tmp_path))
    data = pictures(config, batch_shape(config, 1))
    torch.manual_seed(0)
    peer = PlainTrainer(config)
    losses = [peer.step(next(data)) for _ in range(60)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_real_shards_are_read_in_the_runs_order(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    config = load_config(TrainConfig, write_config(tmp_path), [f"data.shards={shards}"])
    data = pictures(config, batch_shape(config, 1))
    assert [next(data).positions.tolist() for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_table_tells_the_ratio_and_the_loaders_share() -> None:
    parts = {f"perf/{part}_s": 0.1 for part in PARTS} | {"perf/data_wait_s": 0.5, "perf/step_s": 1.0}
    common = {"device": "CPU", "samples": 2, "peak_bytes": 4e9}
    ours = common | {"step_s": 1.0, "matmul": 8e9, "parts": parts, "flops": 1e9, "work": "both clip"}
    text = table({"ours": ours, "peer": common | {"step_s": 1.5, "matmul": 1e10, "peak_bytes": 5e9}})
    assert "| images/s | 2 | 1.333 | **1.50** |" in text
    assert "| MFU of 0.01 TFLOP/s | 20.0% | 13.3% |" in text
    assert "| peak memory, GB | 4.00 | 5.00 | **1.25** |" in text
    assert "data wait 50.0%" in text
    assert "; both clip\n" in text


def test_the_peer_clips_as_the_config_says(tmp_path: Path) -> None:
    config = load_config(TrainConfig, write_config(tmp_path), ["optimizer.grad_clip=1e-3"])
    peer = PlainTrainer(config)
    norms: list[float] = []
    peer.optimizer.step = lambda: norms.extend(float(p.grad.norm()) for p in peer.params)
    peer.optimizer.zero_grad = lambda: None
    peer.step(next(pictures(config, batch_shape(config, 1))))
    assert sum(norm**2 for norm in norms) ** 0.5 == pytest.approx(1e-3, rel=1e-3)
    assert same_work(config) == "both in fp32 with AdamW; they clip at 0.001 and average with 0.9"


def test_a_made_up_batch_has_the_configs_size(tmp_path: Path) -> None:
    config = load_config(TrainConfig, write_config(tmp_path), ["micro_batch_size=3"])
    batch = next(pictures(config, batch_shape(config, 1)))
    assert batch.image is not None
    assert batch.image.shape == (3, 32, 32, 3)
    assert pytest.approx(0.25) == float((batch.edit_mask == 255).float().mean())
