"""Calculate again what README, docs and the headers of the recipes say is calculated, and compare the texts.

    python -m benchmarks.calculated [--only WORDS]

Each row of calculated.yaml is a text with holes for figures of `python -m training estimate`. With those of
today the text must be in its file, line breaks aside; else the exit code is 1. All rows take minutes of a
CPU, but no data and no weights.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from intarsia.config import load_config
from intarsia.errors import UserError, run_command
from intarsia.files import ROOT
from sampling.denoise.gpus import GPUS
from training.config import TrainConfig, batch_shape
from training.estimate.figures import estimate_run

TEXTS = Path(__file__).with_suffix(".yaml")
RECIPES = ROOT / "configs" / "train"
MFU, STEPS = 0.35, 50


@dataclass(frozen=True)
class Row:
    """A text of a file, with holes for the figures of a recipe with overrides, on `world` GPUs."""

    file: str
    recipe: str
    text: str
    overrides: tuple[str, ...] = ()
    world: int = 1
    beside: str | None = None  # recipe in bf16 that `more`, `beside` and `guidance` compare with


def main() -> int:
    """Compare; the exit code."""
    return run_command(compare)


def compare(argv: Sequence[str]) -> None:
    """Print each row as it is calculated, and whether its file says the same.

    Raises:
        UserError: if a file says something else.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORDS", help="part of a file's or a recipe's name")
    only = parser.parse_args(argv).only
    rows = [row for row in read_rows() if only in row.file or only in row.recipe]
    different = 0
    for row in rows:
        text = calculated(row)
        stands = text in words_of((ROOT / row.file).read_text(encoding="utf-8"))
        different += not stands
        sys.stdout.write(f"{'as calculated' if stands else 'NOT IN THE FILE':15}  {row.file}: {text}\n")
        sys.stdout.flush()
    if different:
        raise UserError(f"{different} of {len(rows)} texts are not what is calculated now; correct them")


def read_rows() -> list[Row]:
    """The rows of calculated.yaml."""
    rows = yaml.safe_load(TEXTS.read_text(encoding="utf-8"))
    return [Row(**{**row, "overrides": tuple(row.get("overrides", ()))}) for row in rows]


def calculated(row: Row) -> str:
    """The row's text with the figures of today."""
    beside = figures(row.beside, ("precision=bf16",), row.world) if row.beside else None
    own = figures(row.recipe, row.overrides, row.world)
    return row.text.format(**own, **(compared(own, beside) if beside else {}))


def compared(own: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    """Percent more arithmetic than `beside`; a noised encoder's gradient, as percent of that guided step."""
    kinds = ("trained", "whole")
    more = {kind: 100 * (getattr(own["tflop"], kind) / getattr(beside["tflop"], kind) - 1) for kind in kinds}
    gradient = 2 / 3 * own["tflop"].whole  # of training's three passes, that for the weights is not needed
    return {
        "more": SimpleNamespace(**more),
        "beside": SimpleNamespace(**beside),
        "guidance": 100 * gradient / beside["tflop"].guided,
    }


@cache
def figures(recipe: str, overrides: tuple[str, ...], world: int) -> dict[str, Any]:
    """The figures of a recipe by the names of the rows' holes: GB, TFLOP, hours, pictures per second."""
    config = load_config(TrainConfig, RECIPES / f"{recipe}.yaml", list(overrides))
    found = estimate_run(config, batch_shape(config, world), list(GPUS), MFU)
    memory = found["memory"][str(found["zero_stage"])]
    flops, cpu = found["flops_per_sample"], found["cpu_memory"]
    gb = {name: value / 1e9 for name, value in memory.items() if name != "moment"}
    gb["rank"] = gb["master"] + gb["moments"] + gb["ema"]
    gb["networks"] = gb["weights"] + gb["frozen"]
    gb["encoder"] = gb["peak"] - gb["networks"]
    gb["other"] = found["peak_if_checkpointing_were_switched"] / 1e9
    tflop = {name: value / 1e12 for name, value in flops.items()}
    tflop["trained"] = tflop["forward"] + tflop["backward"]
    tflop["frozen"] = tflop["whole"] - tflop["trained"]
    tflop["guided"] = 2 * tflop["forward"]  # guidance asks the UNet twice
    speed = MFU * GPUS["a100-80"].bf16_tflops
    return {
        "gb": SimpleNamespace(**gb),
        "tflop": SimpleNamespace(**tflop),
        "gflop": 1e3 * tflop["whole"],
        "trained": found["weights"]["trained"],
        "millions": found["weights"]["trained"] / 1e6,
        "samples": found["samples"] / 1e6,
        "checkpoint": found["checkpoints"]["bytes"] / found["checkpoints"]["number"] / 1e6,
        "cpu": (cpu["optimizer"] + cpu["checkpoint"]) / 1e9,
        "cpu_optimizer": cpu["optimizer"] / 1e9,
        "cpu_copy": cpu["checkpoint"] / 1e9,
        "hours": by_gpu(found, "hours"),
        "gpu_hours": by_gpu(found, "gpu_hours"),
        "rate": by_gpu(found, "images_per_s_per_gpu"),
        "peak": by_gpu(found, "bf16_tflops"),
        "step": round(1e3 * tflop["forward"], -1),
        "guided": round(1e3 * tflop["guided"], -1),
        "step_seconds": STEPS * tflop["forward"] / speed,
        "guided_seconds": STEPS * tflop["guided"] / speed,
    }


def by_gpu(found: Mapping[str, Any], figure: str) -> dict[str | int, float | None]:
    """A figure of each GPU; the hole {rate[4090]} looks for a number."""
    gpus = found["gpus"].items()
    return {int(name) if name.isdecimal() else name: gpu.get(figure) for name, gpu in gpus}


def words_of(text: str) -> str:
    """A file's words with single spaces: no line breaks, no signs of a comment."""
    return " ".join(re.sub(r"(?m)^#", " ", text).split())


if __name__ == "__main__":
    sys.exit(main())
