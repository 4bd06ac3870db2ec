"""Masks of video objects in DAVIS' layout, also that of YouTube-VOS, MOSE and LVOS, in columns.

Annotations/[480p/]SEQUENCE/FRAME.png marks each object by its number, 0 is the background; the picture is
JPEGImages/[480p/]SEQUENCE/FRAME.jpg.
"""

import re
from pathlib import Path

import numpy as np

from dataprep.formats.boxes_csv import UNLABELLED
from dataprep.formats.object_masks import numbered_mask, read_numbers
from dataprep.formats.views import ViewColumns
from dataprep.records import Annotations, Rejected, RejectReason, View
from intarsia.errors import UserError
from intarsia.files import read_json, walk_files

MASKS, PICTURES = "Annotations", "JPEGImages"
_RESOLUTION = re.compile(r"^(\d+p|Full-Resolution)$")
_FRAMES = 100_000  # a view's number is object × this + frame


def find_davis(root: Path) -> list[str]:
    """The masks below a folder, as sorted paths with an `Annotations` in them."""
    return sorted(
        path for path, _ in walk_files(root) if path.endswith(".png") and f"/{MASKS}/" in f"/{path}"
    )


def read_davis(root: Path, masks: list[str]) -> Annotations:
    """Read the numbers and bounds of all objects in all masks.

    A video is a record, an object in a frame is a box. Where an object of a video is not in one of its masks,
    that is a box that was dropped, too. Categories are those of a meta.json (YouTube-VOS), if there is one.

    Args:
        root: folder of the videos.
        masks: paths that `find_davis` gives.

    Raises:
        UserError: for videos in several resolutions, which would be pairs of one and the same frame.
    """
    sequences: dict[str, list[str]] = {}
    for path in masks:
        sequences.setdefault(path.rpartition("/")[0], []).append(path)
    names = _names(root, sequences)
    pictures = _pictures(root)
    categories = _categories(root)
    columns = ViewColumns()
    for folder, paths in sequences.items():
        _read_sequence(columns, root, names[folder], paths, pictures, categories)
    return columns.annotations()


def _read_sequence(
    columns: ViewColumns,
    root: Path,
    name: str,
    paths: list[str],
    pictures: dict[str, str],
    categories: dict[tuple[str, int], str],
) -> None:
    frames = {_frame(path, place): path for place, path in enumerate(paths)}
    found = {frame: _objects(root / path) for frame, path in frames.items()}
    sizes = [content[0] for content in found.values() if not isinstance(content, Rejected)]
    numbers = sorted({n for c in found.values() if not isinstance(c, Rejected) for n in c[1]})
    files = {frame: pictures.get(_picture_stem(path), "") for frame, path in frames.items()}
    first = next((file for file in files.values() if file), _picture_stem(paths[0]) + ".jpg")
    columns.begin(name, first, sizes[0] if sizes else (0, 0))
    for frame, content in found.items():
        if isinstance(content, Rejected):
            columns.drop(frame, RejectReason.OBJECT_MASK_UNREADABLE)
            continue
        (width, height), boxes = content
        for number in numbers:
            box_id = number * _FRAMES + frame
            if number not in boxes:
                columns.drop(box_id, RejectReason.OBJECT_GONE)
            elif not files[frame]:
                columns.drop(box_id, RejectReason.FILE_MISSING)
            else:
                x0, y0, x1, y1 = boxes[number]
                columns.add(
                    box_id,
                    boxes[number],
                    View(files[frame], frame, number),
                    categories.get((name.rpartition("/")[2], number), UNLABELLED),
                    numbered_mask(frames[frame], number),
                    is_cut=int(x0 == 0 or y0 == 0 or x1 == width or y1 == height),
                )


def _names(root: Path, sequences: dict[str, list[str]]) -> dict[str, str]:
    """Folder of masks -> name of its video: the path without Annotations and the resolution."""
    names: dict[str, str] = {}
    for folder in sequences:
        parts = folder.split("/")
        parts.remove(MASKS)
        name = "/".join(part for part in parts if not _RESOLUTION.match(part)) or "video"
        twin = next((other for other, known in names.items() if known == name), None)
        if twin:
            raise UserError(f"{root} holds {name} twice, in {twin} and in {folder}; give a folder with one")
        names[folder] = name
    return names


def _pictures(root: Path) -> dict[str, str]:
    """Path without ending -> path, of all pictures."""
    from dataprep.pictures.index import is_picture_name

    paths = sorted(path for path, _ in walk_files(root) if f"/{PICTURES}/" in f"/{path}")
    return {path.rpartition(".")[0]: path for path in reversed(paths) if is_picture_name(path)}


def _picture_stem(mask: str) -> str:
    before, _, after = f"/{mask}".rpartition(f"/{MASKS}/")
    return f"{before}/{PICTURES}/{after}".removeprefix("/").rpartition(".")[0]


def _frame(path: str, place: int) -> int:
    """The number at the end of a frame's name; its place among the masks if it has none."""
    digits = re.search(r"(\d+)\.png$", path)
    return int(digits.group(1)) % _FRAMES if digits else place


def _objects(path: Path) -> tuple[tuple[int, int], dict[int, tuple[int, int, int, int]]] | Rejected:
    """(width, height) of a mask, and the bounds of each object in it by its number."""
    numbers = read_numbers(path)
    if isinstance(numbers, Rejected):
        return numbers
    bounds = {}
    for number in np.unique(numbers).tolist():
        if number:
            inside = numbers == number
            xs, ys = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
            bounds[number] = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
    return (numbers.shape[1], numbers.shape[0]), bounds


def _categories(root: Path) -> dict[tuple[str, int], str]:
    """(video, number of the object) -> category, of all meta.json below a folder."""
    found: dict[tuple[str, int], str] = {}
    for path in sorted(path for path, _ in walk_files(root) if path.rpartition("/")[2] == "meta.json"):
        content = read_json(root / path)
        videos = content.get("videos") if isinstance(content, dict) else None
        for video, about in (videos or {}).items() if isinstance(videos, dict) else ():
            objects = about.get("objects", {}) if isinstance(about, dict) else {}
            for number, one in objects.items() if isinstance(objects, dict) else ():
                if isinstance(one, dict) and str(number).isdigit() and isinstance(one.get("category"), str):
                    found[video, int(number)] = one["category"]
    return found
