"""Whole runs under DeepSpeed: the curve depends on the config alone, and a stopped run goes on unharmed."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dataprep.cli import main
from intarsia.config import load_config
from intarsia.model import build_model
from tests.foreign import BOXES, write_set
from tests.processes import starts_processes
from tests.training.launch import Runs, largest_difference, launch
from tests.training.synthetic import LR, SAME_LOSS, make_shards, make_video_shards, write_config
from training.config import TrainConfig
from training.data.order import DataOrder
from training.tracking.stopwatch import PARTS

STEPS = 6
FIRST = ["max_steps=1", "optimizer={lr: 1.0e-3, warmup_steps: 0, weight_decay: 0}"]
FIRST_UPDATES = {
    "zero0": ["zero_stage=0"],
    "zero2": ["zero_stage=2"],
    "zero3": ["zero_stage=3"],
    "bf16": ["precision=bf16"],
    "bf16-zero1": ["precision=bf16", "zero_stage=1"],
    "bf16-offloaded2": ["precision=bf16", "zero_stage=2", "offload_optimizer=true"],
    "bf16-zero3": ["precision=bf16", "zero_stage=3"],
}


def damage(folder: Path, position: int) -> tuple[Path, bytes]:
    """Damage the picture at a position of the order; the tar that holds it, and what it was."""
    order = DataOrder([5, 4, 7], seed=3, window_shards=2)
    shard, index = order.locate(position)
    path = folder / f"toy-train-{shard:06d}.tar"
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        start = [m.offset_data for m in tar if m.name.endswith("image.jpg")][index]
    path.write_bytes(content[: start + 40] + b"\0" * 200 + content[start + 240 :])
    return path, content


@pytest.fixture(scope="module")
@starts_processes
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("runs")
    shards, config = make_shards(root / "shards"), write_config(root)

    def job(name: str, *overrides: str, stop_after: int | None = None) -> dict[str, Any]:
        common = [f"data.shards={shards}", f"run={root / name}", f"max_steps={STEPS}"]
        return {"config": str(config), "overrides": [*common, *overrides], "stop_after": stop_after}

    def stage(number: int, *overrides: str) -> list[str]:
        return [f"zero_stage={number}", *overrides]

    validated = "validation={every_steps: 3, num_samples: 6}"

    def first(name: str) -> dict[str, Any]:
        return job(f"first-{name}", *FIRST, *FIRST_UPDATES[name])

    # Stage 3 comes last: it replaces torch's linear function in the whole process, which changes roundings.
    stage3_last = [
        job("zero3", *stage(3, validated)),
        job("offloaded3", *stage(3, "offload_optimizer=true", validated)),
        *(first(name) for name in FIRST_UPDATES if "zero3" in name),
    ]
    # A sample of step 4 is damaged; it is put back before the same run is called again.
    damaged, content = damage(make_shards(root / "damaged"), position=13)
    broken = [f"data.shards={damaged.parent}", "checkpoint.every_steps=2"]
    previewed = "preview={every_steps: 6, num_images: 2, num_inference_steps: 2}"
    pairs = make_video_shards(root / "video")
    mix = f"[{{path: {shards}, weight: 3, timesteps: clean}}, {{path: {pairs}, weight: 1, timesteps: noisy}}]"
    mixed = [f"data.shards={mix}"]
    foreign = write_set(root / "foreign")
    assert main(["index", foreign, "--field", "image=jpg", *BOXES]) == 0
    indexed = [f"data.shards={foreign}"]
    stream = (
        "{fields: {image: jpg, box: json:bbox}, box_format: xyxy, box_unit: pixels, samples: 16, shuffle: 4}"
    )
    streamed = [f"data.shards=pipe:cat {foreign}", f"data.stream={stream}", validated, previewed]
    uneven = ["log_every=2", "checkpoint.every_steps=3"]  # a checkpoint between two lines of metrics
    launch(
        root,
        "alone",
        [
            *(job(f"zero{z}", *stage(z, validated)) for z in (0, 1, 2)),
            *(job(f"resumed{z}", *stage(z), stop_after=3) for z in (0, 1, 2)),
            job("offloaded1", *stage(1, "offload_optimizer=true")),
            job("uneven", *uneven),
            job("uneven-resumed", *uneven, stop_after=3),
            job("accumulated", "micro_batch_size=2", "grad_accum_steps=2"),
            job("workers", "data.num_workers=2"),
            job("mixed", *mixed),
            job("mixed-resumed", *mixed, "data.num_workers=2", stop_after=3),
            job("indexed", *indexed),
            job("indexed-resumed", *indexed, "data.num_workers=2", stop_after=3),
            job("streamed", *streamed, stop_after=3),
            job("recomputed", "activation_checkpointing=true"),
            *(job(f"half{z}", *stage(z, "precision=bf16")) for z in (0, 1)),
            *(first(name) for name in FIRST_UPDATES if "zero3" not in name),
            *(job(f"clipped{z}", *stage(z, "optimizer.grad_clip=0.1")) for z in (0, 1)),
            job("previewed", previewed),
            job("damaged", *broken) | {"fails": f"shard {damaged}: sample"},
            *stage3_last,
            job("resumed3", *stage(3), stop_after=3),
        ],
    )
    damaged.write_bytes(content)
    launch(
        root,
        "again",
        [
            *(job(f"resumed{z}", *stage(z)) for z in (0, 1, 2)),
            job("uneven-resumed", *uneven),
            job("mixed-resumed", *mixed),
            job("indexed-resumed", *indexed),
            job("streamed", *streamed),
            job("damaged", *broken),
            job("resumed3", *stage(3)),
        ],
    )
    two = "micro_batch_size=2"
    launch(
        root,
        "pair",
        [
            *(job(f"pair{z}", *stage(z, two)) for z in (0, 1, 2)),
            job("mixed-pair", *mixed, two, "zero_stage=0"),
            job("pair-resumed", *stage(2, two), stop_after=4),
            job("pair-resumed", *stage(2, two)),
            job("pair3", *stage(3, two, previewed)),
        ],
        ranks=2,
    )
    return Runs(root)


def test_the_loss_falls_on_samples_seen_again_and_again(runs: Runs) -> None:
    losses = runs.losses("zero1")
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "other",
    [
        *("zero0", "zero2", "zero3", "offloaded1", "offloaded3"),
        *("accumulated", "workers", "pair0", "pair1", "pair2", "pair3"),
    ],
)
def test_the_curve_does_not_depend_on_stage_ranks_workers_or_accumulation(runs: Runs, other: str) -> None:
    assert len(runs.losses(other)) == STEPS
    assert runs.losses(other) == pytest.approx(runs.losses("zero1"), rel=SAME_LOSS)


def test_a_mixture_does_not_depend_on_the_ranks(runs: Runs) -> None:
    assert runs.losses("mixed-pair") == pytest.approx(runs.losses("mixed"), rel=SAME_LOSS)
    assert runs.losses("mixed") != runs.losses("zero0")


def test_recomputing_activations_changes_no_bit(runs: Runs) -> None:
    assert runs.losses("recomputed") == runs.losses("zero0")


@pytest.mark.parametrize(
    ("stopped", "whole"),
    [
        ("resumed0", "zero0"),
        ("resumed1", "zero1"),
        ("resumed2", "zero2"),
        ("resumed3", "zero3"),
        ("uneven-resumed", "uneven"),
        ("mixed-resumed", "mixed"),
        ("indexed-resumed", "indexed"),
        ("pair-resumed", "pair2"),
        ("damaged", "zero0"),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(runs: Runs, stopped: str, whole: str) -> None:
    assert runs.losses(stopped) == runs.losses(whole)
    assert [r["step"] for r in runs.metrics(stopped)] == [r["step"] for r in runs.metrics(whole)]
    ours, theirs = runs.weights(stopped), runs.weights(whole)  # averaged weights, so the averages resume, too
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_on_streams_goes_on_and_its_log_says_what_is_not_promised(runs: Runs) -> None:
    assert len(runs.losses("streamed")) == STEPS
    assert all(np.isfinite(runs.losses("streamed")))
    assert [record["step"] for record in runs.metrics("streamed") if "val/loss" in record] == [3, 6]
    assert (runs.root / "streamed" / "previews" / "step-00000006.png").is_file()
    log = (runs.root / "streamed" / "logs" / "rank-0.log").read_text()
    assert log.count("samples are shuffled approximately, over 4 at a time") == 2  # once for each start


def test_averaged_weights_are_whole_under_every_stage(runs: Runs) -> None:
    """Rounding alone: with Adam's eps=1e-8 two ranks were up to 2.7e-4 off one, alike under all stages.

    Their gradients agreed to 3e-6 of the largest, but Adam divides those below eps up to a step of their own;
    with eps=1e-4 the weights agree to 2e-7.
    """
    plain = runs.weights("zero0")
    for other in ("zero1", "zero2", "zero3", "offloaded3", "pair1", "pair2", "pair3"):
        assert largest_difference(runs.weights(other), plain) < LR / 100


@pytest.mark.parametrize("other", ["zero0", "zero2", "zero3", "offloaded3"])
def test_both_kinds_of_weights_are_validated_under_every_stage(runs: Runs, other: str) -> None:
    """And training goes on as if they were not: the resumed runs, which equal these to the bit, are not."""
    ours, theirs = ([r for r in runs.metrics(n) if "val/loss" in r] for n in ("zero1", other))
    assert [record["step"] for record in ours] == [record["step"] for record in theirs] == [3, 6]
    for key in ("val/loss", "val_ema/loss"):
        assert [r[key] for r in theirs] == pytest.approx([r[key] for r in ours], rel=SAME_LOSS)
        assert "val_ema/loss" not in runs.metrics("resumed1")[-1]


def test_sharded_weights_make_the_same_preview(runs: Runs) -> None:
    """Under stage 3 no rank has the weights, so the preview is made by a second model."""
    pictures = [runs.root / name / "previews" / "step-00000006.png" for name in ("pair3", "previewed")]
    ours, theirs = (np.asarray(Image.open(path).convert("RGB"), dtype=int) for path in pictures)
    assert np.abs(ours - theirs).max() <= 2


def test_clipping_bounds_the_update_and_tells_the_norm_before_it(runs: Runs) -> None:
    clipped = [record["train/grad_norm"] for record in runs.metrics("clipped0")]
    assert clipped[0] == pytest.approx(runs.metrics("zero0")[0]["train/grad_norm"], rel=SAME_LOSS)
    assert clipped[0] > 0.1
    assert runs.losses("clipped1") == pytest.approx(runs.losses("clipped0"), rel=SAME_LOSS)
    assert runs.losses("clipped0") != runs.losses("zero0")


@pytest.mark.parametrize("name", FIRST_UPDATES)
def test_the_first_update_is_as_large_as_the_learning_rate(runs: Runs, name: str) -> None:
    """Adam's first step is lr · sign(gradient); a hidden step before it would make it smaller."""
    config = load_config(TrainConfig, runs.root / "tiny.yaml")
    begun = build_model(config.model, config.seed).unet.state_dict()
    moved = torch.cat([(w - begun[key]).abs().flatten() for key, w in runs.weights(f"first-{name}").items()])
    assert float(moved.max()) == pytest.approx(1e-3, rel=1e-3)
    assert float((moved > 0.99e-3).float().mean()) > 0.9


