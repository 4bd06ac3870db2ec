"""From results on PIE-Bench to the report."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import get_args

from evaluation.benches import piebench
from evaluation.benches.piebench import CATEGORIES, Measures, PieCase
from evaluation.benches.readable import broken_cases, left_out
from evaluation.benches.result_files import named_format, treat
from evaluation.benches.run import made_with
from evaluation.measures.measures import Feed
from evaluation.reports.output import add_output_options
from evaluation.scoring.report import Report, ReportColumn, incomplete
from evaluation.scoring.scorer import add_scoring_options, scorer
from intarsia.errors import UserError

NUMBERS = {"structure": ("dino-b8",), "lpips": ("squeeze", "lpips-squeeze"), "clip": ("clip-l14",)}
"""Numbers that can be left out, and the weights that each needs."""


def add_pie_options(parser: argparse.ArgumentParser, results: str, device: bool = True) -> None:
    """Add the bench, the results, the numbers, the report and the machine.

    Args:
        parser: parser of the command.
        results: help text of --results.
        device: whether --device is among the options.
    """
    files = parser.add_argument_group("files")
    files.add_argument(
        "--bench",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with mapping_file.json and annotation_images/",
    )
    files.add_argument("--results", type=Path, required=True, metavar="DIR", help=results)
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
        "--without",
        action="append",
        default=[],
        choices=NUMBERS,
        help="leave out a number whose weights are missing: the structure distance, LPIPS, both "
        "similarities to the prompt; may be repeated",
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
    add_scoring_options(parser, device)


def check_weights(arguments: argparse.Namespace) -> None:
    """Look for all weights before anything long begins; nothing is loaded.

    Raises:
        UserError: for weights that were not found, with the file, its source and the option.
    """
    from evaluation.measures.weights import find_weights, parse_weights

    given = parse_weights(arguments.weights)
    for what, names in NUMBERS.items():
        if what in arguments.without:
            continue
        try:
            for name in names:
                find_weights(name, given)
        except UserError as error:
            raise UserError(f"{error}; --without {what} leaves it out") from None


def score_piebench(
    arguments: argparse.Namespace,
    cases: Sequence[PieCase],
    folder: Path,
    name: str,
    expected: int,
    failed: Collection[str] = (),
) -> Report:
    """Score a folder of results.

    Args:
        arguments: parsed options of `add_pie_options`.
        cases: cases of the bench, all or those that were asked for.
        folder: folder of results.
        name: name of the method.
        expected: number of cases that the bench has.
        failed: cases without a result, which are left out.

    Raises:
        UserError: for results, sources or weights that are missing.
    """
    wanted = [case for case in cases if case.key not in failed]
    results = piebench.find_results(wanted, folder, arguments.only_present)
    present = [case for case in wanted if case.key in results]
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
    return Report(
        bench="PIE-Bench",
        name=name,
        expected=expected,
        columns=columns,
        rows=rows,
        groups={case.key: CATEGORIES[case.category] for case in present},
        files={c.key: {"image": str(sources[c.key]), "result": str(results[c.key])} for c in present},
        captions={case.key: f"{case.source_prompt} → {case.target_prompt}" for case in present},
        remarks=incomplete(len(present), expected) + left_out(broken),
        settings=made_with(folder, rows),
    )


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

    given, device = parse_weights(arguments.weights), pick_device(arguments.device)
    wanted = NUMBERS.keys() - set(arguments.without)
    clip = features.clip("clip-l14", given, device) if "clip" in wanted else None
    measures = Measures(
        structure=features.structure(arguments.structure, given, device) if "structure" in wanted else None,
        lpips=features.lpips("squeeze", "background", given, device) if "lpips" in wanted else None,
        clip=clip.whole if clip else None,
    )
    asked = [piebench.requests(case, sources[case.key], results[case.key], measures) for case in cases]
    recompress = arguments.recompress == "published"
    columns = named_format(piebench.columns_of(asked[0]), results.values(), recompress, arguments.resize)
    asked = [
        treat(one, results[case.key], recompress, arguments.resize)
        for case, one in zip(cases, asked, strict=True)
    ]
    prompts = clip.texts([case.target_prompt for case in cases]) if clip else [None] * len(cases)
    values = scorer(arguments)(asked, "piebench")
    rows = {
        case.key: piebench.row_of(value, prompt)
        for case, value, prompt in zip(cases, values, prompts, strict=True)
    }
    return rows, columns
