"""The extended box and the edit mask of one sample, as its recipe says."""

import numpy as np

from dataprep.draw.recipe import Extension, Recipe
from dataprep.masks.mask_kind import MaskScene
from intarsia.boxes import Box, extend_box, pad_box
from intarsia.errors import UserError
from intarsia.masks import EditMask


def draw_extended(
    how: Extension, box: Box, size: tuple[int, int], rng: np.random.Generator, within: Box | None = None
) -> Box:
    """`box` made larger: by a factor, by a margin, and at random by a share of the room that is left.

    Args:
        how: numbers of the recipe.
        box: box inside the picture.
        size: (width, height) of the picture.
        rng: generator of the sample.
        within: box round `box` that limits the result; the picture if None.
    """
    extended = larger_box(how, box, size)
    if within is not None:
        extended = Box(
            max(extended.x0, within.x0),
            max(extended.y0, within.y0),
            min(extended.x1, within.x1),
            min(extended.y1, within.y1),
        )
    return extend_box(extended, size, rng, within, how.room) if how.room else extended


def larger_box(how: Extension, box: Box, size: tuple[int, int]) -> Box:
    """`box` made larger by the recipe's factor and margin, inside a picture of `size`; nothing is random."""
    if how.grow != 1:
        across, down = how.grow * box.width / 2, how.grow * box.height / 2
        x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        box = Box(int(max(x - across, 0)), int(max(y - down, 0)), int(x + across), int(y + down)).clipped(
            size
        )
    return pad_box(box, how.margin, size) if how.margin else box


def largest_extended(how: Extension, box: Box, size: tuple[int, int]) -> Box:
    """The largest extended box that can be drawn for `box`."""
    box, (width, height) = larger_box(how, box, size), size
    return Box(
        box.x0 - int(how.room * box.x0),
        box.y0 - int(how.room * box.y0),
        box.x1 + int(how.room * (width - box.x1)),
        box.y1 + int(how.room * (height - box.y1)),
    )


def draw_edit_mask(recipe: Recipe, scene: MaskScene, rng: np.random.Generator) -> EditMask:
    """Choose a kind of mask by the recipe's shares, and draw one.

    Raises:
        UserError: if the kind needs the object's own mask, which is not known.
    """
    chance, total = rng.random(), 0.0
    chosen = recipe.masks[-1]
    for kind in recipe.masks:
        total += kind.share
        if chance < total:
            chosen = kind
            break
    if chosen.needs_object and scene.object_mask is None:
        raise UserError(
            f"recipe {recipe.name}: a mask of kind {chosen.kind} needs the object's own mask, and the box "
            f"{scene.box.as_list()} has none"
        )
    return chosen.draw(scene, rng)
