"""Measure correctness, speed and memory on one GPU, with comparisons.

    make gpu                                        # one GPU, the real geometry, nothing downloaded
    python -m benchmarks.gpu --out FOLDER --write   # the tables go into benchmarks/RESULTS.md and README.md
    python -m benchmarks.gpu --rehearse             # the same steps on a CPU at toy size, in a few minutes

Weights are random; trained ones take the same time. Each part has a time limit, so that a part that fails or
hangs affects only its own row. The parts: losses in bf16 against fp32 and against the CPU; training online
and from stored latents, against the plain step and against `estimate`; sampling against diffusers; a run that
is continued; and the cost of a checkpoint. Targets for an H200: 82 pictures/s online, 155 stored, 1.3 times
the plain step and 1.3 times diffusers.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from intarsia.errors import UserError, run_command
from intarsia.files import ROOT, atomic_write

COCO = ROOT / "examples" / "coco-mini"
MARKS = ("<!-- gpu -->", "<!-- /gpu -->")  # in README.md, around the row of figures


@dataclass(frozen=True)
class Size:
    """The size of the measurements: real or rehearsal.

    Attributes:
        train: config and overrides of the training step.
        steps: number of measured steps per case.
        sampling: options of benchmarks/sampling.py.
        device: device name for the commands.
        seconds: time limit of each part in seconds.
    """

    train: tuple[str, ...]
    steps: int
    sampling: tuple[str, ...]
    device: str
    seconds: int


_PLAIN = ("optimizer.ema_decay=null", "activation_checkpointing=false")
REAL = Size(
    ("configs/train/pbe-sd14.yaml", "precision=bf16", "micro_batch_size=32", *_PLAIN),
    10,
    ("--dtype", "bfloat16", "--num-inference-steps", "50", "--rounds", "2"),
    "cuda",
    240,
)
REHEARSAL = Size(
    ("configs/train/demo.yaml", "micro_batch_size=2", "optimizer.ema_decay=null"),
    2,
    ("--num-inference-steps", "2", "--rounds", "1"),
    "cpu",
    300,
)
Row = tuple[str, str, str]  # what, measured, compared with


def main() -> int:
    """Run the benchmark; return the exit code."""
    return run_command(_command)


def _command(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="folder for the table and the output of each part")
    parser.add_argument("--write", action="store_true", help="put the figures in RESULTS.md and README.md")
    parser.add_argument(
        "--rehearse", action="store_true", help="run on a CPU at toy size; nothing is written"
    )
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="part to run; may be repeated")
    arguments = parser.parse_args(argv)
    device = "CPU" if arguments.rehearse else gpu_name()
    size = REHEARSAL if arguments.rehearse else REAL
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        for name in arguments.part or PARTS:
            began = time.monotonic()
            found = PARTS[name](size, out)
            rows += found
            say(f"{name}: {time.monotonic() - began:.0f} s")
            for row in found:
                say("  " + "  ".join(row))
        text = table(device, rows)
        atomic_write(out / "gpu.md", text)
    print(text)
    if arguments.write and not arguments.rehearse:
        add_to_results(text)
        add_to_readme(device, rows)
    return int(any("failed" in measured for _, measured, _ in rows))


def gpu_name() -> str:
    """Name of the first GPU.

    Raises:
        UserError: if there is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "torch finds no GPU here; on a CPU `python -m benchmarks.gpu --rehearse` runs the same steps"
        )
    return torch.cuda.get_device_name()


# -- parts ---------------------------------------------------------------------------------------------------


def agreement(size: Size, out: Path) -> list[Row]:
    """Losses of one micro-batch: this device against the CPU in fp32, and bf16 against fp32."""
    content = ask([sys.executable, "-m", "benchmarks.agreement", size.device], size, out / "agreement.txt")
    if isinstance(content, str):
        return [("losses agree", content, "")]
    return [
        (f"loss, {name}", f"{run['loss']:.6f}", f"off the CPU's fp32 by {run['error']:.1e}")
        for name, run in content.items()
    ]


def training(size: Size, out: Path) -> list[Row]:
    """The step online and from stored latents against the plain one, and memory against `estimate`."""

    def step(who: str, *more: str) -> Any:
        words = [*size.train, *more, "--steps", str(size.steps), "--only", who]
        log = out / f"training-{who}-{'stored' if more else 'online'}.txt"
        return ask([sys.executable, "-m", "benchmarks.training", *words], size, log)

    rows, peer = [], step("peer")
    for name, more in (("online", []), ("from stored latents", ["data.latents=true"])):
        ours = step("ours", *more)
        if isinstance(ours, str):
            rows.append((f"training {name}", ours, ""))
            continue
        speed = ours["samples"] / ours["step_s"]
        mfu = speed * ours["flops"] / ours["matmul"]
        against = peer if isinstance(peer, str) else f"{speed * peer['step_s'] / peer['samples']:.2f} x plain"
        rows.append((f"training {name}", f"{speed:.4g} pictures/s, MFU {mfu:.1%}", f"{against} online"))
        rows.append((f"memory {name}", f"{ours['peak_bytes'] / 1e9:.2f} GB", estimated(size, more)))
    return rows


