"""Measure each speed switch separately against the step without it: speed, memory, and change of the loss.

    python -m benchmarks.switches configs/train/pbe-sd14.yaml precision=bf16 micro_batch_size=32   # one GPU
    python -m benchmarks.switches configs/train/demo.yaml --steps 3                              # a rehearsal

Each case runs in a separate process (benchmarks/training.py --only ours); the plain step runs first and last,
and the better of the two counts. A switch that does not work on this machine is listed with its error.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

SWITCHES = {
    "tf32": ["speed.tf32=true"],
    "cudnn.benchmark": ["speed.cudnn_benchmark=true"],
    "channels last": ["speed.channels_last=true"],
    "half norms": ["speed.half_norms=true"],
    "fp8": ["speed.fp8=true"],
    "compile": ["compile=true"],
    "compile, max-autotune": ["compile=true", "speed.compile_mode=max-autotune"],
    "compile, CUDA graphs": ["compile=true", "speed.compile_mode=cuda-graphs"],
    "compiled frozen networks": ["speed.compile_frozen=true"],
    "draws in workers": ["speed.draws_in_workers=true"],
    "pinned batches": ["speed.pin_memory=true"],
    "encode ahead": ["speed.encode_ahead=true"],
    "averages in one call": ["speed.foreach_averages=true"],
}


def main() -> int:
    """Parse the command line, measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c")
    parser.add_argument("--steps", type=int, default=10, help="number of measured steps per case (10)")
    parser.add_argument(
        "--only", choices=tuple(SWITCHES), action="append", help="switch to measure; may be repeated"
    )
    arguments = parser.parse_intermixed_args()
    base = [arguments.config, *arguments.overrides, "--steps", str(arguments.steps)]
    plain = [measure(base)]
    found = {name: measure([*base, *SWITCHES[name]]) for name in arguments.only or SWITCHES}
    plain.append(measure(base))
    print(table(plain, found))
    return 0


def measure(words: Sequence[str]) -> dict[str, Any] | str:
    """Measure our step with these arguments of `benchmarks.training`; return its error if it fails."""
    command = [sys.executable, "-m", "benchmarks.training", *words, "--only", "ours"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        return (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
    return json.loads(run.stdout.splitlines()[-1])


def table(plain: Sequence[dict[str, Any] | str], found: dict[str, dict[str, Any] | str]) -> str:
    """The table with one row per switch: speed, ratio to the plain step, memory, change of the loss."""
    whole = [run for run in plain if not isinstance(run, str)]
    if not whole:
        return f"the plain step cannot run here: {plain[0]}"
    base = min(whole, key=lambda run: run["step_s"])
    lines = [
        f"{base['device']}, {base['samples']} pictures a step; {base['work']}",
        "",
        "| switch | images/s | times the plain step | peak memory, GB | loss, less the plain step's |",
        "|---|---|---|---|---|",
        f"| none | {base['samples'] / base['step_s']:.4g} | 1 | {base['peak_bytes'] / 1e9:.2f} | 0 |",
    ]
    for name, run in found.items():
        if isinstance(run, str):
            lines.append(f"| {name} | {run} | | | |")
            continue
        speed, ratio = run["samples"] / run["step_s"], base["step_s"] / run["step_s"]
        memory, loss = run["peak_bytes"] / 1e9, run["loss"] - base["loss"]
        lines.append(f"| {name} | {speed:.4g} | **{ratio:.2f}** | {memory:.2f} | {loss:+.1e} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
