"""`python -m sampling edit`: one picture, by one seed or several, at one guidance scale or several."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from intarsia.command_line import Commands
from intarsia.errors import UsageError
from sampling.jobs import FILES, structure_sources
from sampling.options import (
    add_canvas_options,
    add_file_options,
    add_input_options,
    add_machine_options,
    add_sampler_options,
    add_structure_option,
    check_files,
    edit_settings,
    machine_settings,
)
from sampling.painters.options import about_seeds, add_painter_options

_WHERE = "python -m sampling edit"


def add(commands: Commands) -> None:
    """Declare `edit`."""
    parser = commands.add_parser(
        "edit",
        help="repaint the masked part of one picture",
        description="Repaint the white part of a mask in a picture so that it shows the exemplar's object, "
        "or what the prompt says. Writes OUT in the picture's size, and OUT's name with .side-by-side.png: "
        "hole, exemplar, edit. Several guidance scales give one grid with a column for each.",
    )
    out = "the result (for several, -SEED, -wSCALE and -tSCALE are added)"
    add_file_options(parser, out, add_painter_options, prompt=True)
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default %(default)s)")
    parser.add_argument(
        "--num-images",
        type=int,
        default=1,
        metavar="N",
        help="number of edits, with seeds SEED, SEED + 1, ... (default %(default)s)",
    )
    add_input_options(parser)
    add_structure_option(parser)
    add_sampler_options(parser)
    add_canvas_options(parser)
    add_machine_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    settings, machine = edit_settings(arguments, _WHERE), machine_settings(arguments, _WHERE)
    scales = [(own.guidance_scale, own.text_guidance_scale) for own in settings]
    outputs = _output_paths(arguments.out, arguments.seed, arguments.num_images, scales)
    side_by_side = arguments.out.with_name(f"{arguments.out.stem}.side-by-side.png")
    check_files(arguments, [*outputs.values(), side_by_side])
    from sampling.inputs import read_inputs
    from sampling.pictures import write_png

    files = {name: path for name in FILES if (path := getattr(arguments, name)) is not None}
    structure = structure_sources(arguments.structure)
    inputs = read_inputs(files, arguments.invert_mask, arguments.exemplar_background, structure)

    from tqdm import tqdm

    from sampling.canvas.edits import EditRequest
    from sampling.canvas.sheets import grid, sweep_grid
    from sampling.painters.painter import open_painter
    from sampling.provenance import made_from, map_files, pattern, source_file

    paint = open_painter(arguments.painter, arguments.model, machine)
    told = inputs.source.pixels, inputs.edit_mask, inputs.exemplar
    requests = [
        EditRequest(*told, seed, scale, arguments.prompt, text_scale, inputs.structure)
        for seed, scale, text_scale in outputs
    ]
    with tqdm(unit="step", leave=False, disable=None) as bar:  # None: only on a terminal

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        results = paint(requests, settings[0], show)
    remarks = [*inputs.remarks, *about_seeds(arguments), *(one for made in results for one in made.remarks)]
    for text in dict.fromkeys(remarks):
        print(f"note: {text}", file=sys.stderr)
    changed = inputs.edit_mask if arguments.composite else None
    reading = arguments.invert_mask, arguments.exemplar_background
    shared = pattern(arguments.model, machine, *reading, arguments.painter)
    kept = {name: source_file(path) for name, path in files.items()}
    maps = map_files(structure)
    for path, result in zip(outputs.values(), results, strict=True):
        own = made_from(shared, kept, result.request.seed, result.settings.plain(), arguments.prompt, maps)
        write_png(result.image, path, inputs.source, changed, own.to_text())
        print(path)
    write_png(grid(results) if len(scales) == 1 else sweep_grid(results), side_by_side)
    print(side_by_side)


def _output_paths(
    out: Path, seed: int, num_images: int, scales: Sequence[tuple[float, float]]
) -> dict[tuple[int, float, float], Path]:
    """(seed, guidance scale, that of the prompt) -> file; a single image has OUT's name."""
    if num_images < 1:
        raise UsageError(f"--num-images {num_images} must be 1 or more")
    if not 0 <= seed < 2**63 - num_images:
        raise UsageError(f"--seed {seed} must be 0 or more and below 2^63")
    if len(set(scales)) < len(scales):
        raise UsageError("a scale appears twice in --guidance-scale or --text-guidance-scale")
    several = [len(set(values)) > 1 for values in zip(*scales, strict=True)]
    paths = {}
    for own in range(seed, seed + num_images):
        for pair in scales:
            name = out.stem + (f"-{own}" if num_images > 1 else "")
            for letter, scale, shown in zip("wt", pair, several, strict=True):
                name += f"-{letter}{scale:g}" if shown else ""
            paths[own, *pair] = out.with_name(f"{name}.png")
    return paths
