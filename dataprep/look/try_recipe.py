"""One picture drawn many times by a recipe, so that the recipe can be looked at before anything is built."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataprep.draw.exemplar import object_bounds
from dataprep.draw.objects import judge_object
from dataprep.draw.pipeline import check_pipeline
from dataprep.draw.recipe import Recipe
from dataprep.draw.render import Subject, draw_sample
from dataprep.formats.object_masks import object_mask
from dataprep.pictures.decode import load_picture
from dataprep.records import Rejected
from intarsia.boxes import Box
from intarsia.errors import UsageError, UserError
from intarsia.sample import LabelledBox, Sample


@dataclass(frozen=True)
class RecipeTrial:
    """What a recipe is tried on.

    Attributes:
        image: picture file.
        box: (x0, y0, x1, y1) in pixels of the upright picture, half-open; the object's bounds if None.
        object_mask: PNG of the object's mask, not 0 = object; None if there is none.
        image_size: side of the crops, pixels.
        seed: seed of the draws.
    """

    image: Path
    box: tuple[int, int, int, int] | None
    object_mask: Path | None
    image_size: int = 512
    seed: int = 0


def draw_often(recipe: Recipe, trial: RecipeTrial, number: int) -> list[Sample]:
    """`number` samples of one box, as a build with this recipe would draw them.

    Raises:
        UsageError: for a box outside the picture, or a recipe whose augmentation cannot be used.
        UserError: for files that cannot be read, or a box that the recipe does not take.
    """
    check_pipeline(recipe)
    picture = load_picture(trial.image)
    if isinstance(picture, Rejected):
        raise UserError(f"--image {trial.image}: {_why(picture)}")
    mask = None if trial.object_mask is None else _read_mask(trial.object_mask, picture.size)
    box = _box(trial, mask, picture.size)
    if recipe.needs_object and (refused := judge_object(mask, box, recipe)):
        hint = "; give --object-mask PNG" if mask is None else ""
        raise UserError(f"recipe {recipe.name} does not take this box ({_why(refused)}){hint}")
    subject = Subject(
        source="boxes",
        image_id=trial.image.stem,
        key=trial.image.stem,
        file=trial.image.name,
        picture=picture,
        boxes=(LabelledBox(box, recipe.name),),
        masks=lambda place: mask,
        recipe=recipe,
    )
    drawn = [draw_sample(subject, trial.image_size, trial.seed, draw) for draw in range(number)]
    samples = [sample for sample in drawn if isinstance(sample, Sample)]
    if not samples:
        raise UserError(f"the box {box.as_list()} is so small that no draw leaves a pixel to repaint")
    return samples


def _read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    mask = object_mask(path.name, path.parent, size)
    if not isinstance(mask, np.ndarray):
        raise UserError(f"--object-mask {path}: {_why(mask)}")
    return mask


def _box(trial: RecipeTrial, mask: np.ndarray | None, size: tuple[int, int]) -> Box:
    if trial.box is not None:
        box = Box(*trial.box)
        if not box.area or not Box(0, 0, *size).contains(box):
            raise UsageError(
                f"--box {','.join(map(str, trial.box))} is not a box inside a picture of {size[0]}x{size[1]}"
            )
        return box
    bounds = None if mask is None else object_bounds(mask)
    if bounds is None:
        raise UsageError("--recipe needs --box x0,y0,x1,y1, or an --object-mask whose bounds are the box")
    return bounds


def _why(rejected: Rejected | None) -> str:
    if rejected is None:
        return "no mask"
    return f"{rejected.reason.value}{f', {rejected.detail}' if rejected.detail else ''}"
