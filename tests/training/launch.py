"""Starts runs of `many_runs` in processes of their own, and reads what they left."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.forks import ENVIRONMENT, Program, begin
from tests.paths import ROOT
from tests.training.many_runs import main
from training.checkpoint.rank_files import Parts
from training.tracking.tracker import read_metrics


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


def torchrun(root: Path, name: str, jobs: Sequence[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Run the jobs on two ranks as a user would start them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.training.many_runs", str(_listed(root, name, jobs))]
    environment = os.environ | ENVIRONMENT
    environment.pop("WANDB_SERVICE", None)  # as in tests/forks.py
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def launch(
    root: Path, name: str, jobs: Sequence[dict[str, Any]], ranks: int = 1, path: Path | None = None
) -> None:
    """Run the jobs in a new process for each rank; `path`: a further folder of Python's path."""
    ended = forked(main, [[str(_listed(root, name, jobs))]] * ranks, path)
    assert not any(code for code, _ in ended), ended


def forked(
    program: Program, arguments: Sequence[Sequence[str]], path: Path | None = None
) -> list[tuple[int, str]]:
    """Run a program on a rank for each list of arguments; the exit code and the last words of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": len(arguments), "LOCAL_WORLD_SIZE": len(arguments)}
    common |= {"MASTER_PORT": port}
    ranks = []
    for rank, own in enumerate(arguments):
        places = common | {"RANK": rank, "LOCAL_RANK": rank} if len(arguments) > 1 else {}
        place = {key: str(value) for key, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"}
        ranks.append(begin(program, own, place, str(path or "")))
    ended = [rank.wait() for rank in ranks]
    return [(one.returncode, one.stderr[-4000:]) for one in ended]


def _listed(root: Path, name: str, jobs: Sequence[dict[str, Any]]) -> Path:
    listed = root / f"{name}.json"
    listed.write_text(json.dumps(jobs))
    return listed


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
