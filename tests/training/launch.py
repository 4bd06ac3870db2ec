"""Starts runs of `many_runs` in processes of their own, and reads what they left."""

import atexit
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.paths import ROOT
from tests.training.many_runs import main
from training.checkpoint.rank_files import Parts
from training.tracking.tracker import read_metrics

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "offline"}


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
    environment.pop("WANDB_SERVICE", None)  # as in `_be_rank`
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def launch(
    root: Path, name: str, jobs: Sequence[dict[str, Any]], ranks: int = 1, path: Path | None = None
) -> None:
    """Run the jobs in a new process for each rank; `path`: a further folder of Python's path."""
    ended = forked(main, [[str(_listed(root, name, jobs))]] * ranks, root, path)
    assert not any(code for code, _ in ended), ended


def forked(
    program: Callable[[Sequence[str]], int | None],
    arguments: Sequence[Sequence[str]],
    root: Path,
    path: Path | None = None,
) -> list[tuple[int, str]]:
    """Run a program on a rank for each list of arguments; the exit code and the last words of each.

    The processes are forked from one that has imported torch and DeepSpeed already.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.preloaded"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(dir=root))
    common = {"WORLD_SIZE": len(arguments), "LOCAL_WORLD_SIZE": len(arguments)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    with pytest.MonkeyPatch.context() as patch:
        for key, value in ENVIRONMENT.items():
            patch.setenv(key, value)  # of the process that is forked
        for rank, own in enumerate(arguments):
            places = common | {"RANK": rank, "LOCAL_RANK": rank} if len(arguments) > 1 else {}
            said = folder / f"rank-{rank}.txt"
            started.append(context.Process(target=_be_rank, args=(program, own, path, said, places)))
            started[-1].start()
    for process in started:
        process.join()
    words = [(folder / f"rank-{rank}.txt").read_text()[-4000:] for rank in range(len(arguments))]
    return [(process.exitcode or 0, said) for process, said in zip(started, words, strict=True)]


def _be_rank(
    program: Callable[[Sequence[str]], int | None],
    arguments: Sequence[str],
    path: Path | None,
    said: Path,
    places: dict[str, Any],
) -> None:
    file = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(ROOT)
    os.environ.update(ENVIRONMENT | {key: str(value) for key, value in places.items()})
    os.environ.pop("WANDB_SERVICE", None)  # of a test that ran W&B in pytest's process, and has ended it
    sys.path[:0] = [str(path)] if path else []
    code = program(arguments)
    atexit._run_exitfuncs()  # type: ignore[attr-defined] # as at the end of a program; W&B flushes in one
    sys.exit(code)


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
