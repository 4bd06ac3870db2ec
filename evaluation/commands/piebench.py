"""`python -m evaluation piebench`: results of a method on PIE-Bench, in the published table's columns."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from evaluation.benches import piebench
from evaluation.benches.piebench import CATEGORIES, Measures, PieCase
from evaluation.benches.readable import broken_cases, left_out
from evaluation.benches.result_files import named_format, treat
from evaluation.measures.measures import Feed
from evaluation.reports.output import add_output_options, deliver
from evaluation.scoring.report import Report, ReportColumn, incomplete
from evaluation.scoring.scorer import add_scoring_options, scorer
from intarsia.command_line import Commands
from intarsia.errors import UserError


def add(commands: Commands) -> None:
    """Declare `piebench`."""
    parser = commands.add_parser(
        "piebench",
        help="score results on PIE-Bench, per edit category",
        description="Score results on PIE-Bench: structure distance, background errors and similarity to the "
        "prompt, by the conventions of the published table. Prints it, with 95 % intervals, above the "
        "published rows.",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--bench",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with mapping_file.json and annotation_images/",
    )
    files.add_argument(
        "--results",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of results, by the sources' paths or KEY.png",
    )
    files.add_argument(
        "--only-present", action="store_true", help="continue if results are missing, and report how many"
    )
    parser.add_argument(
        "--structure",
        choices=get_args(Feed),
        default="published",
        help="preprocessing of the structure distance: as in the published table, or as the network was "
        "trained (default %(default)s)",
    )
    parser.add_argument(
        "--recompress",
        choices=("published",),
        help="published: pass results through JPEG of quality 75 and 4:2:0, as the published results are, "
        "unless they are such files",
    )
    parser.add_argument(
        "--resize", action="store_true", help="resize results of another size to 512 × 512; another recipe"
    )
    add_output_options(parser)
    add_scoring_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    cases = piebench.read_bench(arguments.bench)
    results = piebench.find_results(cases, arguments.results, arguments.only_present)
    present = [case for case in cases if case.key in results]
    sources = {case.key: arguments.bench / "annotation_images" / case.image_path for case in present}
    lost = next((path for path in sources.values() if not path.is_file()), None)
    if lost:
        raise UserError(f"{lost} does not exist; --bench must hold annotation_images/ with all sources")
    files = {case.key: {"source": sources[case.key], "result": results[case.key]} for case in present}
    broken = broken_cases(files) if arguments.only_present else {}
    present = [case for case in present if case.key not in broken]
    if not present:
        raise UserError(f"no case can be scored; {left_out(broken)[0]}")
    results = {case.key: results[case.key] for case in present}
    rows, columns = _score(arguments, present, sources, results)
    report = Report(
        bench="PIE-Bench",
        name=arguments.name or arguments.results.resolve().name,
        expected=len(cases),
        columns=columns,
        rows=rows,
        groups={case.key: CATEGORIES[case.category] for case in present},
        files={c.key: {"image": str(sources[c.key]), "result": str(results[c.key])} for c in present},
        captions={case.key: f"{case.source_prompt} → {case.target_prompt}" for case in present},
        remarks=incomplete(len(present), len(cases)) + left_out(broken),
    )
    deliver(report, arguments, arguments.results)


def _score(
    arguments: argparse.Namespace,
    cases: Sequence[PieCase],
    sources: Mapping[str, Path],
    results: Mapping[str, Path],
) -> tuple[dict[str, dict[str, float]], list[ReportColumn]]:
    """Key -> column -> value, and the columns."""
    from evaluation.measures import features
    from evaluation.measures.weights import parse_weights
    from sampling.denoise.machine import pick_device

    recompress = arguments.recompress == "published"
    given, device = parse_weights(arguments.weights), pick_device(arguments.device)
    clip = features.clip("clip-l14", given, device)
    measures = Measures(
        structure=features.structure(arguments.structure, given, device),
        lpips=features.lpips("squeeze", "background", given, device),
        clip=clip.whole,
    )
    wanted = [piebench.requests(case, sources[case.key], results[case.key], measures) for case in cases]
    columns = named_format(piebench.columns_of(wanted[0]), results.values(), recompress, arguments.resize)
    wanted = [
        treat(asked, results[case.key], recompress, arguments.resize)
        for case, asked in zip(cases, wanted, strict=True)
    ]
    prompts = clip.texts([case.target_prompt for case in cases])
    values = scorer(arguments)(wanted, "piebench")
    rows = {
        case.key: piebench.row_of(value, prompt)
        for case, value, prompt in zip(cases, values, prompts, strict=True)
    }
    return rows, columns
