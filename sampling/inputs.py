"""Read and check the files of one edit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from intarsia.conditions.structure import MapSource
from sampling.canvas.canvas import check_mask
from sampling.jobs import COMPUTED_OF
from sampling.pictures import Mask, Picture, PictureFile, open_exemplar, open_mask, open_picture
from sampling.settings import ExemplarBackground
from sampling.told import check_outline


@dataclass(frozen=True)
class Inputs:
    """The inputs of one edit.

    Attributes:
        source: picture, with the file's data that the result keeps.
        edit_mask: mask of the picture's size, bool [H, W], True = repaint.
        exemplar: exemplar, uint8 [h, w, 3]; None without one.
        remarks: changes that reading made, one sentence each.
        structure: sources of structure maps (`EditRequest.structure`).
    """

    source: PictureFile
    edit_mask: Mask
    exemplar: Picture | None
    remarks: tuple[str, ...]
    structure: Mapping[str, MapSource] = field(default_factory=dict)


def read_inputs(
    files: Mapping[str, Path],
    invert_mask: bool = False,
    exemplar_background: ExemplarBackground = "crop",
    structure: Mapping[str, Path] | None = None,
) -> Inputs:
    """Read the files "image" and "mask", and if they are there, "exemplar", "exemplar_mask" and maps.

    Args:
        files: paths by name.
        invert_mask: whether the mask's file is white where to keep.
        exemplar_background: what takes the place of the surroundings of the exemplar's object.
        structure: sources of structure maps (`jobs.structure_sources`).

    Raises:
        UserError: as `open_picture`, `open_mask`, `open_exemplar`, `check_mask` and `check_outline`.
    """
    check_outline(files)
    source, mask = open_picture(files["image"]), open_mask(files["mask"], invert_mask)
    edit_mask = check_mask(mask.edit_mask, source.pixels)
    remarks = (*source.remarks, *mask.remarks)
    exemplar = None
    if "exemplar" in files:
        opened = open_exemplar(files["exemplar"], exemplar_background, files.get("exemplar_mask"))
        exemplar, remarks = opened.pixels, (*remarks, *opened.remarks)
    maps: dict[str, MapSource] = {}
    for name, path in (structure or {}).items():
        if path.name in COMPUTED_OF and path == Path(path.name):
            maps[name] = cast(MapSource, path.name)
        else:
            found = open_picture(path)
            maps[name], remarks = found.pixels, (*remarks, *found.remarks)
    return Inputs(source, edit_mask, exemplar, remarks, maps)
