"""AnyInsertion's layout: pairs of pictures of one object; one is the exemplar, the other the target.

BENCH/CATEGORY/ref_image/ID.png   a picture of the object; ref_mask/ID.png: its mask
BENCH/CATEGORY/tar_image/ID.png   another picture of it; tar_mask/ID.png: its mask there
RESULTS/CATEGORY-ID.png           a method's result
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation.benches.bench import EXEMPLAR_METRICS, Bench, BenchCases, add_bench_folder
from evaluation.metrics.metric import EditCase
from intarsia.errors import UserError

_FOLDERS = {
    "image": "tar_image",
    "mask": "tar_mask",
    "exemplar": "ref_image",
    "exemplar_mask": "ref_mask",
    "truth": "tar_image",
    "result_mask": "tar_mask",
}
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def _add_files(parser: argparse.ArgumentParser) -> None:
    add_bench_folder(
        parser,
        "a split: folders CATEGORY/{ref_image,ref_mask,tar_image,tar_mask} with ID.png",
        "folder of CATEGORY-ID.png",
    )


def _read(arguments: argparse.Namespace) -> BenchCases:
    targets = sorted(
        path for path in arguments.bench.glob("*/tar_image/*") if path.suffix.lower() in _ENDINGS
    )
    if not targets:
        raise UserError(
            f"{arguments.bench} has no CATEGORY/tar_image/ID.png; give a split of AnyInsertion, such as "
            "mask_prompt/test"
        )
    cases: dict[str, EditCase] = {}
    for target in targets:
        category, key = target.parent.parent, f"{target.parent.parent.name}-{target.stem}"
        if key in cases:
            raise UserError(f"{category / 'tar_image'} has two pictures named {target.stem}; keep one")
        files = {kind: _file(category / folder, target.stem) for kind, folder in _FOLDERS.items()}
        cases[key] = EditCase(key, files, category.name)
    return BenchCases(f"AnyInsertion {arguments.bench.resolve().name}", list(cases.values()), len(cases))


def _file(folder: Path, stem: str) -> Path:
    """The file of a name, with any ending of pictures; NAME.png if there is none."""
    places = (folder / f"{stem}{ending}" for ending in _ENDINGS)
    return next((place for place in places if place.is_file()), folder / f"{stem}.png")


ANY_INSERTION = Bench(
    help="score results on a split of AnyInsertion",
    description="Score a folder of CATEGORY-ID.png on a split of AnyInsertion: the target picture is the "
    "truth, its object mask the edit mask; both masks serve identity (--with, --identity-region object, "
    "--identity-exemplar cut-out). `anyinsertion run` makes the results first.",
    run_help="make AnyInsertion's edits with a model and score them",
    run_description="Edit the target pictures of a split of AnyInsertion and score the results. The same "
    "command again continues.",
    metrics=EXEMPLAR_METRICS,
    add_files=_add_files,
    read=_read,
    one_size=("image", "result", "truth", "mask"),
)
