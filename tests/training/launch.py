"""Starts runs of `many_runs` in processes of their own, and reads what they left."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.paths import ROOT
from training.checkpoint.rank_files import Parts
from training.tracking.tracker import read_metrics

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "offline"}


@dataclass(frozen=True)
class Runs:
    """Run folders by name."""

    root: Path

    def losses(self, name: str) -> list[float]:
        return [record["train/loss"] for record in self.metrics(name)]

    def metrics(self, name: str) -> list[dict[str, Any]]:
        return read_metrics(self.root / name / "metrics.jsonl")

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        unet = self.root / name / "model" / "unet" / "diffusion_pytorch_model.safetensors"
        return load_file(unet)


def start(
    root: Path, name: str, jobs: Sequence[dict[str, Any]], ranks: int, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`path`: a further folder of Python's path."""
    listed = root / f"{name}.json"
    listed.write_text(json.dumps(jobs))
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["-m", "tests.training.many_runs", str(listed)]
    environment = ENVIRONMENT | ({"PYTHONPATH": f"{path}{os.pathsep}{ROOT}"} if path else {})
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def launch(
    root: Path, name: str, jobs: Sequence[dict[str, Any]], ranks: int = 1, path: Path | None = None
) -> None:
    run = start(root, name, jobs, ranks, path)
    assert run.returncode == 0, run.stderr[-4000:]


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


def numbers(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every kind of every parameter, flat, put together from the parts of all ranks."""
    parts = Parts(checkpoint)
    found = {}
    for key, size in parts.sizes().items():
        kind, _, name = key.partition("/")
        found[key] = torch.full((size,), torch.nan)
        parts.read(kind, name, 0, found[key])
    return found


@cache
def wandb_records(part: Path) -> list[dict[str, Any]]:
    """The records of an offline W&B file, through W&B's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(part)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in shown.splitlines()]


def of_kind(records: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    return (record[kind] for record in records if record["type"] == kind)


def wandb_parts(run: Path) -> list[list[dict[str, Any]]]:
    """The records of each process that worked on a run, in their order."""
    return [wandb_records(part) for part in sorted((run / "wandb").glob("offline-run-*"))]
