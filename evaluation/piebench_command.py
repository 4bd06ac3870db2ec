"""`python -m evaluation piebench`: results of a method on PIE-Bench, in the published table's columns."""

from __future__ import annotations

import argparse
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import piebench
from evaluation.confidence import Estimate
from evaluation.options import add_scoring_options, open_store, progress, scoring_options
from evaluation.piebench import COLUMNS, PUBLISHED, SCALES, EditCase, Line, Measures
from evaluation.scoring import score
from intarsia.errors import UserError
from intarsia.files import atomic_write, write_json


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], epilog: str) -> None:
    """Add `piebench`."""
    parser = commands.add_parser(
        "piebench",
        help="score results on PIE-Bench, per edit category",
        description="Score results on PIE-Bench: structure distance, background errors and similarity to the "
        "prompt, by the conventions of the published table. Prints it, with 95 % intervals, above the "
        "published rows; --out keeps every case's numbers.",
        epilog=epilog,
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--bench",
        type=Path,
        required=True,
        metavar="DIR",
        help="with mapping_file.json, annotation_images/",
    )
    files.add_argument(
        "--results",
        type=Path,
        required=True,
        metavar="DIR",
        help="results by the sources' paths, or KEY.png",
    )
    files.add_argument("--out", type=Path, metavar="DIR", help="write piebench.json and piebench.csv there")
    files.add_argument(
        "--only-present", action="store_true", help="go on where results are missing, and say how many"
    )
    parser.add_argument(
        "--structure",
        choices=("published", "right"),
        default="published",
        help="how pictures reach the network of the structure distance: as in the published table, or as the "
        "network was trained (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the intervals (default %(default)s)")
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
    rows, recipes = _score(arguments, present, sources, results)
    lines = piebench.summarise(rows, present, arguments.seed)
    left_out = len(cases) - len(present)
    print(table(lines))
    if left_out:
        print(f"{left_out} of {len(cases)} results are missing: not comparable with the published rows")
    for column, recipe in recipes.items():
        print(f"{COLUMNS[column]:18} {recipe}")
    if arguments.out:
        _write(arguments.out, lines, rows, recipes, present)


def _score(
    arguments: argparse.Namespace,
    cases: Sequence[EditCase],
    sources: Mapping[str, Path],
    results: Mapping[str, Path],
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Key -> column -> value, and column -> recipe."""
    from evaluation import features
    from evaluation.weights import parse_weights
    from sampling.machine import pick_device

    given, device = parse_weights(arguments.weights), pick_device(arguments.device)
    clip = features.clip("clip-l14", given, device)
    measures = Measures(
        structure=features.structure(arguments.structure, given, device),
        lpips=features.lpips("squeeze", "background", given, device),
        clip=clip.whole,
    )
    wanted = [piebench.requests(case, sources[case.key], results[case.key], measures) for case in cases]
    prompts = clip.texts([case.target_prompt for case in cases])
    with progress("piebench") as report:
        values = score(wanted, open_store(arguments), report, **scoring_options(arguments))
        rows = {
            case.key: piebench.row_of(value, prompt)
            for case, value, prompt in zip(cases, values, prompts, strict=True)
        }
    return rows, {name: request.measure.identity for name, request in wanted[0].items()}


def table(lines: Sequence[Line]) -> str:
    """The table as text: ours, then the published rows."""
    header = ["", "cases", *COLUMNS.values()]
    body = [
        [line.name, str(line.count), *(_cell(line.values[column]) for column in SCALES)] for line in lines
    ]
    published = [[name, "700", *(f"{value:.2f}" for value in values)] for name, values in PUBLISHED.items()]
    title = ["published (SD 1.4, PnP 1.5)", *[""] * (len(header) - 1)]
    rows = [header, *body, title, *published]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "no background"
    if math.isnan(estimate.low) or math.isinf(estimate.value):
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _write(
    folder: Path,
    lines: Sequence[Line],
    rows: Mapping[str, Mapping[str, float]],
    recipes: Mapping[str, str],
    cases: Sequence[EditCase],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "bench": "PIE-Bench",
        "recipes": dict(recipes),
        "table": {line.name: {"count": line.count, **_plain(line)} for line in lines},
        "cases": {key: {name: _finite(value) for name, value in row.items()} for key, row in rows.items()},
    }
    write_json(folder / "piebench.json", content)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "category", *SCALES])
    for case in cases:
        category = piebench.CATEGORIES[case.category]
        writer.writerow([case.key, category, *(f"{rows[case.key][name]:.6g}" for name in SCALES)])
    atomic_write(folder / "piebench.csv", text.getvalue())


def _plain(line: Line) -> dict[str, list[float | None] | None]:
    """Column -> [value, low, high]; JSON has no NaN."""
    return {
        name: None if e is None else [_finite(e.value), _finite(e.low), _finite(e.high)]
        for name, e in line.values.items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
