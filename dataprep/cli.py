"""`python -m dataprep`: build, verify, show, stats, duplicates."""

import argparse
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataprep.build_options import add_build_options
from dataprep.sources.table import SOURCES
from intarsia.command_line import Parser
from intarsia.errors import UsageError, UserError, run_command
from intarsia.words import counted

if TYPE_CHECKING:
    from dataprep.plan.inputs import BuildRequest


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(_run, argv)


def _run(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv, argparse.Namespace(argv=list(argv)))
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _parser() -> Parser:
    parser = Parser(prog="python -m dataprep", description="Annotated boxes to training shards.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="make a shard folder, or go on with one")
    commands_of_sources = build.add_subparsers(required=True, metavar="SOURCE", dest="source")
    for source in SOURCES.values():
        own = commands_of_sources.add_parser(source.name, help=source.help)
        for item in source.inputs:
            own.add_argument(f"--{item.role}", type=Path, required=item.required, help=item.help)
        add_build_options(own)
        own.set_defaults(command=_build)
    verify = commands.add_parser("verify", help="check a shard folder; one line for each problem")
    verify.add_argument("folder", type=Path, metavar="OUT")
    verify.add_argument("--full", action="store_true", help="decode every sample, not a few of each shard")
    verify.add_argument("--workers", type=int, help="processes (default: one per CPU)")
    verify.set_defaults(command=_verify)
    show = commands.add_parser("show", help="a contact sheet of samples, as PNG or HTML")
    show.add_argument("folder", type=Path, metavar="OUT")
    show.add_argument("--out", type=Path, required=True, help="sheet.png or sheet.html")
    show.add_argument("--number", type=int, default=12, help="of samples (default %(default)s)")
    show.add_argument("--seed", type=int, default=0, help="which samples (default %(default)s)")
    show.add_argument("--class", dest="label", metavar="NAME", help="only samples of this class")
    show.add_argument(
        "--worst",
        metavar="MEASURE",
        help="the worst instead: smallest-mask, largest-mask, largest-squash, longest-box, fewest-pixels",
    )
    show.set_defaults(command=_show)
    stats = commands.add_parser("stats", help="counts by reason and class, sizes of boxes and masks")
    stats.add_argument("folder", type=Path, metavar="OUT")
    stats.add_argument("--out", type=Path, metavar="PNG", help="draw the histograms")
    stats.add_argument("--json", action="store_true", help="as one JSON object")
    stats.set_defaults(command=_stats)
    duplicates = commands.add_parser("duplicates", help="pictures of a built folder that look alike")
    duplicates.add_argument("folder", type=Path, metavar="OUT")
    duplicates.add_argument("--distance", type=int, default=4, help="bits of 64 (default %(default)s)")
    duplicates.add_argument("--out", type=Path, metavar="LIST", help="write a list for `build --exclude`")
    duplicates.set_defaults(command=_duplicates)
    return parser


def _build(options: argparse.Namespace) -> int:
    from dataprep.build import build
    from dataprep.progress import Reporter

    request = _request(options)
    if options.dry_run:
        return _dry_run(request)
    reporter = Reporter()
    try:
        manifest = build(request, reporter)
    finally:
        reporter.close()
    kept, given = manifest["kept"], manifest["in"]
    print(
        f"{counted(kept['samples'], 'sample')} from {_of(kept, given)}, "
        f"in {counted(len(manifest['shardlist']), 'shard')}"
    )
    _print_rejects(manifest)
    print(f"in {request.out}\nnext: python -m dataprep show {shlex.quote(str(request.out))} --out sheet.png")
    if not kept["samples"]:
        raise UserError(f"not one sample could be made; {request.out}/rejects.jsonl tells why")
    if options.wandb:
        from dataprep.look.wandb_artifact import log_folder

        print(f"W&B: {log_folder(request.out, options.wandb)}")
    return 0


def _request(options: argparse.Namespace) -> "BuildRequest":
    from dataprep.plan.inputs import BuildRequest
    from dataprep.plan.plan import BuildConfig
    from intarsia.config import build_config

    _check_workers(options.workers)
    content = {name: getattr(options, name) for name in BuildConfig.model_fields}
    content["name"] = options.name or options.source
    roles = [item.role for item in SOURCES[options.source].inputs]
    return BuildRequest(
        config=build_config(BuildConfig, content, where="build options"),
        inputs={role: getattr(options, role) for role in (*roles, "exclude") if getattr(options, role, None)},
        images="\n".join(options.images),
        out=options.out,
        command=shlex.join(["python", "-m", "dataprep", *options.argv]),
        workers=options.workers,
        ray_address=options.ray_address,
        verbose=options.verbose,
    )


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: at least 1 is needed")


def _dry_run(request: "BuildRequest") -> int:
    from dataprep.build import free_space_warning
    from dataprep.estimate import amount, estimate, expected_rejects
    from dataprep.plan.inputs import new_plan
    from dataprep.progress import duration

    plan = new_plan(request, unpack=False)
    found, given = estimate(plan), plan.counts()["in"]
    print(
        f"{counted(found.samples, 'sample')} at most, from "
        f"{_of({'pictures': found.pictures, 'boxes': found.boxes}, given)}, "
        f"in {counted(plan.shards, 'shard')}"
    )
    _print_rejects({"rejected": expected_rejects(plan, found)})
    labels = [f"{name} {number:,.3g}" for name, number in list(found.labels.items())[:20]]
    more = f", and {len(found.labels) - 20} more" if len(found.labels) > 20 else ""
    print(f"expected samples by class ({len(found.labels)}): {', '.join(labels)}{more}")
    workers = request.workers or len(os.sched_getaffinity(0))
    print(
        f"about {amount(found.bytes)} and {duration(found.seconds)} of one core, "
        f"{counted(workers, 'process', 'processes')} {duration(found.seconds / workers)}, by a made-up "
        f"picture of {found.picture_size[0]}x{found.picture_size[1]} timed here "
        f"({1000 * found.cpu_seconds:.1f} ms)"
    )
    for name, value in request.config.model_dump(mode="json").items():
        if value not in (None, []):
            print(f"  {name}: {value}")
    warning = free_space_warning(request.out, found.bytes)
    if warning:
        print(f"warning: {warning}")
    print(
        f"would go to {request.out}; no picture was read: what only these tell (damage, blur, a size that is "
        "not annotated) is not in it"
    )
    return 0


def _of(kept: Mapping[str, int], given: Mapping[str, int]) -> str:
    return (
        f"{kept['pictures']:,} of {counted(given['pictures'], 'picture')} and "
        f"{kept['boxes']:,} of {counted(given['boxes'], 'box', 'boxes')}"
    )


def _print_rejects(content: dict[str, Any]) -> None:
    from dataprep.shards.figures import reject_table

    lines = reject_table(content)
    print("rejected:" if lines else "rejected: nothing")
    for line in lines:
        print(f"  {line}")


def _verify(options: argparse.Namespace) -> int:
    from dataprep.check.verify import verify_folder
    from dataprep.progress import Reporter

    _check_workers(options.workers)
    workers, reporter = options.workers or len(os.sched_getaffinity(0)), Reporter()
    try:
        problems = verify_folder(options.folder, options.full, workers, reporter)
    finally:
        reporter.close()
    for problem in problems:
        print(problem)
    if problems:
        raise UserError(
            f"{options.folder} is not whole; problems: {len(problems)}; delete the files that are "
            "named, and run its build command again, which makes them anew"
        )
    looked = "every sample" if options.full else "a look into each shard"
    print(f"{options.folder} is whole: counts, hashes, order and {looked} agree")
    return 0


def _show(options: argparse.Namespace) -> int:
    from dataprep.look.contact_sheet import write_contact_sheet
    from dataprep.look.pick import Choice

    if options.number < 1:
        raise UsageError(f"--number {options.number}: at least 1 is needed")
    choice = Choice(options.number, options.seed, options.label, options.worst)
    number = write_contact_sheet(options.folder, options.out, choice)
    print(f"{counted(number, 'sample')} in {options.out}")
    return 0


def _stats(options: argparse.Namespace) -> int:
    from dataprep.look.stats import folder_stats, stats_lines

    content = folder_stats(options.folder)
    if options.out:
        from dataprep.look.stats_plot import write_stats_plot

        write_stats_plot(content, options.out)
    print(json.dumps(content, indent=1) if options.json else "\n".join(stats_lines(content)))
    return 0


def _duplicates(options: argparse.Namespace) -> int:
    from dataprep.look.duplicates import MAX_DISTANCE, find_duplicates, write_list

    if not 0 <= options.distance <= MAX_DISTANCE:
        raise UsageError(f"--distance {options.distance}: 0 to {MAX_DISTANCE} bits make sense")
    found = find_duplicates(options.folder, options.distance)
    for item in found:
        print(f"{item.image_id} is like {item.original} ({item.distance} of 64 bits differ)")
    if options.out:
        write_list(options.out, found)
    where = f"; their names are in {options.out}, for build --exclude" if options.out else ""
    print(f"pictures that look like one before them: {len(found):,}{where}")
    return 0
