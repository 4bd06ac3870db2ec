"""Format the figures of a run as tables."""

from typing import Any


def estimate_text(content: dict[str, Any]) -> str:
    """Format the figures of `estimate_run` and, under `measured`, of `calibrate` as tables."""
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
    return "\n".join(lines)


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
    unit = f"{content['arithmetic']} TFLOP/s"
    lines = [
        f"at {content['mfu']:.0%} of the peak".ljust(20)
        + f"{unit}  GB  fits  images/s/GPU     hours  GPU-hours"
    ]
    for name, gpu in content["gpus"].items():
        if gpu["tflops"] is None:
            lines.append(f"  {name}".ljust(20) + "has no fp8: speed.fp8=true is refused there")
            continue
        fits = "yes" if peak < 0.94 * gpu["memory_gb"] else "no"  # 6 % for the driver and its libraries
        lines.append(
            f"  {name}".ljust(20) + f"{gpu['tflops']:>{len(unit)}.4g}{gpu['memory_gb']:>4g}{fits:>6}"
            f"{gpu['images_per_s_per_gpu']:>14.1f}{gpu['hours']:>10,.1f}{gpu['gpu_hours']:>11,.0f}"
        )
    if content["fp8_share"]:
        lines.append(
            f"  fp8: {content['fp8_share']:.0%} of the arithmetic (linear layers of the UNet); bf16: the rest"
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
