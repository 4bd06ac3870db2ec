"""`python -m sampling invert`: options, table and pictures."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from intarsia.command_line import Commands
from intarsia.config import build_config
from intarsia.errors import UsageError
from sampling.jobs import FILES
from sampling.options import (
    add_canvas_options,
    add_file_options,
    add_input_options,
    add_machine_options,
    add_model_option,
    check_files,
    machine_settings,
)
from sampling.settings import COUPLINGS, EditSettings, InversionMethod, InversionSettings

_METHODS = get_args(InversionMethod)
_TITLES = ("picture", "reconstruction", "exemplar", "edit")
_CANVAS = ("fit", "context", "blend", "match_colour", "composite")
_WHERE = "python -m sampling invert"


def add(commands: Commands) -> None:
    """Declare `invert`."""
    parser = commands.add_parser(
        "invert",
        help="edit a picture starting from the picture instead of noise",
        description="Find latents that lead back to the picture, and go from there towards the exemplar: "
        "pose and layout are kept. Writes OUT (the edit; with --method all one for each, -METHOD added) "
        "and OUT's name with .side-by-side.png: picture, reconstruction, exemplar, edit.",
    )
    add_file_options(parser, "the result", add_model_option)
    _add_inversion_options(parser)
    add_input_options(parser)
    add_canvas_options(parser)
    add_machine_options(parser, batches=False)
    parser.set_defaults(run=_run)


def _add_inversion_options(parser: argparse.ArgumentParser) -> None:
    default = InversionSettings()
    group = parser.add_argument_group("inversion")
    group.add_argument(
        "--method",
        choices=(*_METHODS, "all"),
        default=default.method,
        help="default %(default)s; docs/inversion.md explains them",
    )
    group.add_argument(
        "--coupling",
        metavar="NAMES",
        help=f"what the edit takes from the source, in this order: {', '.join(COUPLINGS)}; docs/inversion.md "
        "has more (default: background)",
    )
    group.add_argument(
        "--guidance-scale",
        type=float,
        default=default.guidance_scale,
        metavar="W",
        help="guidance scale of the edit (default %(default)s)",
    )
    group.add_argument(
        "--num-inference-steps",
        type=int,
        default=default.num_inference_steps,
        metavar="N",
        help="steps each way (default %(default)s)",
    )
    group.add_argument(
        "--strength",
        type=float,
        metavar="S",
        help="share of the way to noise where the edit starts; less keeps more of the picture "
        "(default 1, for ddpm 0.76)",
    )
    group.add_argument(
        "--offset-scale",
        type=float,
        default=default.offset_scale,
        metavar="R",
        help="direct: share of the difference that is added to the source branch (default %(default)s)",
    )
    group.add_argument(
        "--inner-steps",
        type=int,
        default=default.inner_steps,
        metavar="N",
        help="null-condition: maximum of updates of the null exemplar at each step (default %(default)s)",
    )
    group.add_argument("--seed", type=int, default=0, help="seed of the noise of ddpm (default 0)")


def _settings(arguments: argparse.Namespace) -> list[InversionSettings]:
    """One for each method of the arguments."""
    methods = _METHODS if arguments.method == "all" else (arguments.method,)
    given = {name: vars(arguments)[name] for name in InversionSettings.model_fields if name in arguments}
    return [build_config(InversionSettings, given | {"method": method}, _WHERE) for method in methods]


def _run(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    canvas_options = {name: getattr(arguments, name) for name in _CANVAS}
    canvas = build_config(EditSettings, canvas_options, _WHERE)
    machine = machine_settings(arguments, _WHERE)
    if not 0 <= arguments.seed < 2**63:
        raise UsageError(f"--seed {arguments.seed} must be 0 or more and below 2^63")
    out = arguments.out
    outputs = [out.with_name(f"{out.stem}-{own.method}.png") for own in settings] if settings[1:] else [out]
    side_by_side = out.with_name(f"{out.stem}.side-by-side.png")
    check_files(arguments, [*outputs, side_by_side])

    from sampling.inputs import read_inputs
    from sampling.pictures import write_png

    files = {name: path for name in FILES if (path := getattr(arguments, name)) is not None}
    inputs = read_inputs(files, arguments.invert_mask, arguments.exemplar_background)
    source, edit_mask, exemplar = inputs.source, inputs.edit_mask, inputs.exemplar

    from tqdm import tqdm

    from sampling.denoise.machine import open_model
    from sampling.editing import EditRequest
    from sampling.methods.run_inversion import invert_picture
    from sampling.preview import sheet
    from sampling.provenance import made_from, pattern, source_file

    model, device = open_model(arguments.model, machine)
    model.requires_grad_(False)
    shared = pattern(arguments.model, machine, arguments.invert_mask, arguments.exemplar_background)
    kept = {name: source_file(path) for name, path in files.items()}
    request = EditRequest(source.pixels, edit_mask, exemplar, arguments.seed)
    rows, remarks = [], dict.fromkeys(inputs.remarks)
    _line("method", "reconstruction", "background", "seconds", "UNet calls")
    for path, own in zip(outputs, settings, strict=True):
        with tqdm(unit="call", leave=False, disable=None, desc=own.method) as bar:

            def show(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            result = invert_picture(model, request, own, canvas, device, show)
        made = made_from(shared, kept, arguments.seed, own.plain() | canvas_options)
        write_png(result.image, path, source, edit_mask if canvas.composite else None, made.to_text())
        remarks |= dict.fromkeys(result.remarks)
        rows.append([source.pixels, result.reconstruction, exemplar, result.image])
        figures = f"{result.latent_error:.2e}", _decibel(result.background_psnr), f"{result.seconds:.1f}"
        _line(own.method, *figures, str(result.calls), str(path))
    write_png(sheet(_TITLES, rows, labels=[own.method for own in settings]), side_by_side)
    print(side_by_side)
    for text in remarks:
        print(f"note: {text}", file=sys.stderr)


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} dB"


def _line(*fields: str) -> None:
    widths = (20, 16, 12, 9, 11, 0)
    cells = [field.ljust(width) for field, width in zip(fields, widths, strict=False)]
    print(" ".join(cells).rstrip(), flush=True)
