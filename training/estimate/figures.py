"""Compute the needs of a run as plain values: memory, disk, arithmetic, hours."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from sampling.denoise.gpus import GPUS
from training.config import BatchShape, TrainConfig, zero_stage_of
from training.data.shards import find_data
from training.estimate.memory import STAGES, arithmetic_of, memory_at, peak_tflops

if TYPE_CHECKING:
    from training.estimate.counting import Counts


def estimate_run(
    config: TrainConfig, shape: BatchShape, gpus: Sequence[str], mfu: float, on_gpu: bool = True
) -> dict[str, Any]:
    """All figures of a run, as plain values: bytes, floating-point operations, hours.

    Args:
        config: config of the run.
        shape: shape of its batches, with the intended number of ranks.
        gpus: GPU names, keys of `GPUS`.
        mfu: share of a GPU's peak speed that the run's arithmetic reaches.
        on_gpu: whether the run uses GPUs; False gives the memory of a run on CPUs.
    """
    from training.estimate.counting import count
    from training.optimizer.ema import decays_of
    from training.optimizer.moments8 import BYTES

    counts = count(config, on_gpu)
    averages = len(decays_of(**config.optimizer.averages))
    switched = config.model_copy(update={"activation_checkpointing": not config.activation_checkpointing})
    other = count(switched, on_gpu)
    options = {
        "averages": averages,
        "moment_bytes": BYTES if config.optimizer.moments == "8bit" else 4,
        "accumulates": shape.accum > 1,
        "offload": config.offload_optimizer,
        "on_gpu": on_gpu,
    }
    allowed = [stage for stage in STAGES if stage < 3 or config.optimizer.moments == "fp32"]
    by_stage = {stage: memory_at(stage, shape.world, counts, options) for stage in allowed}
    stage = zero_stage_of(config, shape.world)
    return {
        "weights": {"trained": counts.trained, "frozen": counts.frozen},
        "batch": asdict(shape) | {"global": shape.global_batch},
        "zero_stage": stage,
        "precision": config.precision,
        "arithmetic": arithmetic_of(config),
        "fp8_share": counts.fp8_flops / sum(counts.flops.values()),
        "activation_checkpointing": config.activation_checkpointing,
        "memory": {str(stage): asdict(memory) for stage, memory in by_stage.items()},
        "peak_if_checkpointing_were_switched": memory_at(stage, shape.world, other, options).peak,
        "saved_activations": counts.saved_bytes,
        "flops_per_sample": counts.flops | {"whole": sum(counts.flops.values())},
        "steps": config.max_steps,
        "samples": config.max_steps * shape.global_batch,
        "data": _data(config, shape),
        "checkpoints": _checkpoints(config, 4 * (3 + averages) * counts.trained),
        "snapshots": _snapshots(config, 2 * averages * counts.trained),
        "cpu_memory": _cpu_memory(config, 4 * counts.trained // shape.world, 3 + averages, stage, on_gpu),
        "mfu": mfu,
        "gpus": {name: _on(name, config, shape, counts, mfu) for name in gpus},
    }


def _on(name: str, config: TrainConfig, shape: BatchShape, counts: "Counts", mfu: float) -> dict[str, Any]:
    gpu, whole = GPUS[name], sum(counts.flops.values())
    peak = peak_tflops(gpu, arithmetic_of(config), counts.fp8_flops / whole)
    if peak is None:
        return {**asdict(gpu), "tflops": None}
    speed = mfu * 1e12 * peak / whole
    seconds = config.max_steps * shape.global_batch / (speed * shape.world)
    return {
        **asdict(gpu),
        "tflops": peak,
        "images_per_s_per_gpu": speed,
        "hours": seconds / 3600,
        "gpu_hours": seconds / 3600 * shape.world,
    }


def _data(config: TrainConfig, shape: BatchShape) -> dict[str, float] | None:
    """Samples and bytes of the shards, and the bytes read from them; None without shards."""
    if not config.data.shards:
        return None
    shards = find_data(config.data)
    samples, size = sum(shard.count for shard in shards), sum(shard.bytes for shard in shards)
    epochs = config.max_steps * shape.global_batch / samples
    return {"samples": samples, "bytes": size, "epochs": epochs, "bytes_read": size * epochs}


def _checkpoints(config: TrainConfig, size: int) -> dict[str, int]:
    """The largest number of checkpoints, `size` bytes each, that are kept, and their bytes."""
    options = config.checkpoint
    number = min(-(-config.max_steps // options.every_steps), options.keep_last)
    number += config.max_steps // options.keep_every if options.keep_every else 0
    return {"number": number, "bytes": number * size}


def _cpu_memory(config: TrainConfig, share: int, kinds: int, stage: int, on_gpu: bool) -> dict[str, int]:
    """Bytes of a rank in the CPU's memory: offloaded optimizer, and copy of a checkpoint.

    For an offloaded optimizer, DeepSpeed 0.19 pins the gradients and one more buffer of their size, at stages
    1 and 2 also the master weights (runtime/zero/stage_1_and_2.py, stage3.py), and torch rounds each pinned
    buffer up to a power of two. Our copy of a checkpoint is pinned in buffers that are powers of two.

    Args:
        config: config of the run.
        share: bytes of a rank's part of the trained weights.
        kinds: number of tensors per weight: master weight, moments and averages.
        stage: ZeRO stage.
        on_gpu: whether the run uses GPUs, where memory is pinned.
    """
    pinned = 2 if stage == 3 else 3
    rounded = 1 << (share - 1).bit_length() if on_gpu else share
    optimizer = pinned * rounded + (kinds + 2 - pinned) * share
    return {
        "optimizer": optimizer if config.offload_optimizer else 0,
        "checkpoint": kinds * share if config.checkpoint.asynchronous else 0,
    }


def _snapshots(config: TrainConfig, size: int) -> dict[str, int]:
    """The number of snapshots (`checkpoint/snapshots.py`), `size` bytes each, of a run, and their bytes."""
    options = config.optimizer
    if options.ema_kind != "post_hoc":
        return {"number": 0, "bytes": 0}
    number = -(-config.max_steps // (options.ema_snapshot_every or config.checkpoint.every_steps))
    number = min(number, options.ema_keep_last or number)
    return {"number": number, "bytes": number * size}


def calibrate(config: TrainConfig, shape: BatchShape, steps: int) -> dict[str, Any]:
    """Measure steps of one rank on this machine, and calculate the whole run at this speed.

    Args:
        config: training config.
        shape: shape of its batches, for the planned number of ranks.
        steps: number of steps to measure.
    """
    from training.estimate.trial import run_trial
    from training.ranks import distributed
    from training.run.faults import explain_memory_errors

    world = distributed.connect()
    alone = replace(shape, world=world.size)
    staged = config.model_copy(update={"zero_stage": zero_stage_of(config, shape.world)})
    with explain_memory_errors(staged, alone):
        trial = run_trial(staged, alone, world, steps)
    distributed.disconnect(world)
    seconds = median(trial.seconds)
    hours = seconds * config.max_steps / 3600
    return {
        "device": world.device.type,
        "seconds_per_step": seconds,
        "images_per_s_per_gpu": shape.micro * shape.accum / seconds,
        "peak_bytes": trial.peak_bytes,
        "hours": hours,
        "gpu_hours": hours * shape.world,
    }
