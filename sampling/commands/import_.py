"""`python -m sampling import`: original checkpoints to model folders; `import.py` could not be imported."""

from __future__ import annotations

import argparse
from pathlib import Path

from intarsia.architecture import ModelConfig
from intarsia.command_line import Commands
from intarsia.config import Config, build_config, load_config
from intarsia.errors import UserError
from intarsia.files import check_replaceable
from intarsia.model_folder import INDEX
from sampling.options import add_dtype_option


class _ModelFile(Config):
    """A model config file: `model:` and what belongs to it."""

    model: ModelConfig = ModelConfig()


def add(commands: Commands) -> None:
    """Declare `import`."""
    parser = commands.add_parser(
        "import",
        help="make a model folder from an original Paint by Example checkpoint",
        description="Make a model folder from an original Paint by Example checkpoint (.ckpt, or "
        ".safetensors with its names). Nothing in the file is executed; every weight must be there.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="the checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model folder to write")
    parser.add_argument(
        "--config", type=Path, metavar="YAML", help="geometry of the model (default: the published one)"
    )
    parser.add_argument("--ema", action="store_true", help="take the averaged weights (model_ema.*)")
    parser.add_argument(
        "--new-null-exemplar",
        action="store_true",
        help="begin the null exemplar at zero, for early checkpoints that have none",
    )
    parser.add_argument(
        "--exemplar-tokens",
        choices=("class", "patches", "class+patches"),
        help="tokens of the exemplar that the UNet sees, which the file does not say: class for Paint by "
        "Example (default), class+patches for ObjectStitch",
    )
    add_dtype_option(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    if not arguments.checkpoint.is_file():
        what = "is a folder" if arguments.checkpoint.is_dir() else "does not exist"
        raise UserError(f"{arguments.checkpoint} {what}; give a checkpoint file, .ckpt or .safetensors")
    check_replaceable(arguments.out, INDEX)
    config = load_config(_ModelFile, arguments.config).model if arguments.config else ModelConfig()
    if arguments.exemplar_tokens:
        told = {"tokens": arguments.exemplar_tokens}
        content = config.model_dump() | {"exemplar": config.exemplar.model_dump() | told}
        config = build_config(ModelConfig, content, where="--exemplar-tokens")
    from intarsia.pretrained import WrongGeometry

    try:
        import_original(
            arguments.checkpoint,
            arguments.out,
            config,
            arguments.ema,
            arguments.dtype,
            arguments.new_null_exemplar,
        )
    except WrongGeometry as error:
        if arguments.config is not None:
            raise
        raise UserError(
            f"{str(error).rpartition('; ')[0]}; without --config the published geometry is assumed: give "
            "--config YAML, the config of the model (configs/model/demo.yaml for that of `make demo`)"
        ) from None
    print(f"{arguments.out}: model folder, {arguments.dtype}")


def import_original(
    checkpoint: Path,
    out: Path,
    config: ModelConfig,
    averaged: bool = False,
    dtype: str = "float32",
    new_null: bool = False,
) -> None:
    """Make a model folder of an original checkpoint.

    Args:
        checkpoint: .ckpt or .safetensors with the original names.
        out: the model folder; an existing one is replaced once the new one is whole.
        config: the checkpoint's geometry and noise levels.
        averaged: take the UNet's averaged weights.
        dtype: precision of the weights, a `sampling.settings.Dtype`; float32 holds all exactly.
        new_null: begin the null exemplar, which an early checkpoint does not have, at zero.

    Raises:
        UserError: if the file cannot be read, is another kind of model, or does not fit `config`.
    """
    import torch

    from intarsia.files import sha256_file
    from intarsia.model import empty_model
    from intarsia.original import from_original
    from intarsia.pretrained import has_averages, read_weights
    from intarsia.weights import save_model

    state = read_weights(checkpoint)
    model = empty_model(config)
    from_original(model, state, checkpoint, averaged, new_null)
    which = "the averaged weights" if averaged else "the plain weights"
    others = f"; it also holds {'plain' if averaged else 'averaged'} ones" if has_averages(state) else ""
    others += "; its null exemplar is zero and untrained: no guidance" if new_null else ""
    lineage = f"{checkpoint.name} (sha256 {sha256_file(checkpoint)}), {which}{others}"
    del state
    model.to(getattr(torch, dtype))
    save_model(model, out, _imported_card(config, lineage, dtype))


def _imported_card(config: ModelConfig, lineage: str, dtype: str) -> str:
    size, exemplar, tokens = config.image_size, config.exemplar_size, config.num_tokens
    as_tokens = f" as {tokens} tokens" if tokens > 1 else ""
    return f"""---
pipeline_tag: image-to-image
tags: [exemplar-based-editing, inpainting, diffusers]
---
# An exemplar-based editing model

Repaints the masked part of a picture so that it shows the object of an exemplar picture.

- imported from {lineage}
- pictures of {size}×{size} pixels, exemplars of {exemplar}×{exemplar}{as_tokens}, weights {dtype}
- licence: the checkpoint's (Paint by Example's own is CreativeML OpenRAIL-M)
- no metrics were computed; see `python -m evaluation --help`

    python -m sampling edit --model THIS_FOLDER --image I.png --mask M.png --exemplar E.png --out O.png
"""
