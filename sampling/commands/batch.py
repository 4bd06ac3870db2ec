"""`python -m sampling batch`: many edits of a list."""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

from intarsia.command_line import Commands
from intarsia.errors import UsageError
from sampling.jobs import read_jobs, structure_sources
from sampling.options import (
    add_canvas_options,
    add_input_options,
    add_machine_options,
    add_sampler_options,
    add_shard_option,
    add_structure_option,
    edit_settings,
    machine_settings,
)
from sampling.painters.options import add_painter_options, check_painter, told_parts

_WHERE = "python -m sampling batch"
_NAMED = 10  # failures at the end; results.jsonl has all of them


def add(commands: Commands) -> None:
    """Declare `batch`."""
    parser = commands.add_parser(
        "batch",
        help="make the edits of a list; the same command again makes the missing ones",
        description="Make the edits of JOBS: a .csv or .jsonl with image, mask, exemplar (for a model that "
        "is told text: prompt) and optionally name, seed, structure and any setting of an edit, or a folder "
        "with image/, mask/ and exemplar/. Results are NAME.png in OUT, with a line each in results.jsonl. A "
        "row that fails is reported at the end; then the exit code is 1.",
    )
    parser.add_argument("jobs", type=Path, metavar="JOBS", help="the list or folder")
    add_painter_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    add_shard_option(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of rows without one (default %(default)s)")
    add_input_options(parser)
    add_structure_option(parser)
    add_sampler_options(parser)
    add_canvas_options(parser)
    add_machine_options(parser)
    # One at a time, a result can be made again byte for byte; in a batch the rounding differs.
    parser.set_defaults(run=_run, batch_size=1)


def _run(arguments: argparse.Namespace) -> int:
    for name in ("guidance_scale", "text_guidance_scale"):
        if len(getattr(arguments, name) or ()) > 1:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"batch takes one {option}; give several as rows with a {name} each")
    if not 0 <= arguments.seed < 2**63:
        raise UsageError(f"--seed {arguments.seed} must be 0 or more and below 2^63")
    [settings], machine = edit_settings(arguments, _WHERE), machine_settings(arguments, _WHERE)
    check_painter(arguments)
    parts = told_parts(arguments)
    jobs = read_jobs(arguments.jobs, parts)

    from sampling.batch import BatchOptions, failures, run_batch
    from sampling.painters.painter import open_painter
    from sampling.provenance import pattern

    model, painter = arguments.model, arguments.painter
    shared = pattern(model, machine, arguments.invert_mask, arguments.exemplar_background, painter)
    structure = structure_sources(arguments.structure)
    options = BatchOptions(arguments.out, settings, arguments.seed, shared, arguments.shard, structure)
    counts = run_batch(jobs, options, lambda: open_painter(painter, model, machine))
    place, number = arguments.shard
    failed = failures(arguments.out, jobs[place::number])
    for name, error in islice(failed.items(), _NAMED):
        print(f"failed: {name}: {error}", file=sys.stderr)
    if len(failed) > _NAMED:
        print(f"and {len(failed) - _NAMED} more, see {arguments.out}/results.jsonl", file=sys.stderr)
    print(
        f"{arguments.out}: {counts['made']} made, {counts['kept']} already there, {counts['failed']} failed"
    )
    return int(bool(failed))
