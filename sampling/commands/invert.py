"""`python -m sampling invert`: options, table and pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

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
    add_style_option,
    check_files,
    machine_settings,
)
from sampling.settings import (
    CANVAS_SETTINGS,
    COUPLINGS,
    AlignmentName,
    EditSettings,
    InversionMethod,
    InversionSettings,
    LearnedMethod,
    MachineSettings,
    PromptMethod,
)

_METHODS = get_args(InversionMethod)
_WHERE = "python -m sampling invert"
_Pairs = tuple[tuple[str, str], ...]


def add(commands: Commands) -> None:
    """Declare `invert`."""
    parser = commands.add_parser(
        "invert",
        help="edit a picture starting from the picture instead of noise",
        description="Find latents that lead back to the picture, and go from there towards the exemplar or "
        "the target prompt: pose and layout are kept. Writes OUT (the edit; with --method all one for each, "
        "-METHOD added) and OUT's name with .side-by-side.png: picture, reconstruction, exemplar, edit.",
    )
    add_file_options(parser, "the result", add_model_option, mask=False)
    _add_prompt_options(parser)
    _add_inversion_options(parser)
    _add_coupling_options(parser)
    add_input_options(parser)
    add_canvas_options(parser)
    add_machine_options(parser, batches=False)
    parser.set_defaults(run=_run)


def _add_prompt_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what picture and edit show")
    texts = {
        "source": "the picture in words, such as 'a cat', for a model that takes prompts",
        "target": "the edit in words, such as 'a dog'",
        "negative_prompt": "words for what the edit should not be",
        "caption": "words for picture and edit instead of --source; the edit goes in the direction from "
        "--source to --target (pix2pix-zero), each of them one sentence or several with | between them",
    }
    for name, text in texts.items():
        group.add_argument(f"--{name.replace('_', '-')}", metavar="TEXT", default="", help=text)
    words = (
        "change the picture only where these words are, with --coupling p2p; with masactrl-masks, the object"
    )
    group.add_argument("--words", type=_pairs, metavar="OLD=NEW[,...]", default=(), help=words)
    factors = "strengthen or weaken words of --target, with --coupling p2p"
    group.add_argument("--reweight", type=_factors, metavar="WORD=F[,...]", default=(), help=factors)
    what = "picture of the object that is there now (default: what is under the mask)"
    group.add_argument("--source-exemplar", type=Path, metavar="FILE", help=what)


def _pairs(text: str) -> _Pairs:
    """Read `cat=dog,sofa=bed`."""
    pairs = [tuple(part.strip() for part in word.split("=")) for word in text.split(",")]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} must be OLD=NEW, several with commas between them")
    return tuple((old, new) for old, new in pairs)


def _factors(text: str) -> tuple[tuple[str, float], ...]:
    """Read `dog=2,bed=0.5`."""
    try:
        return tuple((word, float(factor)) for word, factor in _pairs(text))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} must be WORD=NUMBER, several with commas") from None


def _add_inversion_options(parser: argparse.ArgumentParser) -> None:
    default = InversionSettings()
    group = parser.add_argument_group("inversion")
    group.add_argument(
        "--method",
        choices=(*_METHODS, *get_args(PromptMethod), *get_args(LearnedMethod), "all"),
        default=default.method,
        help=f"default %(default)s; docs/inversion.md explains them; all: {', '.join(_METHODS)}",
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
        help="null-condition: maximum of updates of the null exemplar at each step; style: of its network, "
        "10 times as many at the first step and fewer at later ones (default %(default)s)",
    )
    add_style_option(group)
    group.add_argument("--seed", type=int, default=0, help="seed of ddpm and --regularise (default 0)")


def _add_coupling_options(parser: argparse.ArgumentParser) -> None:
    default = InversionSettings()
    group = parser.add_argument_group("couplings and the way up")
    group.add_argument(
        "--alignment",
        choices=get_args(AlignmentName),
        help="p2p: which tokens correspond. refine: words that both prompts have (default for prompts); "
        "replace: word by word; same: by place (default for exemplars); similar: by likeness",
    )
    group.add_argument(
        "--regularise",
        action="store_true",
        help="make the noise on the way up more like white noise, as pix2pix-zero does",
    )
    group.add_argument(
        "--steps-offset",
        type=int,
        choices=(0, 1),
        default=default.steps_offset,
        help="lowest timestep (default %(default)s); 0 as in the published code of p2p and masactrl",
    )


def _settings(arguments: argparse.Namespace) -> list[InversionSettings]:
    """One for each method of the arguments."""
    methods = _METHODS if arguments.method == "all" else (arguments.method,)
    given = {name: vars(arguments)[name] for name in InversionSettings.model_fields if name in arguments}
    return [build_config(InversionSettings, given | {"method": method}, _WHERE) for method in methods]


def _outputs(out: Path, settings: Sequence[InversionSettings]) -> list[Path]:
    """The file of each method; `out` itself for one alone."""
    return [out.with_name(f"{out.stem}-{own.method}.png") for own in settings] if settings[1:] else [out]


def _run(arguments: argparse.Namespace) -> None:
    from sampling.methods.request import check_asked, without_effect

    settings = _settings(arguments)
    canvas_options = {name: getattr(arguments, name) for name in CANVAS_SETTINGS}
    canvas = build_config(EditSettings, canvas_options, _WHERE)
    machine = machine_settings(arguments, _WHERE)
    _check(arguments, settings, machine)
    outputs = _outputs(arguments.out, settings)
    side_by_side = arguments.out.with_name(f"{arguments.out.stem}.side-by-side.png")
    names, texts = (*FILES, "source_exemplar"), _texts(arguments)
    files = {name: path for name in names if (path := getattr(arguments, name)) is not None}
    check = partial(check_asked, settings, files, texts, tower=machine.style_tower is not None)
    check_files(arguments, [*outputs, side_by_side], check)

    from sampling.methods.read import read_inversion, said_of

    reading = arguments.invert_mask, arguments.exemplar_background
    source, request, notes = read_inversion(files, texts, arguments.seed, *reading)

    from tqdm import tqdm

    from sampling.canvas.sheets import sheet
    from sampling.denoise.machine import open_model
    from sampling.methods.run_inversion import invert_edit
    from sampling.pictures import write_png
    from sampling.provenance import made_from, pattern, source_file

    _check_couplings(arguments.model, settings, request.edit_mask is not None)
    model, device = open_model(arguments.model, machine)
    model.requires_grad_(False)
    shared = pattern(arguments.model, machine, *reading)
    kept = {name: source_file(path) for name, path in files.items() if name in FILES}
    rows, remarks = [], dict.fromkeys([*notes, *without_effect(settings)])
    exemplar = [] if request.exemplar is None else [request.exemplar]
    _line("method", "reconstruction", "background", "seconds", "UNet calls")
    for path, own in zip(outputs, settings, strict=True):
        with tqdm(unit="call", leave=False, disable=None, desc=own.method) as bar:

            def show(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            result = invert_edit(model, request, own, canvas, device, show)
        recorded = own.plain() | canvas_options | said_of(texts, files)
        made = made_from(shared, kept, arguments.seed, recorded)
        changed = request.edit_mask if canvas.composite else None
        write_png(result.image, path, source, changed, made.to_text())  # type: ignore[arg-type]
        remarks |= dict.fromkeys(result.remarks)
        rows.append([source.pixels, result.reconstruction, *exemplar, result.image])
        figures = f"{result.latent_error:.2e}", _decibel(result.background_psnr), f"{result.seconds:.1f}"
        _line(own.method, *figures, str(result.calls), str(path))
    titles = ("picture", "reconstruction", *(["exemplar"] if exemplar else []), "edit")
    write_png(sheet(titles, rows, labels=[own.method for own in settings]), side_by_side)
    print(side_by_side)
    for text in remarks:
        print(f"note: {text}", file=sys.stderr)


def _check(
    arguments: argparse.Namespace, settings: Sequence[InversionSettings], machine: MachineSettings
) -> None:
    """Refuse what needs no file to be wrong."""
    from sampling.methods.request import first_changing

    if not 0 <= arguments.seed < 2**63:
        raise UsageError(f"--seed {arguments.seed} must be 0 or more and below 2^63")
    if machine.style_tower and all(own.method != "style" for own in settings):
        raise UsageError("--style-tower is for --method style; leave it out")
    changing = next(filter(None, map(first_changing, settings)), "")
    if machine.compile and changing:
        raise UsageError(f"a compiled UNet cannot be coupled, and {changing} does that; leave --compile out")


def _check_couplings(model: Path, settings: Sequence[InversionSettings], masked: bool) -> None:
    """Refuse couplings that would have no effect on the model of a folder, before it is loaded."""
    from intarsia.weights import read_model_config
    from sampling.couplings.coupling import check_couplings

    tokens = read_model_config(model).num_tokens
    for own in settings:
        check_couplings(own.coupling or (), tokens, masked)


def _texts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prompts and words, as fields of `InversionRequest`."""
    return {
        "source_prompt": arguments.source,
        "target_prompt": arguments.target,
        "words": arguments.words,
        "reweight": arguments.reweight,
        "negative_prompt": arguments.negative_prompt,
        "caption": arguments.caption,
    }


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} dB"


def _line(*fields: str) -> None:
    widths = (20, 16, 12, 9, 11, 0)
    cells = [field.ljust(width) for field, width in zip(fields, widths, strict=False)]
    print(" ".join(cells).rstrip(), flush=True)