def test_bf16_autocast_follows_fp32(runs: Runs) -> None:
    assert runs.losses("half1") == pytest.approx(runs.losses("zero1"), rel=0.02)
    assert runs.losses("half1") != runs.losses("zero1")
    assert all(weight.dtype == torch.float32 for weight in runs.weights("half1").values())


def test_bf16_without_sharding_follows_bf16_with_it(runs: Runs) -> None:
    assert runs.losses("half0") == pytest.approx(runs.losses("half1"), rel=1e-4)
    assert runs.losses("half0") != runs.losses("zero0")


def test_one_rank_shards_nothing_unless_told(runs: Runs) -> None:
    assert runs.losses("workers") == runs.losses("zero0")


def test_metrics_hold_what_users_look_for(runs: Runs) -> None:
    record = runs.metrics("pair1")[-1]
    parts = [f"perf/{part}_s" for part in PARTS]
    assert set(record) - {f"train/loss_q{quarter}" for quarter in (1, 2, 3, 4)} == {
        *("step", "train/loss", "train/lr", "train/grad_norm", "train/skipped", "train/ema_decay"),
        *("perf/images_per_s", "perf/images_per_s_per_rank", "perf/data_wait", "perf/step_s", *parts),
        *("data/samples", "data/epoch", "data/shard", "memory/peak_gb"),
    }
    assert record["perf/step_s"] == pytest.approx(sum(record[part] for part in parts))
    assert record["perf/images_per_s"] == pytest.approx(2 * record["perf/images_per_s_per_rank"])
    assert all(record[part] > 0 for part in parts)
    assert 0 <= record["perf/data_wait"] <= 1
    assert 0.1 < record["memory/peak_gb"] < 10
