"""PIE-Bench as a bench: where its cases and results are, and how results are treated before scoring."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.benches.bench import Bench, BenchCases, Numbers, add_bench_folder
from evaluation.metrics.metric import EditCase, Number
from evaluation.pie import piebench
from evaluation.pie.piebench import CATEGORIES, PieCase
from evaluation.scoring.result_files import named_format, treat
from intarsia.errors import UserError


def add_pie_files(
    parser: argparse.ArgumentParser, results: str = "folder of results, by the sources' paths or KEY.png"
) -> None:
    """Add the bench, the results, and what is done to results; `results`: help text of --results."""
    files = add_bench_folder(parser, "folder with mapping_file.json and annotation_images/", results)
    files.add_argument(
        "--recompress",
        choices=("published",),
        help="published: pass results through JPEG of quality 75 and 4:2:0, as the published results are, "
        "unless they are such files",
    )
    files.add_argument(
        "--resize", action="store_true", help="resize results of another size to 512 × 512; another recipe"
    )


def pie_cases(bench: Path, cases: Sequence[PieCase], expected: int) -> BenchCases:
    """Cases as they are scored.

    Args:
        bench: folder of the bench.
        cases: cases, all or those that were asked for.
        expected: number of cases that the bench has.
    """
    found = [
        EditCase(
            case.key,
            {"image": bench / "annotation_images" / case.image_path},
            CATEGORIES[case.category],
            case.edit_mask,
            (case.source_prompt, case.target_prompt),
        )
        for case in cases
    ]
    return BenchCases("PIE-Bench", found, expected)


def _read(arguments: argparse.Namespace) -> BenchCases:
    cases = piebench.read_bench(arguments.bench)
    return pie_cases(arguments.bench, cases, len(cases))


def _find(options: argparse.Namespace, cases: Sequence[EditCase], results: Path) -> list[EditCase]:
    folder = options.bench / "annotation_images"
    paths = {case.key: case.files["image"].relative_to(folder).as_posix() for case in cases}
    found = piebench.find_results(paths, results, options.only_present)
    present = [
        replace(case, files={**case.files, "result": found[case.key]}) for case in cases if case.key in found
    ]
    sources = (case.files["image"] for case in present)
    lost = next((path for path in sources if not path.is_file()), None)
    if lost:
        raise UserError(f"{lost} does not exist; --bench must hold annotation_images/ with all sources")
    return present


def _treated(arguments: argparse.Namespace, cases: Sequence[EditCase], numbers: Numbers) -> Numbers:
    """The numbers of results that are treated first, with their format in the recipes."""
    recompress, own = arguments.recompress == "published", [n for n in numbers if isinstance(n, Number)]
    results = [case.files["result"] for case in cases]
    columns = named_format([number.column for number in own], results, recompress, arguments.resize)

    def treated(number: Number) -> Number:
        return replace(
            number,
            wanted=lambda case: treat(
                number.wanted(case), case.files["result"], recompress, arguments.resize
            ),
        )

    return [replace(treated(number), column=column) for number, column in zip(own, columns, strict=True)]


PIE_BENCH = Bench(
    help="score results on PIE-Bench, per edit category",
    description="Score results on PIE-Bench: structure distance, background errors and similarity to the "
    "prompt, by the conventions of the published table. Prints it, with 95 % intervals, above the "
    "published rows. `piebench run` makes the results first.",
    metrics=("pie-structure", "pie-psnr", "pie-lpips", "pie-errors", "pie-clip"),
    add_files=add_pie_files,
    read=_read,
    find=_find,
    treat=_treated,
    one_size=(),  # a result may be a strip of several pictures
    sort=False,
    extendable=False,
)
