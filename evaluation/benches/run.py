"""Making a bench's edits before scoring them: `sampling batch` under another name."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intarsia.errors import UsageError, UserError
from intarsia.files import fingerprint
from intarsia.words import counted
from sampling.options import (
    add_canvas_options,
    add_input_options,
    add_machine_options,
    add_sampler_options,
    add_shard_option,
    edit_settings,
    machine_settings,
)
from sampling.painters.options import add_painter_options, check_painter, told_parts

if TYPE_CHECKING:
    from sampling.jobs import Job
    from sampling.told import PartNames

log = logging.getLogger(__name__)

_WHERE = "python -m evaluation run"
_TOLD = 3  # failures named; results.jsonl has all of them


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The model, the part, and everything about edits."""
    group = parser.add_argument_group("edits")
    add_painter_options(group)
    add_shard_option(group)
    add_input_options(parser)
    add_sampler_options(parser)
    add_canvas_options(parser)
    add_machine_options(parser, batches=False)
    parser.add_argument(
        "--edits-at-once",
        type=int,
        default=1,
        metavar="N",
        help="edits at the same time; more are faster on a GPU, but then one edit alone is not the same byte "
        "for byte (default %(default)s)",
    )


def made_with(results: Path, keys: Collection[str]) -> dict[str, Any]:
    """How results were made, from results.jsonl: "model" and "settings" if they are the same for all.

    Empty without such a file; if results differ, only "differ", the number of different ways.
    """
    path = results / "results.jsonl"
    if not path.is_file():
        return {}
    newest = _newest_records(path)
    ways = {
        fingerprint([record["model"], record["settings"]]): record
        for key, record in newest.items()
        if key in keys and record["status"] == "ok"
    }
    if len(ways) != 1:
        return {"differ": len(ways)} if ways else {}
    [record] = ways.values()
    return {"model": record["model"], "settings": record["settings"]}


def _newest_records(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> last record of a results.jsonl; lines of another kind are left out with a warning."""
    newest: dict[str, dict[str, Any]] = {}
    odd = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line.decode())
        except json.JSONDecodeError:  # a line that a crash cut short
            continue
        except UnicodeDecodeError:
            record = None
        if _is_record(record):
            newest[record["name"]] = record
        else:
            odd.append(number)
    if odd:
        log.warning(
            f"{path}, line {odd[0]}, is not a record of `sampling batch`; "
            f"{counted(len(odd), 'such line')} left out, so the settings of these results may be unknown"
        )
    return newest


def _is_record(record: Any) -> bool:
    if not (isinstance(record, dict) and isinstance(record.get("name"), str)):
        return False
    made = {"model", "settings"} <= record.keys()
    return isinstance(record.get("status"), str) and (made or record["status"] != "ok")


def run_jobs(
    arguments: argparse.Namespace, jobs: Sequence[Job], then: Callable[[Collection[str]], None]
) -> int:
    """Make the missing edits of this part; when all parts are complete, score.

    Args:
        arguments: parsed options of `add_run_options`, `results`, `seed` and `only_present`.
        jobs: edits of all parts.
        then: function that scores; it gets the names of the edits that failed.

    Returns:
        The exit code: 1 if an edit failed.

    Raises:
        UserError: for a folder that holds no model, and where edits failed, unless only those present are
            wanted.
    """
    if max(len(getattr(arguments, name) or ()) for name in ("guidance_scale", "text_guidance_scale")) > 1:
        raise UsageError("a bench is run at one --guidance-scale; run it again for others")
    own = argparse.Namespace(**vars(arguments) | {"batch_size": arguments.edits_at_once})
    [settings], machine = edit_settings(own, _WHERE), machine_settings(own, _WHERE)
    check_painter(arguments)
    parts = told_parts(arguments)
    jobs = [_without_untold(job, parts) for job in jobs]
    _check_prompts(jobs, parts, arguments)

    from sampling.batch import BatchOptions, failures, pending, run_batch
    from sampling.painters.painter import open_painter
    from sampling.provenance import pattern

    out, model, painter = arguments.results, arguments.model, arguments.painter
    shared = pattern(model, machine, arguments.invert_mask, arguments.exemplar_background, painter)
    options = BatchOptions(out, settings, arguments.seed, shared, arguments.shard)
    counts = run_batch(jobs, options, lambda: open_painter(painter, model, machine))
    print(f"{out}: {counts['made']} made, {counts['kept']} already there, {counts['failed']} failed")
    failed = failures(out, jobs)
    for name, error in islice(failed.items(), _TOLD):
        print(f"failed: {name}: {error}", file=sys.stderr)
    waiting = pending(jobs, options)
    if waiting:
        print(f"{len(waiting):,} of {len(jobs):,} edits are still to be made; the last part scores")
        return 0
    if failed and not arguments.only_present:
        raise UserError(
            f"{len(failed)} of {len(jobs)} edits could not be made, see {out}/results.jsonl; put them right "
            "and run the same command again, or give --only-present to score the others"
        )
    then(failed)
    return int(bool(failed))


def _check_prompts(jobs: Sequence[Job], parts: PartNames, arguments: argparse.Namespace) -> None:
    """Refuse a painter that is told a prompt for a bench that has none; without one it would paint anything.

    A row without one in a bench that has them fails by itself.
    """
    if parts and not any(job.prompt or "exemplar" in job.files for job in jobs):
        painter = arguments.painter if arguments.painter != "own" else arguments.model
        raise UsageError(
            f"{painter} is told a prompt, and this bench has none; give --model one that is told an "
            "exemplar, or one that only erases, such as lama"
        )


def _without_untold(job: Job, parts: PartNames) -> Job:
    """The job of a painter that is told no exemplar, or no prompt; scores still look at the exemplar."""
    untold = () if "exemplar" in parts else ("exemplar", "exemplar_mask")
    files = {name: path for name, path in job.files.items() if name not in untold}
    return replace(job, files=files, prompt=job.prompt if "text" in parts else "")
