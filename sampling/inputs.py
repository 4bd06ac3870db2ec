"""Read and check the files of one edit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sampling.canvas.canvas import check_mask
from sampling.pictures import Mask, Picture, PictureFile, open_exemplar, open_mask, open_picture
from sampling.settings import ExemplarBackground


@dataclass(frozen=True)
class Inputs:
    """The inputs of one edit.

    Attributes:
        source: picture, with the file's data that the result keeps.
        edit_mask: mask of the picture's size, bool [H, W], True = repaint.
        exemplar: exemplar, uint8 [h, w, 3]; None without one.
        remarks: changes that reading made, one sentence each.
    """

    source: PictureFile
    edit_mask: Mask
    exemplar: Picture | None
    remarks: tuple[str, ...]


def read_inputs(
    files: Mapping[str, Path], invert_mask: bool = False, exemplar_background: ExemplarBackground = "crop"
) -> Inputs:
    """Read the files "image", "mask" and, if it is there, "exemplar".

    Raises:
        UserError: as `open_picture`, `open_mask`, `open_exemplar` and `check_mask`.
    """
    source, mask = open_picture(files["image"]), open_mask(files["mask"], invert_mask)
    edit_mask = check_mask(mask.edit_mask, source.pixels)
    remarks = (*source.remarks, *mask.remarks)
    if "exemplar" not in files:
        return Inputs(source, edit_mask, None, remarks)
    exemplar = open_exemplar(files["exemplar"], exemplar_background)
    return Inputs(source, edit_mask, exemplar.pixels, (*remarks, *exemplar.remarks))
