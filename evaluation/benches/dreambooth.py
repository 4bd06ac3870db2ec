"""DreamBooth's subjects put into scenes: every subject's picture as the exemplar, in every scene of a list.

SUBJECTS/SUBJECT/*.jpg     pictures of a subject, such as the data set's 30 folders
SCENES.csv                 name, image, mask: pictures and edit masks, relative to the file
RESULTS/SUBJECT-NAME.png   a method's result
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from evaluation.benches.bench import EXEMPLAR_METRICS, Bench, BenchCases, add_results
from evaluation.metrics.metric import EditCase
from intarsia.errors import UserError

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_COLUMNS = ("name", "image", "mask")


def _add_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files")
    group.add_argument(
        "--subjects",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with a folder of pictures for each subject; the first picture by name is the exemplar",
    )
    group.add_argument(
        "--scenes", type=Path, required=True, metavar="FILE.csv", help="columns name, image and mask"
    )
    add_results(group, "folder of SUBJECT-NAME.png")


def _read(arguments: argparse.Namespace) -> BenchCases:
    scenes, subjects = _scenes(arguments.scenes), _subjects(arguments.subjects)
    cases = [
        EditCase(f"{subject}-{name}", {**files, "exemplar": exemplar}, subject)
        for subject, exemplar in subjects.items()
        for name, files in scenes.items()
    ]
    keys = [case.key for case in cases]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise UserError(f"two cases are called {twice[0]}; rename a subject's folder or a scene")
    title = f"{arguments.subjects.resolve().name} in {arguments.scenes.stem}"
    return BenchCases(title, cases, len(cases))


def _subjects(folder: Path) -> dict[str, Path]:
    """Subject -> its first picture; folders without pictures are none."""
    found = {}
    for own in sorted(path for path in folder.glob("*") if path.is_dir()):
        pictures = sorted(path for path in own.iterdir() if path.suffix.lower() in _ENDINGS)
        if pictures:
            found[own.name] = pictures[0]
    if not found:
        raise UserError(
            f"{folder} has no folders with pictures; give the data set's folder `dataset`, with one for each "
            "subject"
        )
    return found


def _scenes(path: Path) -> dict[str, dict[str, Path]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a CSV file: {error}") from None
    if not rows or not set(_COLUMNS) <= rows[0].keys():
        raise UserError(f"{path} needs a header with {', '.join(_COLUMNS)}, and a row for each scene")
    scenes: dict[str, dict[str, Path]] = {}
    for number, row in enumerate(rows, 2):
        if lost := [column for column in _COLUMNS if not row[column]]:
            raise UserError(f"{path}, line {number}: {lost[0]} is empty; fill it in")
        if row["name"] in scenes:
            raise UserError(f"{path}, line {number}: the name {row['name']} appears twice")
        scenes[row["name"]] = {kind: path.parent / row[kind] for kind in ("image", "mask")}
    return scenes


DREAMBOOTH = Bench(
    help="score results of subjects put into scenes, such as DreamBooth's 30",
    description="Score a folder of SUBJECT-NAME.png: every subject of a folder in every scene of a list, "
    "with averages for each subject. `dreambooth run` makes the results first.",
    run_help="put every subject into every scene with a model and score the results",
    run_description="Edit every scene with every subject's first picture, and score the results. The same "
    "command again continues.",
    metrics=("dinov2-b14", "clip-i-b32", "dino-s16", *EXEMPLAR_METRICS),
    add_files=_add_files,
    read=_read,
)