def estimated(size: Size, more: Sequence[str]) -> str:
    """The peak memory according to `estimate`."""
    command = [sys.executable, "-m", "training", "estimate", *size.train, *more, "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        return run.stderr.strip()
    told = json.loads(run.stdout)
    memory = told["memory"][str(told["zero_stage"])]
    peak = memory["peak"] if "peak" in memory else sum(memory.values())
    return f"estimate: {peak / 1e9:.2f} GB"


def sampling(size: Size, out: Path) -> list[Row]:
    """One edit and eight edits against diffusers, with the same random weights."""
    log = out / "sampling.txt"
    command = [sys.executable, "-m", "benchmarks.sampling", "--device", size.device, *size.sampling]
    if size is REAL:
        command += ["--model", str(random_model(out / "model"))]
    text = output(command, size, log)
    rows = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].endswith(", wall"):
            rows.append((f"sampling, {cells[0]}", cells[2], f"{cells[3]} x diffusers ({cells[1]})"))
    return rows or [("sampling", text.splitlines()[-1] if text else "failed", "")]


def random_model(folder: Path) -> Path:
    """A model folder with the real geometry and random weights."""
    if not (folder / "model_index.json").is_file():
        from intarsia.architecture import ModelConfig
        from intarsia.model import build_model
        from intarsia.weights import save_model

        save_model(build_model(ModelConfig(), 0).bfloat16(), folder)
    return folder


def continuing(size: Size, out: Path) -> list[Row]:
    """A run of the demo's model without a stop, against one that is stopped halfway and continued."""
    shards = out / "shards"
    files = ["--annotations", COCO / "annotations.json", "--images", COCO / "images", "--out", shards]
    build = [sys.executable, "-m", "dataprep", "build", "coco", *map(str, files), "--image-size", "64"]
    said = output(build, size, out / "shards.txt")
    if not (shards / "manifest.json").is_file():
        return [("continuing a run", f"failed: {said}", "")]
    ends = {}
    for name, stops in (("whole", (20,)), ("continued", (10, 20))):
        for stop in stops:
            words = [f"data.shards={shards}", f"run={out / name}", f"max_steps={stop}", "global_batch_size=8"]
            words += ["preview.every_steps=0", "validation.every_steps=0", "tracker.wandb=off", "log_every=1"]
            words += ["micro_batch_size=8", "checkpoint.every_steps=10"]
            command = [sys.executable, "-m", "training", "configs/train/demo.yaml", *words]
            said = output(command, size, out / f"{name}-{stop}.txt")
        metrics = out / name / "metrics.jsonl"
        if not metrics.is_file():
            return [("continuing a run", f"failed: {said.splitlines()[-1] if said else ''}", "")]
        ends[name] = json.loads(metrics.read_text().splitlines()[-1])["train/loss"]
    difference = abs(ends["continued"] - ends["whole"]) / ends["whole"]
    return [("continuing a run", f"loss {ends['continued']:.6f}", f"off the whole run's by {difference:.1e}")]


def checkpoints(size: Size, out: Path) -> list[Row]:
    """The time that training stands still for a save."""
    command = [sys.executable, "-m", "benchmarks.checkpoint", *size.train, "--steps", "3", "--rounds", "2"]
    text = output([*command, "--out", str(out / "checkpoints")], size, out / "checkpoint.txt")
    lines = [line.split() for line in text.splitlines() if line.startswith(("synchronous", "asynchronous"))]
    rows = [(f"a save, {line[0]}", f"stands still {line[1]} s", f"steps later {line[3]} s") for line in lines]
    return rows or [("a save", text.splitlines()[-1] if text else "failed", "")]


PARTS: dict[str, Callable[[Size, Path], list[Row]]] = {
    "agreement": agreement,
    "training": training,
    "sampling": sampling,
    "continuing": continuing,
    "checkpoints": checkpoints,
}

# -- commands and reports ------------------------------------------------------------------------------------


def output(command: Sequence[str], size: Size, log: Path) -> str:
    """The output of a command, also written to `log`; if the command fails, the last line is the reason."""
    try:
        run = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=size.seconds
        )
    except subprocess.TimeoutExpired:
        return f"failed: not done after {size.seconds} s"
    atomic_write(log, f"$ {' '.join(command)}\n{run.stdout}\n{run.stderr}")
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no error message"])[-1]
        return f"{run.stdout}\nfailed: {last}"
    return run.stdout


def ask(command: Sequence[str], size: Size, log: Path) -> Any:
    """The JSON in a command's last line, or a sentence if the command fails."""
    text = output(command, size, log).strip()
    last = text.splitlines()[-1] if text else "failed: it printed nothing"
    return last if last.startswith("failed") else json.loads(last)


def table(device: str, rows: Sequence[Row]) -> str:
    """The table of all rows under a dated heading."""
    import torch

    lines = [
        f"## {date.today()} · {device}, torch {torch.__version__}",
        "",
        "`make gpu`, random weights.",
        "",
    ]
    lines += ["| what | measured | compared with |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def add_to_results(text: str) -> None:
    """Insert the table above the older ones."""
    path = ROOT / "benchmarks" / "RESULTS.md"
    before = path.read_text(encoding="utf-8")
    place = before.index("\n## ") + 1
    atomic_write(path, f"{before[:place]}{text}\n{before[place:]}")


def add_to_readme(device: str, rows: Sequence[Row]) -> None:
    """Write the training and sampling figures between the marks in README.md."""
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    chosen = [row for row in rows if row[0].startswith(("training", "sampling"))]
    lines = [f"| {what}, {device} | {measured} | {compared} |" for what, measured, compared in chosen]
    inside = "\n".join(
        [MARKS[0], "", "| what | measured | compared with |", "|---|---|---|", *lines, "", MARKS[1]]
    )
    pattern = re.compile(re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1]), re.DOTALL)
    if not pattern.search(before):
        raise UserError(f"README.md lacks the marks {MARKS[0]} and {MARKS[1]}")
    atomic_write(path, pattern.sub(lambda _: inside, before))


def say(text: str) -> None:
    """Print a line on standard error at once; the table goes to standard output."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
