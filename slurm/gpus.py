"""`doctor --gpus`: what the driver reports of each GPU, how fast they compute, and how fast they exchange."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from intarsia.errors import UserError
from intarsia.files import ROOT
from slurm.checks import Finding
from slurm.gpu_work import MARK

_UNKNOWN = Finding("Xid events", "ok", "unknown: the kernel's log cannot be read here")
SLOW = 0.9  # share of the fastest GPU's speed below which one is slow
_SECONDS = 300
_FIELDS = {  # of nvidia-smi --query-gpu
    "index": "index",
    "name": "name",
    "ecc": "ecc.errors.uncorrected.volatile.total",
    "clock": "clocks.current.sm",
    "most": "clocks.max.sm",
    "slowed": "clocks_event_reasons.hw_slowdown",
}


def driver() -> Iterator[Finding]:
    """What nvidia-smi and the kernel's log report: name, clock, memory errors, Xid events."""
    program = shutil.which("nvidia-smi")
    if program is None:
        remedy = "install NVIDIA's driver, or ask for GPUs: srun --gpus-per-node=8"
        yield Finding("GPUs' driver", "failure", "nvidia-smi is not found", remedy)
        return
    command = [program, f"--query-gpu={','.join(_FIELDS.values())}", "--format=csv,noheader,nounits"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        found = " ".join((run.stdout + run.stderr).split())[:200]
        yield Finding(
            "GPUs' driver", "failure", f"nvidia-smi fails: {found}", "reboot the node, or report it"
        )
        return
    for row in csv.reader(run.stdout.splitlines(), skipinitialspace=True):
        yield _gpu(dict(zip(_FIELDS, row, strict=False)))
    yield _xids()


def _gpu(gpu: dict[str, str]) -> Finding:
    """One line of nvidia-smi."""
    what = f"GPU {gpu['index']}"
    found = f"{gpu['name']}, clock {gpu['clock']} of {gpu['most']} MHz"
    if gpu["ecc"].isdecimal() and int(gpu["ecc"]):
        remedy = "its results cannot be trusted: drain the node and reset the GPU"
        return Finding(what, "failure", f"{found}, {gpu['ecc']} uncorrected memory errors", remedy)
    if gpu["slowed"] == "Active":
        return Finding(what, "warning", f"{found}, slowed down by its hardware", "check power and cooling")
    return Finding(what, "ok", found)


def _xids() -> Finding:
    """Xid events in the kernel's log: the driver's reports of faults, by GPU."""
    if shutil.which("dmesg") is None:
        return _UNKNOWN
    run = subprocess.run(["dmesg"], capture_output=True, text=True, check=False)
    if run.returncode:
        return _UNKNOWN
    counts = Counter(re.findall(r"NVRM: Xid \(PCI:([^)]+)\): (\d+)", run.stdout))
    if not counts:
        return Finding("Xid events", "ok", "none since the node started")
    found = ", ".join(f"{number} × Xid {kind} of {place}" for (place, kind), number in counts.most_common())
    return Finding("Xid events", "warning", found, "NVIDIA's Xid catalogue says what they mean")


def work(nodes: int, gpus: int, options: Sequence[str] = ()) -> list[Finding]:
    """Speed of each GPU and bandwidth among all of them; on this machine, or on `nodes` nodes through srun.

    Args:
        nodes: number of nodes; 0 for this machine alone.
        gpus: processes on each machine, one for each GPU.
        options: further options of srun.

    Raises:
        UserError: if the processes cannot be started or do not end, with their last words.
    """
    measure = ["-m", "slurm.gpu_work"]
    if nodes:
        command = ["srun", f"--nodes={nodes}", f"--ntasks-per-node={gpus}", "--time=10", *options]
        command += [sys.executable, *measure]
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
        command += measure
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"the GPUs' work has not ended after {_SECONDS} s: NCCL hangs; NCCL_DEBUG=INFO says where"
        ) from None
    lines = [line.removeprefix(MARK) for line in run.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        words = (run.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise UserError(f"the GPUs' work failed: {words}")
    return list(_judged(json.loads(lines[0])))


def _judged(measured: dict[str, Any]) -> Iterator[Finding]:
    """Each GPU against the fastest, then the exchange."""
    ranks = measured["ranks"]
    fastest = max(rank["flops"] for rank in ranks)
    for rank in ranks:
        what = f"{rank['node']}: GPU {rank['gpu']}" if rank["gpu"] is not None else f"{rank['node']}: CPU"
        found = f"{rank['flops'] / 1e12:.3g} TFLOP/s, {rank['flops'] / fastest:.0%} of the fastest"
        slow = rank["flops"] < SLOW * fastest
        remedy = "every step waits for it: exclude the node (--exclude) and report it" if slow else ""
        yield Finding(what, "warning" if slow else "ok", found, remedy)
    if len(ranks) > 1:
        found = f"{measured['bytes_per_s'] / 1e9:.3g} GB/s bus bandwidth among {len(ranks)} ranks"
        yield Finding("all-reduce", "ok", found)
