"""`python -m dataprep build SOURCE`: make a shard folder, or continue one."""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dataprep.options import add_source_commands, check_workers
from dataprep.sources.source import source_of
from intarsia.command_line import Commands
from intarsia.errors import UserError
from intarsia.words import counted

if TYPE_CHECKING:
    from dataprep.plan.inputs import BuildRequest


def add(commands: Commands) -> None:
    """Add `build` to the command line, with a sub-command for each source."""
    add_source_commands(commands.add_parser("build", help="make a shard folder, or continue one"), _build)


def _build(options: argparse.Namespace) -> int:
    from dataprep.build import build
    from dataprep.plan.remarks import build_remarks
    from dataprep.progress import Reporter

    request = _request(options)
    if options.dry_run:
        return _dry_run(request)
    reporter = Reporter()
    try:
        manifest = build(request, reporter, _warn)
    finally:
        reporter.close()
    kept, given = manifest["kept"], manifest["in"]
    print(
        f"{counted(kept['samples'], 'sample')} from {_of(kept, given)}, "
        f"in {counted(len(manifest['shardlist']), 'shard')}"
    )
    _print_rejects(manifest)
    for text in build_remarks(manifest):
        _warn(text)
    print(f"in {request.out}\nnext: python -m dataprep show {shlex.quote(str(request.out))} --out sheet.png")
    if not kept["samples"]:
        raise UserError(f"not one sample could be made; {request.out}/rejects.jsonl has the reasons")
    if options.wandb:
        from dataprep.look.wandb_artifact import log_folder

        print(f"W&B: {log_folder(request.out, options.wandb)}")
    return 0


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _request(options: argparse.Namespace) -> "BuildRequest":
    from dataprep.plan.inputs import BuildRequest
    from dataprep.plan.plan import BuildConfig
    from intarsia.config import build_config

    check_workers(options.workers)
    source = source_of(options.source)
    content = {name: getattr(options, name) for name in BuildConfig.model_fields if hasattr(options, name)}
    content["name"] = options.name or options.source
    roles = [*(item.role for item in source.inputs), "exclude"]
    images = [str(getattr(options, source.pictures_from))] if source.pictures_from else options.images
    return BuildRequest(
        config=build_config(BuildConfig, content, where="build options"),
        inputs={role: getattr(options, role) for role in roles if getattr(options, role)},
        images="\n".join(images),
        out=options.out,
        command=shlex.join(["python", "-m", "dataprep", *options.argv]),
        workers=options.workers,
        ray_address=options.ray_address,
        verbose=options.verbose,
    )


def _dry_run(request: "BuildRequest") -> int:
    from dataprep.build import free_space_warning
    from dataprep.estimate import amount, estimate_build, expected_rejects
    from dataprep.plan.inputs import new_plan
    from dataprep.progress import duration

    plan = new_plan(request, unpack=False)
    found, given = estimate_build(plan), plan.counts()["in"]
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
            print(f"  {name}: {value['name'] if name == 'recipe' else value}")
    warning = free_space_warning(request.out, found.bytes)
    for text in (*plan.remarks, *([warning] if warning else [])):
        print(f"warning: {text}")
    print(
        f"would be written to {request.out}; no picture was read, so what only pictures show (damage, blur, "
        "a size that is not annotated) is not included"
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
