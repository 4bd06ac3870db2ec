"""Read the files of an inversion, and note what was said of picture and edit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sampling.canvas.canvas import check_mask
from sampling.methods.request import InversionRequest, plain_pairs
from sampling.pictures import PictureFile, open_exemplar, open_mask, open_picture
from sampling.settings import ExemplarBackground
from sampling.told import check_outline


def read_inversion(
    files: Mapping[str, Path],
    texts: Mapping[str, Any],
    seed: int,
    invert_mask: bool = False,
    exemplar_background: ExemplarBackground = "crop",
) -> tuple[PictureFile, InversionRequest, tuple[str, ...]]:
    """The picture's file, what is asked, and the changes that reading made, one sentence each.

    Args:
        files: paths of "image" and, if they are there, "mask", "exemplar", "exemplar_mask" and
            "source_exemplar".
        texts: prompts and words: fields of `InversionRequest`.
        seed: seed of the request.
        invert_mask: whether the mask's file is white where to keep.
        exemplar_background: what takes the place of the surroundings of the exemplar's object.

    Raises:
        UserError: for a file that cannot be read, or a mask that does not fit its picture.
    """
    check_outline(files)
    source = open_picture(files["image"])
    remarks, edit_mask = list(source.remarks), None
    if "mask" in files:
        mask = open_mask(files["mask"], invert_mask)
        edit_mask = check_mask(mask.edit_mask, source.pixels)
        remarks += mask.remarks
    exemplars = {}
    for name, outline in (("exemplar", files.get("exemplar_mask")), ("source_exemplar", None)):
        if name in files:
            opened = open_exemplar(files[name], exemplar_background, outline)
            exemplars[name] = opened.pixels
            remarks += opened.remarks
    request = InversionRequest(source.pixels, edit_mask, **exemplars, **texts, seed=seed)
    return source, request, tuple(remarks)


def said_of(texts: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, str]:
    """What was said of picture and edit, by the command's options, for the record of how it was made.

    Args:
        texts: prompts and words: fields of `InversionRequest`.
        files: paths as in `read_inversion`; those that a record has no place for are among the options.
    """
    given = {
        name.removesuffix("_prompt") if name != "negative_prompt" else name: texts[name] for name in texts
    }
    if "source_exemplar" in files:
        given["source_exemplar"] = files["source_exemplar"]
    return {
        name: value
        if isinstance(value, str)
        else plain_pairs(value)
        if isinstance(value, tuple)
        else str(value)
        for name, value in given.items()
        if value
    }
