"""`cocoee`, `cocoee run`, `cocoee-sources`, `bench`, `bench run`: exemplar benches from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.benches.run import add_run_options, made_with, run_jobs
from evaluation.commands.exemplar_options import add_plan_options, check_plan, make_plan
from evaluation.reports.output import add_output_options, deliver
from evaluation.scoring.scorer import add_scoring_options, progress, scorer
from intarsia.command_line import Commands
from intarsia.errors import UserError
from intarsia.words import counted

if TYPE_CHECKING:
    from sampling.jobs import Job

COCOEE = "COCOEE"


def add_commands(commands: Commands) -> None:
    """Add them."""
    _add_cocoee(commands)
    _add_own(commands)


def _add_cocoee(commands: Commands) -> None:
    parser = commands.add_parser(
        "cocoee",
        help="score results on COCOEE, Paint by Example's bench",
        description="Score a folder of ID.png on COCOEE: the three published numbers by the published recipe "
        "(CLIP Fréchet distance, which wants --reference test2017, quality score, CLIP score), and FID, KID "
        "and errors outside the mask beside them. `cocoee run` makes the results first.",
    )
    _add_bench(parser)
    _add_scoring(parser)
    parser.set_defaults(run=_cocoee)

    parser = commands.add_parser(
        "cocoee run",
        help="make COCOEE's edits with a model and score them; the same command again continues",
        description="Edit COCOEE's cases with a model folder and score them. Results that are there and were "
        "made from the same inputs, settings and model stay. With --shard I/N, for job arrays, this process "
        "makes its part; the one that ends last scores all.",
    )
    _add_bench(parser)
    add_run_options(parser)
    _add_scoring(parser, machine=False)
    parser.set_defaults(run=_cocoee_run)

    parser = commands.add_parser(
        "cocoee-sources",
        help="rebuild COCOEE's pictures and masks from COCO's annotations",
        description="The ids of COCOEE are annotation ids of COCO val2017: write each one's square picture "
        "of 512 pixels and its box as a mask, in the bench's layout, and sources.csv. The exemplars and the "
        "published crops are not in COCO.",
    )
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="FILE", help="instances_val2017.json"
    )
    parser.add_argument("--ids", type=Path, required=True, metavar="FILE", help="the bench's id_list.npy")
    parser.add_argument("--images", type=Path, metavar="DIR", help="val2017; without it: the lists only")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="bench folder to write")
    parser.set_defaults(run=_sources)


def _add_own(commands: Commands) -> None:
    parser = commands.add_parser(
        "bench",
        help="score results on a list of your own",
        description="Score a folder of NAME.png on a list as `sampling batch` takes it: a .csv or .jsonl "
        "with image, mask, exemplar and, if wanted, name and truth. `bench run` makes the results first.",
    )
    _add_list(parser)
    _add_scoring(parser)
    parser.set_defaults(run=_bench)

    parser = commands.add_parser(
        "bench run",
        help="make a list's edits with a model and score them; the same command again continues",
        description="`sampling batch` and then `evaluation bench` on the same list.",
    )
    _add_list(parser)
    add_run_options(parser)
    _add_scoring(parser, machine=False)
    parser.set_defaults(run=_bench_run)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files")
    group.add_argument(
        "--bench",
        type=Path,
        required=True,
        metavar="DIR",
        help="id_list.npy, GT_3500, Ref_3500, Mask_bbox_3500",
    )
    _add_results(group, "ID.png of twelve digits")


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", type=Path, metavar="LIST", help=".csv or .jsonl")
    _add_results(parser.add_argument_group("files"), "NAME.png")


def _add_results(group: argparse._ArgumentGroup, what: str) -> None:
    group.add_argument("--results", type=Path, required=True, metavar="DIR", help=f"folder of {what}")
    group.add_argument(
        "--only-present", action="store_true", help="go on where files are missing, and say how many"
    )


def _add_scoring(parser: argparse.ArgumentParser, machine: bool = True) -> None:
    add_plan_options(parser)
    add_output_options(parser)
    add_scoring_options(parser, machine)


def _cocoee(arguments: argparse.Namespace) -> None:
    from evaluation.benches.cocoee import bench_files

    files = bench_files(arguments.bench)
    _score(arguments, files, COCOEE, len(files))


def _cocoee_run(arguments: argparse.Namespace) -> int:
    from evaluation.benches.cocoee import bench_files
    from sampling.jobs import Job

    check_plan(arguments, truth=False)
    files = bench_files(arguments.bench)
    # Each case has a noise of its own, the same for every model.
    jobs = [Job(key, dict(own), arguments.seed + place, {}) for place, (key, own) in enumerate(files.items())]
    return run_jobs(arguments, jobs, lambda failed: _score(arguments, files, COCOEE, len(files), failed))


def _sources(arguments: argparse.Namespace) -> None:
    from evaluation.benches.cocoee import read_ids
    from evaluation.benches.cocoee_sources import find_annotations, write_sources

    ids = read_ids(arguments.ids)
    found, lost = find_annotations(arguments.annotations, ids)
    with progress("cocoee-sources") as report:
        write_sources(found, arguments.images, arguments.out, report)
    more = f"; {counted(len(lost), 'id')} not in {arguments.annotations}, first {lost[0]}" if lost else ""
    sys.stdout.write(f"{arguments.out}: {len(found):,} of {len(ids):,} cases{more}\n")


def _bench(arguments: argparse.Namespace) -> None:
    from sampling.jobs import read_jobs

    jobs = read_jobs(arguments.jobs)
    _score(arguments, _files_of(jobs, arguments.only_present), arguments.jobs.stem, len(jobs))


def _bench_run(arguments: argparse.Namespace) -> int:
    from sampling.jobs import read_jobs

    jobs, name = read_jobs(arguments.jobs), arguments.jobs.stem
    check_plan(arguments, truth=any(job.truth for job in jobs))

    def then(failed: Collection[str]) -> None:
        _score(arguments, _files_of(jobs, arguments.only_present), name, len(jobs), failed)

    return run_jobs(arguments, jobs, then)


def _files_of(jobs: Sequence[Job], only_present: bool) -> dict[str, dict[str, Path]]:
    """Name -> kind -> file, of the rows that are right; all of them must be, unless `only_present`."""
    right = [job for job in jobs if not job.error]
    broken = [job for job in jobs if job.error]
    if broken and not (right and only_present):
        raise UserError(
            f"{counted(len(broken), 'row')} of the list cannot be done, first {broken[0].name}: "
            f"{broken[0].error}; put it right, or give --only-present to leave it out"
        )
    with_truth = [job for job in right if job.truth]
    if with_truth and len(with_truth) < len(right):
        raise UserError(
            f"{len(with_truth)} of {len(right)} rows have a truth; give one for all, or make two lists"
        )
    return {job.name: {**job.files, **({"truth": job.truth} if job.truth else {})} for job in right}


def _score(
    arguments: argparse.Namespace,
    files: Mapping[str, Mapping[str, Path]],
    bench: str,
    expected: int,
    failed: Collection[str] = (),
) -> None:
    from evaluation.benches.cocoee import find_cases
    from evaluation.benches.exemplars import evaluate

    made = {key: own for key, own in files.items() if key not in failed}
    cases = find_cases(made, arguments.results, arguments.only_present)
    name = arguments.name or arguments.results.resolve().name
    truth = "truth" in cases[0].files
    check_plan(arguments, truth)
    score = scorer(arguments)
    plan = make_plan(arguments, bench, name, score, truth)
    report = evaluate(cases, plan, score, expected)
    deliver(replace(report, settings=made_with(arguments.results, report.rows)), arguments, arguments.results)
