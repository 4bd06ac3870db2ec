"""COCOEE's pictures and masks from plain COCO: the ids of the bench are annotation ids of val2017."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataprep.sources.coco import read_coco
from evaluation.benches.cocoee import COCOEE_SIZE, bench_files, place_square
from intarsia.boxes import Box, box_from_xyxy
from intarsia.errors import UserError
from intarsia.files import atomic_path, atomic_write
from sampling.pictures import read_picture, write_png


@dataclass(frozen=True)
class Annotated:
    """A case as COCO has it.

    Attributes:
        number: the annotation's id.
        file: the picture's name.
        size: (width, height).
        bounds: x0, y0, x1, y1 as annotated, not rounded.
        label: class.
    """

    number: int
    file: str
    size: tuple[int, int]
    bounds: tuple[float, float, float, float]
    label: str

    @property
    def box(self) -> Box:
        """In whole pixels."""
        return box_from_xyxy(*self.bounds, self.size)


def find_annotations(path: Path, ids: Sequence[int]) -> tuple[list[Annotated], list[int]]:
    """The annotations with these ids, in their order, and the ids that the file lacks.

    Raises:
        UserError: if the file is missing or not COCO's, or has none of them.
    """
    annotations = read_coco(path)
    places = {int(number): place for place, number in enumerate(annotations.box_ids)}
    found, lost = [], []
    for number in ids:
        place = places.get(number)
        picture = -1 if place is None else int(annotations.picture[place])
        if place is None or picture < 0:
            lost.append(number)
            continue
        width, height = (int(length) for length in annotations.sizes[picture])
        x0, y0, x1, y1 = (float(bound) for bound in annotations.bounds[place])
        label = annotations.labels[annotations.label[place]]
        found.append(Annotated(number, annotations.files[picture], (width, height), (x0, y0, x1, y1), label))
    if not found:
        raise UserError(f"{path} has none of the {len(ids)} annotations; give COCO's instances_val2017.json")
    return found, lost


def write_sources(
    found: Sequence[Annotated], images: Path | None, out: Path, report: Callable[[int, int], None]
) -> None:
    """Write id_list.npy, sources.csv and, where there are pictures, GT_3500/ and Mask_bbox_3500/.

    Files that are there are left as they are, so the same command again does what is missing.

    Args:
        found: the cases.
        images: the folder of COCO's pictures; None: the lists only.
        out: the folder, which is made.
        report: called with the number of cases done and the number in all.

    Raises:
        UserError: for a picture that is missing or has another size than annotated.
    """
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "id_list.npy") as temporary, temporary.open("wb") as file:
        np.save(file, np.array([case.number for case in found], np.int64))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "file", *_named("box"), *_named("window"), *_named("edit_box"), "label"])
    writer.writerows(_rows(found))
    atomic_write(out / "sources.csv", text.getvalue())
    if images is None:
        return
    for done, (case, files) in enumerate(zip(found, bench_files(out).values(), strict=True), 1):
        if not files["image"].is_file():
            _write_case(case, images / case.file, files["image"])
        if not files["mask"].is_file():
            write_png(_mask(case), files["mask"])
        report(done, len(found))


def _rows(found: Sequence[Annotated]) -> Iterator[list[object]]:
    for case in found:
        square = place_square(case.box, case.size)
        numbers = [*case.bounds, *square.window.as_list(), *square.box.as_list()]
        yield [case.number, case.file, *(f"{number:.10g}" for number in numbers), case.label]


def _named(name: str) -> list[str]:
    return [f"{name}_{corner}" for corner in ("x0", "y0", "x1", "y1")]


def _write_case(case: Annotated, source: Path, out: Path) -> None:
    picture = read_picture(source)
    if picture.shape[1::-1] != case.size:
        (height, width), (wide, high) = picture.shape[:2], case.size
        raise UserError(
            f"{source} is {width} x {height} pixels, its annotation says {wide} x {high}; give --images the "
            "folder that the annotations are of"
        )
    window = place_square(case.box, case.size).window
    square = Image.fromarray(np.ascontiguousarray(window.cut(picture)))
    write_png(square.resize((COCOEE_SIZE, COCOEE_SIZE), Image.Resampling.BICUBIC), out)


def _mask(case: Annotated) -> Image.Image:
    mask: NDArray[np.uint8] = np.zeros((COCOEE_SIZE, COCOEE_SIZE), np.uint8)
    place_square(case.box, case.size).box.cut(mask)[:] = 255
    return Image.fromarray(mask)
