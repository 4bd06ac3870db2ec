"""`python -m sampling merge-lora`: a model folder and adapters to a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from intarsia.command_line import Commands
from intarsia.files import check_replaceable
from intarsia.model_folder import INDEX, check_model_folder


def add(commands: Commands) -> None:
    """Declare `merge-lora`."""
    parser = commands.add_parser(
        "merge-lora",
        help="add trained adapters (LoRA) into a model folder",
        description="Write OUT, the model folder with the adapters added into its weights: as large and as "
        "fast as the model itself, for every command.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model folder, the base")
    parser.add_argument(
        "--lora", type=Path, required=True, metavar="DIR", help="adapters: RUN/lora of a training run"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model folder to write")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of the adapters (default %(default)s)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    check_model_folder(arguments.model)
    check_replaceable(arguments.out, INDEX)
    from intarsia.lora import merge_adapters
    from intarsia.weights import read_model, save_model

    model = read_model(arguments.model)
    changed = merge_adapters(model, arguments.lora, arguments.scale)
    save_model(model, arguments.out)
    print(f"{arguments.out}: {arguments.model} with {changed} weights changed")
