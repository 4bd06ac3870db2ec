"""`python -m sampling export`: a model folder to what other programs read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.command_line import Commands
from intarsia.errors import UsageError, UserError
from intarsia.files import check_replaceable
from intarsia.model_folder import INDEX, PIPELINES, check_model_folder, read_notes
from sampling.options import add_dtype_option

if TYPE_CHECKING:
    from intarsia.model import EditModel

_FORMS = ("diffusers", "original", "safetensors-single")
_PATTERN = "*.safetensors"
# diffusers has moved its pipeline, so a plain folder no longer finds it. With this file beside the weights,
# `from_pretrained(folder, trust_remote_code=True)` does.
_REEXPORT = (
    '"""So that diffusers finds the class that model_index.json names."""\n\n'
    "from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder  # noqa: F401\n"
)

_LACKS = {  # notes of a model folder -> why diffusers' pipeline cannot do it
    "exemplar": "makes one token of CLIP's class vector",
    "structure": "has no structure maps",
    "low_res": "has no low-resolution picture",
    "compose": "shows the UNet noise everywhere",
}


def add(commands: Commands) -> None:
    """Declare `export`."""
    parser = commands.add_parser(
        "export",
        help="write a model folder for other programs",
        description="Write a model folder for other programs: diffusers (a folder), original (a .ckpt with "
        "the names of Paint by Example's authors), safetensors-single (the same names, one .safetensors).",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model folder")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="folder or file to write")
    parser.add_argument("--format", choices=_FORMS, required=True)
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="with `diffusers`: put NAME into the files' names, for `variant=NAME`",
    )
    add_dtype_option(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
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
    print(f"{arguments.out}: {form}, {arguments.dtype}")
    notes = read_notes(arguments.out) if form == "diffusers" else {}
    lacks = [lack for name, lack in _LACKS.items() if name in notes]
    for lack in lacks:
        print(f"diffusers' own pipeline refuses it, because it {lack}")
    if notes and not lacks and notes not in PIPELINES.values():
        print("no pipeline of diffusers can be told what this model is told; all refuse it")


def export_model(
    folder: Path, out: Path, form: str, dtype: str = "float32", variant: str | None = None
) -> None:
    """Write a model folder for other programs, whole or not at all.

    Args:
        folder: the model folder.
        out: the folder (`diffusers`) or file to make; an existing one is replaced.
        form: diffusers, original or safetensors-single.
        dtype: precision of the weights, a `sampling.settings.Dtype`.
        variant: part of the weights' file names; only for `diffusers`.

    Raises:
        UserError: if `folder` is not a model folder, or is `out`.
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
        temporary.touch()  # fails with our sentence; the writers have other ones
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
        if model.image_encoder is not None:
            (temporary / "image_encoder" / "paint_by_example.py").write_text(_REEXPORT, encoding="utf-8")
        for path in list(temporary.rglob(_PATTERN)) if variant else ():
            path.rename(path.with_name(f"{path.stem}.{variant}{path.suffix}"))
