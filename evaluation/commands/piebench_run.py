"""`python -m evaluation piebench run`: PIE-Bench's edits made with a model, and scored."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from evaluation.benches.bench_commands import check_bench_cases
from evaluation.benches.score import add_bench_options, check_bench_weights, score_bench
from evaluation.pie.pie_score import PIE_BENCH, add_pie_files, pie_cases
from evaluation.pie.pie_ways import METHODS, Protocol, Way, all_ways, check_ways, cross
from intarsia.command_line import Commands
from intarsia.errors import UsageError, UserError
from sampling.denoise.gpus import GPUS, peak_of
from sampling.options import (
    add_canvas_options,
    add_machine_options,
    add_model_option,
    add_shard_option,
    add_style_option,
    machine_settings,
)
from sampling.settings import CANVAS_SETTINGS, COUPLINGS, EditSettings, InversionSettings

if TYPE_CHECKING:
    from evaluation.pie.pie_run import PieRun
    from evaluation.pie.piebench import PieCase
    from intarsia.architecture import ModelConfig

_WHERE = "python -m evaluation piebench run"
_OPTIONS = ("num_inference_steps", "guidance_scale", "strength", "offset_scale", "inner_steps")
_NAMED = 3  # failures named for each way; results.jsonl has all of them


def add(commands: Commands) -> None:
    """Declare `piebench run`."""
    parser = commands.add_parser(
        "piebench run",
        help="make PIE-Bench's edits with a model and score them; the same command again continues",
        description="Edit PIE-Bench's pictures by inversion and score them. Results that were made from the "
        "same inputs, settings and model stay. With --shard I/N, for job arrays, this process makes its "
        "part; the process that ends last scores all. Several methods, several --coupling or --all make a "
        "folder for each row of one table.",
    )
    _add_ways(parser)
    _add_estimate(parser)
    add_pie_files(parser, "folder of results")
    add_bench_options(parser, PIE_BENCH, device=False)
    add_canvas_options(parser)
    add_machine_options(parser, batches=False)
    parser.set_defaults(run=_run)


def _add_ways(parser: argparse.ArgumentParser) -> None:
    default = InversionSettings()
    group = parser.add_argument_group("edits")
    add_model_option(group)
    group.add_argument(
        "--method",
        default=default.method,
        metavar="NAMES",
        help=f"methods with commas between them, of {', '.join(METHODS)} (default %(default)s)",
    )
    group.add_argument(
        "--coupling",
        action="append",
        metavar="NAMES",
        help=f"couplings with commas between them, of {', '.join(COUPLINGS)}; may be repeated, and each goes "
        "with every method (default: background where there is a mask)",
    )
    group.add_argument(
        "--all",
        action="store_true",
        help="the published rows and the ablations, in place of --method and --coupling",
    )
    group.add_argument(
        "--protocol",
        choices=get_args(Protocol),
        default="right",
        help="published: each editor as in the paper's code; right: all alike (default %(default)s); "
        "docs/evaluation.md lists the differences",
    )
    group.add_argument(
        "--exemplars",
        type=Path,
        metavar="FILE.csv",
        help="for models that take exemplars: key, source_exemplar (empty = what is under the mask), "
        "target_exemplar",
    )
    group.add_argument(
        "--key", action="append", metavar="KEY", help="only this record; may be repeated; the table is marked"
    )
    add_shard_option(group)
    group.add_argument("--num-inference-steps", type=int, metavar="N", help="steps each way (default 50)")
    group.add_argument("--guidance-scale", type=float, metavar="W", help="scale of the edit (default 7.5)")
    group.add_argument("--strength", type=float, metavar="S", help="share of the way where the edit starts")
    group.add_argument("--offset-scale", type=float, metavar="R", help="direct: added share (default 1)")
    group.add_argument("--inner-steps", type=int, metavar="N", help="null-text: most updates per step (10)")
    add_style_option(group)


def _add_estimate(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("instead of all edits, or after them")
    group.add_argument(
        "--dry-run", action="store_true", help="print UNet calls, rows, arithmetic and hours; edit nothing"
    )
    group.add_argument(
        "--gpu", choices=sorted(GPUS), action="append", help="GPU of the hours; may be repeated (default all)"
    )
    group.add_argument(
        "--mfu", type=float, default=0.35, help="share of the GPU's peak (default %(default)s)"
    )
    group.add_argument(
        "--sheet",
        metavar="KEY",
        help="write RESULTS/sheet-KEY.html: what every row made of this record, with errors and costs",
    )


def _run(arguments: argparse.Namespace) -> int:
    if arguments.all and (arguments.coupling or arguments.method != InversionSettings().method):
        raise UsageError("--all has its own methods and couplings; remove --method and --coupling, or --all")
    if arguments.all and arguments.offset_scale is not None:
        raise UsageError("--all has its own scales of the offset; remove --offset-scale, or --all")
    if not 0 < arguments.mfu <= 1:
        raise UsageError(f"--mfu={arguments.mfu:g} must be above 0 and at most 1")
    if arguments.model is None:
        raise UsageError("--model is missing; give a model folder")
    machine = machine_settings(arguments, _WHERE)
    if not arguments.all:  # names and values are checked before anything is read
        _ways(arguments, ())

    from evaluation.pie.pie_run import run_ways
    from evaluation.pie.piebench import read_bench
    from intarsia.weights import read_model_config
    from sampling.denoise.machine import open_model
    from sampling.methods.request import without_effect

    every, config = read_bench(arguments.bench), read_model_config(arguments.model)
    cases = _chosen(every, arguments)
    ways = _ways(arguments, config.parts)
    _check_tower(arguments, ways.values(), config.parts)
    check_ways(ways.values(), cases, config, machine.compile, arguments.style_tower is not None)
    for text in without_effect([way.settings for way in ways.values()]):
        print(f"note: {text}", file=sys.stderr)
    if arguments.dry_run:
        return _dry_run(arguments, list(ways.values()), len(cases), config)
    content = pie_cases(arguments.bench, cases, len(every))
    check_bench_weights(PIE_BENCH, content, arguments)
    check_bench_cases(content, arguments)
    run = _shared(arguments, config)
    counts = run_ways(ways, cases, run, lambda: open_model(arguments.model, machine))
    print(f"{run.out}: {counts['made']} made, {counts['kept']} already there, {counts['failed']} failed")
    return _finish(arguments, ways, cases, run, len(every))


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {name: value for name in _OPTIONS if (value := getattr(arguments, name)) is not None}
    return given | {"seed": arguments.seed}


def _ways(arguments: argparse.Namespace, parts: tuple[str, ...]) -> dict[Path, Way]:
    """Folder of results -> way; a single way has the whole folder."""
    if arguments.all:
        tower = arguments.style_tower is not None
        ways = all_ways(parts, arguments.protocol, _given(arguments), _WHERE, tower)
    else:
        methods, couplings = arguments.method.split(","), arguments.coupling or [None]
        ways = cross(methods, couplings, arguments.protocol, _given(arguments), _WHERE)
    if len(ways) == 1:
        return {arguments.results: ways[0]}
    names = [way.name for way in ways]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"{twice} appears twice among --method and --coupling; name it once")
    return {arguments.results / way.name: way for way in ways}


def _check_tower(arguments: argparse.Namespace, ways: Iterable[Way], parts: tuple[str, ...]) -> None:
    """Refuse a style tower that no row needs, and say which published row is left out without one."""
    if arguments.style_tower and all(way.settings.method != "style" for way in ways):
        raise UsageError("--style-tower is for the method style; leave it out")
    if arguments.all and "text" in parts and not arguments.style_tower:
        print("note: the row StyleDiffusion + P2P is left out: it needs --style-tower", file=sys.stderr)


def _chosen(cases: Sequence[PieCase], arguments: argparse.Namespace) -> Sequence[PieCase]:
    """The cases of --key, by default all; unknown keys are refused."""
    keys = {case.key for case in cases}
    for name in ("key", "sheet"):
        given = getattr(arguments, name) or []
        unknown = set([given] if isinstance(given, str) else given) - keys
        if unknown:
            raise UsageError(
                f"--{name}: {arguments.bench} has no record {min(unknown)}; see mapping_file.json"
            )
    if arguments.key and arguments.sheet and arguments.sheet not in arguments.key:
        raise UsageError(f"--sheet {arguments.sheet} is not among the records of --key; add it there")
    return [case for case in cases if not arguments.key or case.key in arguments.key]


def _shared(arguments: argparse.Namespace, config: ModelConfig) -> PieRun:
    from evaluation.pie.pie_run import PieRun, read_exemplar_list
    from intarsia.config import build_config
    from sampling.provenance import pattern

    if arguments.exemplars and "exemplar" not in config.parts:
        raise UsageError(f"{arguments.model} takes prompts only; remove --exemplars")
    if not arguments.exemplars and "text" not in config.parts:
        raise UsageError(
            f"{arguments.model} takes an exemplar; give --exemplars FILE.csv with key, source_exemplar, "
            "target_exemplar"
        )
    canvas = build_config(EditSettings, {name: getattr(arguments, name) for name in CANVAS_SETTINGS}, _WHERE)
    exemplars = read_exemplar_list(arguments.exemplars) if arguments.exemplars else {}
    made_by = pattern(arguments.model, machine_settings(arguments, _WHERE))
    masked = config.extra_channels > 0
    where = arguments.bench, arguments.results
    return PieRun(*where, made_by, config.parts, masked, canvas, exemplars, arguments.shard)


def _dry_run(arguments: argparse.Namespace, ways: Sequence[Way], pictures: int, config: ModelConfig) -> int:
    from evaluation.pie.pie_cost import count_arithmetic, planned_table
    from evaluation.reports.tables import as_text

    dtype = "bfloat16" if arguments.dtype == "auto" else arguments.dtype
    speeds = {name: arguments.mfu * peak_of(name, dtype) for name in arguments.gpu or GPUS}
    table = planned_table(ways, pictures, config.extra_channels > 0, count_arithmetic(config), speeds)
    print(as_text(table))
    print(f"hours: at {arguments.mfu:.0%} of the GPU's peak in {dtype}, --mfu and --dtype change it")
    return 0


def _finish(
    arguments: argparse.Namespace,
    ways: Mapping[Path, Way],
    cases: Sequence[PieCase],
    run: PieRun,
    expected: int,
) -> int:
    """Report failures; score if all parts are complete. `expected`: number of cases of the whole bench."""
    from evaluation.pie.pie_run import failed_cases, waiting_cases

    failed = {folder: failed_cases(folder, cases) for folder in ways}
    for folder, errors in failed.items():
        for key, error in islice(errors.items(), _NAMED):
            print(f"failed: {folder.name}: {key}: {error}", file=sys.stderr)
    waiting = sum(len(waiting_cases(folder, way, cases, run)) for folder, way in ways.items())
    if waiting:
        print(f"{waiting:,} of {len(cases) * len(ways):,} edits are still to be made; the last part scores")
        return 0
    number = sum(map(len, failed.values()))
    if number and not arguments.only_present:
        raise UserError(
            f"{number} of {len(cases) * len(ways)} edits could not be made, see results.jsonl in "
            f"{arguments.results}; put them right and run the same command again, or give --only-present to "
            "score the others"
        )
    _deliver(arguments, ways, cases, failed, expected)
    if arguments.sheet:
        _write_sheet(arguments, ways, cases, run)
    return int(bool(number))


def _deliver(
    arguments: argparse.Namespace,
    ways: Mapping[Path, Way],
    cases: Sequence[PieCase],
    failed: Mapping[Path, Mapping[str, str]],
    expected: int,
) -> None:
    """One report for one way; for several, a report in each folder and one table."""
    from evaluation.pie.pie_sheet import cost_table
    from evaluation.reports.output import deliver, write_pages
    from evaluation.reports.published import published_rows
    from evaluation.reports.tables import as_text, published_table
    from evaluation.scoring.report import write_report

    content, reports = pie_cases(arguments.bench, cases, expected), []
    for folder, way in ways.items():
        name = arguments.name if arguments.name and len(ways) == 1 else way.title
        report = score_bench(PIE_BENCH, content, arguments, folder, name, failed[folder])
        if len(ways) == 1:
            deliver(report, arguments, folder)
        else:
            write_report(report, folder / "report")
        reports.append(report)
    costs = cost_table(ways)
    if len(ways) == 1:
        print("\n" + as_text(costs))
        return
    tables = [published_table(reports, published_rows("PIE-Bench")), costs]
    print("\n\n".join(map(as_text, tables)))
    out = arguments.out or arguments.results / "report"
    write_pages(out, "table", "PIE-Bench", tables, [])
    print(f"{out}: table.md, table.html", file=sys.stderr)


def _write_sheet(
    arguments: argparse.Namespace, ways: Mapping[Path, Way], cases: Sequence[PieCase], run: PieRun
) -> None:
    from evaluation.pie.pie_sheet import picture_sheet
    from intarsia.files import atomic_write

    [case] = [case for case in cases if case.key == arguments.sheet]
    path = arguments.results / f"sheet-{case.key}.html"
    atomic_write(path, picture_sheet(ways, case, run.image(case)))
    print(path)
