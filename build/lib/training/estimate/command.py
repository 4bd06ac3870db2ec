"""`python -m training estimate`: memory, hours and GPU-hours of a run, before anything is spent."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from intarsia.command_line import Parser
from intarsia.config import load_config
from intarsia.errors import UsageError
from training.config import BatchShape, TrainConfig, batch_shape, zero_stage_of
from training.data.shards import find_shards
from training.estimate.memory import GPUS, STAGES, memory_at

if TYPE_CHECKING:
    from training.estimate.counting import Counts

_STEPS = 5
_EPILOG = """examples:
  python -m training estimate configs/train/pbe-sd14.yaml --world-size 64
  python -m training estimate configs/train/pbe-sd14.yaml precision=bf16 micro_batch_size=16 --gpu a100-80
  python -m training estimate configs/train/demo.yaml --calibrate

Everything is counted on tensors without content; --calibrate builds the model and trains a few steps here,
on made-up pictures. Times are arithmetic / (peak x --mfu): the default is what well-kept trainers reach."""


def command(argv: Sequence[str]) -> int:
    """The subcommand; returns the exit code."""
    parser = Parser(
        prog="python -m training estimate",
        description="Say what a run would need: memory per GPU by part, steps, hours and GPU-hours.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="YAML file of deviations from the defaults")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="a value by its dotted key")
    parser.add_argument("--world-size", type=int, default=1, metavar="N", help="GPUs in all (1)")
    parser.add_argument("--gpu", choices=sorted(GPUS), action="append", help="only this one; may come again")
    parser.add_argument(
        "--mfu", type=float, default=0.35, help="share of the GPU's peak that is reached (.35)"
    )
    parser.add_argument(
        "--calibrate",
        type=int,
        nargs="?",
        const=_STEPS,
        metavar="STEPS",
        help=f"measure so many steps on this machine ({_STEPS})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_intermixed_args(argv)
    if options.world_size < 1:
        raise UsageError(f"--world-size={options.world_size} must be 1 or more")
    if not 0 < options.mfu <= 1:
        raise UsageError(f"--mfu={options.mfu:g} must lie above 0 and not above 1")
    if options.calibrate is not None and options.calibrate < 1:
        raise UsageError(f"--calibrate={options.calibrate} must be 1 or more")
    config = load_config(TrainConfig, options.config, options.overrides)
    shape = batch_shape(config, options.world_size)
    on_gpu = not options.calibrate or _cuda()
    content = estimate(config, shape, options.gpu or list(GPUS), options.mfu, on_gpu)
    if options.calibrate:
        content["measured"] = _calibrate(config, shape, options.calibrate)
    if options.json:
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    else:
        sys.stdout.write(as_text(content))
    return 0


def estimate(
    config: TrainConfig, shape: BatchShape, gpus: Sequence[str], mfu: float, on_gpu: bool = True
) -> dict[str, Any]:
    """All figures of a run, as plain values: bytes, floating-point operations, hours.

    Args:
        config: of the run.
        shape: of its batches, for the number of ranks that is meant.
        gpus: names in `GPUS`.
        mfu: share of a GPU's peak that the run's arithmetic reaches.
        on_gpu: False for the memory of a run on a CPU.
    """
    from training.estimate.counting import count
    from training.optimizer.ema import decays_of

    counts = count(config, on_gpu)
    averages = len(decays_of(**config.optimizer.averages))
    switched = config.model_copy(update={"activation_checkpointing": not config.activation_checkpointing})
    other = count(switched, on_gpu)
    options = {
        "averages": averages,
        "accumulates": shape.accum > 1,
        "offload": config.offload_optimizer,
        "on_gpu": on_gpu,
    }
    by_stage = {stage: memory_at(stage, shape.world, counts, options) for stage in STAGES}
    stage = zero_stage_of(config, shape.world)
    return {
        "weights": {"trained": counts.trained, "frozen": counts.frozen},
        "batch": asdict(shape) | {"global": shape.global_batch},
        "zero_stage": stage,
        "precision": config.precision,
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
        "cpu_memory": _cpu_memory(config, 4 * counts.trained // shape.world, 3 + averages),
        "mfu": mfu,
        "gpus": {name: _on(name, config, shape, counts, mfu) for name in gpus},
    }


def _on(name: str, config: TrainConfig, shape: BatchShape, counts: "Counts", mfu: float) -> dict[str, Any]:
    gpu = GPUS[name]
    peak = 1e12 * (gpu.bf16_tflops if config.precision == "bf16" else gpu.fp32_tflops)
    speed = mfu * peak / sum(counts.flops.values())
    seconds = config.max_steps * shape.global_batch / (speed * shape.world)
    return {
        **asdict(gpu),
        "images_per_s_per_gpu": speed,
        "hours": seconds / 3600,
        "gpu_hours": seconds / 3600 * shape.world,
    }


def _data(config: TrainConfig, shape: BatchShape) -> dict[str, float] | None:
    """Samples and bytes of the shards, and how much of them is read; None where no shards were named."""
    if not config.data.shards:
        return None
    shards = find_shards(config.data.shards)
    samples, size = sum(shard.count for shard in shards), sum(shard.bytes for shard in shards)
    epochs = config.max_steps * shape.global_batch / samples
    return {"samples": samples, "bytes": size, "epochs": epochs, "bytes_read": size * epochs}


def _checkpoints(config: TrainConfig, size: int) -> dict[str, int]:
    """How many checkpoints of `size` bytes stay at most, and what they take."""
    options = config.checkpoint
    number = min(-(-config.max_steps // options.every_steps), options.keep_last)
    number += config.max_steps // options.keep_every if options.keep_every else 0
    return {"number": number, "bytes": number * size}


def _cpu_memory(config: TrainConfig, share: int, kinds: int) -> dict[str, int]:
    """What a rank keeps there, bytes: the offloaded optimizer with its gradients, the copy of a checkpoint.

    Args:
        config: of the run.
        share: bytes of a rank's part of the trained weights.
        kinds: master weights, moments and averages: how many tensors there are of each.
    """
    return {
        "optimizer": (kinds + 1) * share if config.offload_optimizer else 0,
        "checkpoint": kinds * share if config.checkpoint.asynchronous else 0,
    }


def _snapshots(config: TrainConfig, size: int) -> dict[str, int]:
    """How many snapshots of `size` bytes the run leaves (`checkpoint/snapshots.py`), and what they take."""
    options = config.optimizer
    if options.ema_kind != "post_hoc":
        return {"number": 0, "bytes": 0}
    number = -(-config.max_steps // (options.ema_snapshot_every or config.checkpoint.every_steps))
    number = min(number, options.ema_keep_last or number)
    return {"number": number, "bytes": number * size}


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _calibrate(config: TrainConfig, shape: BatchShape, steps: int) -> dict[str, Any]:
    """Some steps of one rank here; the whole run at this speed."""
    from training.estimate.trial import run_trial
    from training.ranks import distributed

    world = distributed.connect()
    alone = replace(shape, world=world.size)
    staged = config.model_copy(update={"zero_stage": zero_stage_of(config, shape.world)})
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


def as_text(content: dict[str, Any]) -> str:
    """The figures of `estimate` as tables."""
    batch = content["batch"]
    checkpointing = "with" if content["activation_checkpointing"] else "without"
    lines = [
        f"{content['weights']['trained']:,} weights trained, {content['weights']['frozen']:,} frozen",
        f"global batch {batch['global']} = micro-batch {batch['micro']} × accumulation {batch['accum']} × "
        f"ranks {batch['world']}; {content['precision']}, {checkpointing} activation checkpointing",
        "",
        *_memory_lines(content),
        "",
        *_work_lines(content),
        "",
        *_time_lines(content),
    ]
    return "\n".join(lines) + "\n"


def _memory_lines(content: dict[str, Any]) -> list[str]:
    stages = content["memory"]
    head = [f"stage {stage}{'*' if int(stage) == content['zero_stage'] else ''}" for stage in stages]
    lines = [
        "memory per GPU, GB".ljust(28) + "".join(name.rjust(10) for name in head) + "    * = the config's"
    ]
    for part in next(iter(stages.values())):
        row = [memory[part] for memory in stages.values()]
        cells = [value if isinstance(value, str) else f"{value / 1e9:.2f}" for value in row]
        label = "reached in" if part == "moment" else part
        lines.append(f"  {label}".ljust(28) + "".join(cell.rjust(10) for cell in cells))
    switch = "without" if content["activation_checkpointing"] else "with"
    other = content["peak_if_checkpointing_were_switched"] / 1e9
    lines.append(f"  peak {switch} activation checkpointing, stage {content['zero_stage']}: {other:.2f}")
    return lines


def _work_lines(content: dict[str, Any]) -> list[str]:
    flops = content["flops_per_sample"]
    parts = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in flops.items() if name != "whole")
    lines = [
        f"arithmetic per sample: {flops['whole'] / 1e9:,.0f} GFLOP ({parts})",
        f"{content['steps']:,} steps, {content['samples']:,} samples",
    ]
    for name, what in (("checkpoints", "checkpoints"), ("snapshots", "snapshots of the averaged weights")):
        number, size = content[name]["number"], content[name]["bytes"] / 1e9
        lines += [f"{number:,} {what} at most: {size:,.2f} GB of disk"] if number else []
    cpu = content["cpu_memory"]
    lines.append(
        f"memory of the CPU, GB per rank: {cpu['optimizer'] / 1e9:.2f} for the offloaded optimizer, "
        f"{cpu['checkpoint'] / 1e9:.2f} for the copy of a checkpoint"
    )
    data = content["data"]
    if data is None:
        lines.append("shards: none named (data.shards=FOLDER)")
    else:
        lines.append(
            f"shards: {data['samples']:,} samples in {data['bytes'] / 1e9:.2f} GB; "
            f"{data['epochs']:.1f} epochs, {data['bytes_read'] / 1e9:,.1f} GB read"
        )
    return lines


def _time_lines(content: dict[str, Any]) -> list[str]:
    peak = content["memory"][str(content["zero_stage"])]["peak"] / 1e9
    kind = content["precision"]
    lines = [
        f"at {content['mfu']:.0%} of the peak".ljust(20)
        + f"{kind} TFLOP/s  GB  fits  images/s/GPU     hours  GPU-hours"
    ]
    for name, gpu in content["gpus"].items():
        tflops = gpu["bf16_tflops"] if kind == "bf16" else gpu["fp32_tflops"]
        fits = "yes" if peak < 0.94 * gpu["memory_gb"] else "no"  # the driver and its libraries need some
        lines.append(
            f"  {name}".ljust(20) + f"{tflops:>12g}{gpu['memory_gb']:>4g}{fits:>6}"
            f"{gpu['images_per_s_per_gpu']:>14.1f}{gpu['hours']:>10,.1f}{gpu['gpu_hours']:>11,.0f}"
        )
    if "measured" in content:
        lines += ["", _measured_line(content["measured"])]
    return lines


def _measured_line(measured: dict[str, Any]) -> str:
    return (
        f"measured here ({measured['device']}): {measured['seconds_per_step']:.2f} s per step, "
        f"{measured['images_per_s_per_gpu']:.2f} images/s, peak {measured['peak_bytes'] / 1e9:.2f} GB; "
        f"at this speed {measured['hours']:,.1f} hours, {measured['gpu_hours']:,.0f} device-hours"
    )
