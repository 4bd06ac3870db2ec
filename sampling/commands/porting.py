"""`import` and `export`: original checkpoints to model folders, and model folders to what others read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.architecture import ModelConfig
from intarsia.command_line import Commands
from intarsia.config import Config, load_config
from intarsia.errors import UsageError, UserError
from intarsia.files import check_replaceable
from intarsia.model_folder import INDEX, check_model_folder

if TYPE_CHECKING:
    from intarsia.model import EditModel

DTYPES = ("float32", "bfloat16", "float16")
FORMATS = ("diffusers", "original", "safetensors-single")
_PATTERN = "*.safetensors"
# diffusers has moved its pipeline to a corner where a plain folder no longer finds it. With this file
# beside the weights, `from_pretrained(folder, trust_remote_code=True)` does.
_REEXPORT = (
    '"""So that diffusers finds the class that model_index.json names."""\n\n'
    "from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder  # noqa: F401\n"
)


class _ModelFile(Config):
    """A model config file: `model:` and what belongs to it."""

    model: ModelConfig = ModelConfig()


def add_commands(commands: Commands) -> None:
    """Add `import` and `export` to the sampling command line."""
    parser = commands.add_parser(
        "import",
        help="make a model folder of an original Paint by Example checkpoint",
        description="Make a model folder of an original Paint by Example checkpoint (.ckpt, or .safetensors "
        "with its names). Nothing in the file is executed; every weight must be there.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="the checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model folder to make")
    parser.add_argument("--config", type=Path, metavar="YAML", help="its geometry; by default the published")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights (model_ema.*)")
    _add_dtype(parser)
    parser.set_defaults(run=_import)

    parser = commands.add_parser(
        "export",
        help="write a model folder for other programs",
        description="Write a model folder for other programs: diffusers (a folder), original (a .ckpt with "
        "the names of Paint by Example's authors), safetensors-single (the same names, one .safetensors).",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the model folder")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="the folder or file to make")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="with `diffusers`: put NAME into the files' names, as `variant=NAME` expects it there",
    )
    _add_dtype(parser)
    parser.set_defaults(run=_export)


def _add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the weights (default %(default)s)"
    )


def import_original(
    checkpoint: Path, out: Path, config: ModelConfig, averaged: bool = False, dtype: str = "float32"
) -> None:
    """Make a model folder of an original checkpoint.

    Args:
        checkpoint: .ckpt or .safetensors with the original names.
        out: the model folder; an existing one is replaced once the new one is whole.
        config: the checkpoint's geometry and noise levels.
        averaged: take the UNet's averaged weights.
        dtype: of the folder's weights, a name in `DTYPES`; float32 holds every other exactly.

    Raises:
        UserError: if the file cannot be read, is another kind of model, or does not fit `config`.
    """
    import torch

    from intarsia.files import sha256_file
    from intarsia.model import empty_model
    from intarsia.original import from_original, has_averages
    from intarsia.pretrained import read_weights
    from intarsia.weights import save_model

    state = read_weights(checkpoint)
    model = empty_model(config)
    from_original(model, state, checkpoint, averaged)
    which = "the averaged weights" if averaged else "the plain weights"
    others = f"; it also holds {'plain' if averaged else 'averaged'} ones" if has_averages(state) else ""
    lineage = f"{checkpoint.name} (sha256 {sha256_file(checkpoint)}), {which}{others}"
    del state
    model.to(getattr(torch, dtype))
    save_model(model, out, _imported_card(config, lineage, dtype))


def export_model(
    folder: Path, out: Path, form: str, dtype: str = "float32", variant: str | None = None
) -> None:
    """Write a model folder for other programs, whole or not at all.

    Args:
        folder: the model folder.
        out: the folder (`diffusers`) or file to make; an existing one is replaced.
        form: a name in `FORMATS`.
        dtype: of the weights, a name in `DTYPES`.
        variant: put into the names of the weights' files; of `diffusers` alone.

    Raises:
        UserError: if `folder` is no model folder, or is `out`.
    """
    import torch

    from intarsia.files import atomic_path
    from intarsia.original import to_original
    from intarsia.weights import read_model

    if out.resolve() == folder.resolve():
        raise UserError(f"{out} is the model folder itself; give --out another path")
    model = read_model(folder, dtype=getattr(torch, dtype))
    if form == "diffusers":
        _export_folder(model, folder, out, variant)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        temporary.touch()  # told in our words where that cannot be; the writers have others
        if form == "original":
            torch.save({"state_dict": to_original(model)}, temporary)
        else:
            from safetensors.torch import save_file

            state = {name: value.contiguous() for name, value in to_original(model).items()}
            save_file(state, temporary, metadata={"format": "pt"})
            temporary.chmod(0o644)


def _export_folder(model: EditModel, folder: Path, out: Path, variant: str | None) -> None:
    from intarsia.files import atomic_folder
    from intarsia.weights import save_model

    card = folder / "README.md"
    with atomic_folder(out, INDEX) as temporary:
        save_model(model, temporary, card.read_text(encoding="utf-8") if card.is_file() else None)
        (temporary / "image_encoder" / "paint_by_example.py").write_text(_REEXPORT, encoding="utf-8")
        for path in list(temporary.rglob(_PATTERN)) if variant else ():
            path.rename(path.with_name(f"{path.stem}.{variant}{path.suffix}"))


def _imported_card(config: ModelConfig, lineage: str, dtype: str) -> str:
    size, exemplar = config.image_size, config.image_encoder.image_size
    return f"""---
pipeline_tag: image-to-image
tags: [exemplar-based-editing, inpainting, diffusers]
---
# An exemplar-based editing model

Repaints the masked part of a picture so that it shows the object of an exemplar picture.

- imported from {lineage}
- pictures of {size}×{size} pixels, exemplars of {exemplar}×{exemplar}, weights {dtype}
- licence: the checkpoint's (Paint by Example's own is CreativeML OpenRAIL-M)
- no metrics were computed; `python -m evaluation --help` tells how

    python -m sampling edit --model THIS_FOLDER --image I.png --mask M.png --exemplar E.png --out O.png
"""


def _import(arguments: argparse.Namespace) -> None:
    if not arguments.checkpoint.is_file():
        what = "is a folder" if arguments.checkpoint.is_dir() else "does not exist"
        raise UserError(f"{arguments.checkpoint} {what}; a checkpoint file is wanted, .ckpt or .safetensors")
    check_replaceable(arguments.out, INDEX)
    config = load_config(_ModelFile, arguments.config).model if arguments.config else ModelConfig()
    import_original(arguments.checkpoint, arguments.out, config, arguments.ema, arguments.dtype)
    sys.stdout.write(f"{arguments.out}: model folder, {arguments.dtype}\n")


def _export(arguments: argparse.Namespace) -> None:
    form = arguments.format
    if arguments.variant and form != "diffusers":
        raise UsageError(f"--variant belongs to --format diffusers, not to {form}")
    if form == "safetensors-single" and arguments.out.suffix != ".safetensors":
        raise UsageError(f"--out {arguments.out}: a file of --format {form} must end in .safetensors")
    if form == "original" and arguments.out.suffix not in (".ckpt", ".pt", ".pth"):
        raise UsageError(f"--out {arguments.out}: a file of --format original must end in .ckpt")
    check_model_folder(arguments.model)
    if form == "diffusers":
        check_replaceable(arguments.out, INDEX)
    export_model(arguments.model, arguments.out, form, arguments.dtype, arguments.variant)
    sys.stdout.write(f"{arguments.out}: {form}, {arguments.dtype}\n")
