"""The sampling command line; libraries that take seconds to import are imported once they are needed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from intarsia.config import build_config
from intarsia.errors import UsageError, run_command
from sampling.porting import add_commands as add_porting
from sampling.settings import EditSettings, SchedulerName

if TYPE_CHECKING:
    import torch

_EPILOG = "Add --debug to any command to see the whole traceback of an error."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sampling command; the exit code is 0, 1 for a failure, 2 for wrong usage."""
    return run_command(_run, argv)


def _run(argv: Sequence[str]) -> int | None:
    parser = argparse.ArgumentParser(
        prog="python -m sampling",
        description="Use a trained model: repaint parts of pictures after an exemplar.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_edit(commands)
    add_porting(commands, _EPILOG)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments)


def _add_edit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "edit",
        help="repaint the masked part of one picture",
        description="Repaint the white part of a mask in a picture so that it shows the exemplar's object. "
        "Writes OUT, of the picture's size, and beside it OUT's name with .side-by-side.png: hole, exemplar, "
        "edit.",
        epilog=_EPILOG,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--model", type=Path, required=True, metavar="DIR", help="model folder")
    files.add_argument("--image", type=Path, required=True, metavar="FILE", help="the picture to edit")
    files.add_argument(
        "--mask", type=Path, required=True, metavar="FILE", help="of the picture's size; white = repaint"
    )
    files.add_argument("--exemplar", type=Path, required=True, metavar="FILE", help="what to paint")
    files.add_argument(
        "--out", type=Path, required=True, metavar="FILE.png", help="the result (-SEED is added for several)"
    )
    _add_sampling_options(parser)
    parser.set_defaults(run=_edit)


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Options that every command with a sampler in it shares."""
    default = EditSettings()
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--guidance-scale",
        type=float,
        default=default.guidance_scale,
        metavar="W",
        help="how strongly to follow the exemplar; 1 = no guidance (default %(default)s)",
    )
    group.add_argument(
        "--num-inference-steps",
        type=int,
        default=default.num_inference_steps,
        metavar="N",
        help="denoising steps (default %(default)s)",
    )
    group.add_argument(
        "--scheduler",
        choices=get_args(SchedulerName),
        default=default.scheduler,
        help="default %(default)s",
    )
    group.add_argument("--seed", type=int, default=0, help="of the noise (default %(default)s)")
    group.add_argument(
        "--num-images",
        type=int,
        default=1,
        metavar="N",
        help="edits to make, with seeds SEED, SEED + 1, ... (default %(default)s)",
    )
    group.add_argument(
        "--no-composite",
        dest="composite",
        action="store_false",
        help="give the model's whole picture; by default the input's own pixels stay outside the mask",
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps ...; auto takes a GPU where there is one"
    )
    machine.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the weights; the 16-bit ones are for GPUs (default %(default)s)",
    )
    machine.add_argument(
        "--batch-size",
        type=int,
        default=default.batch_size,
        metavar="N",
        help="edits at once; memory and speed only (default %(default)s)",
    )


def _edit(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    outputs = _output_paths(arguments.out, arguments.seed, arguments.num_images)
    # Pictures before the model: a wrong path is told at once, not after seconds of loading.
    from sampling.canvas import check_mask
    from sampling.pictures import read_mask, read_picture, write_png

    image = read_picture(arguments.image)
    edit_mask = check_mask(read_mask(arguments.mask), image)
    exemplar = read_picture(arguments.exemplar)

    from tqdm import tqdm

    from intarsia.weights import load_model
    from sampling.edit import EditRequest, edit
    from sampling.preview import grid

    model = load_model(arguments.model, *_place(arguments))
    requests = [EditRequest(image, edit_mask, exemplar, seed) for seed in outputs]
    with tqdm(unit="step", leave=False, disable=None) as bar:  # None: only on a terminal

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        results = edit(model, requests, settings, show)
    for path, result in zip(outputs.values(), results, strict=True):
        write_png(result.image, path)
        print(path)
    side_by_side = arguments.out.with_name(f"{arguments.out.stem}.side-by-side.png")
    write_png(grid(results), side_by_side)
    print(side_by_side)


def _settings(arguments: argparse.Namespace) -> EditSettings:
    content = {name: getattr(arguments, name) for name in EditSettings.model_fields}
    return build_config(EditSettings, content, where="python -m sampling edit")


def _output_paths(out: Path, seed: int, num_images: int) -> dict[int, Path]:
    """Seed -> file; one image takes the name as it is."""
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out} must end in .png; another format would change pixels outside the mask")
    if num_images < 1:
        raise UsageError(f"--num-images {num_images} must be 1 or more")
    if not 0 <= seed < 2**63 - num_images:
        raise UsageError(f"--seed {seed} must be 0 or more and below 2^63")
    if num_images == 1:
        return {seed: out}
    return {s: out.with_name(f"{out.stem}-{s}.png") for s in range(seed, seed + num_images)}


def _place(arguments: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    import torch

    name = arguments.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise UsageError(f"--device {name} is not there on this machine; try cpu or auto") from None
    return device, getattr(torch, arguments.dtype)
