"""`MaskKind`: one kind of edit mask with its numbers, and the table of all kinds.

The module of a kind loads nothing heavy when it is imported, since options and configs are checked with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from intarsia.config import Config, build_config
from intarsia.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from intarsia.boxes import Box
    from intarsia.masks import EditMask

# Kinds by name: the module with each one's MASK.
MASKS = {
    "bezier": "dataprep.masks.bezier",
    "box": "dataprep.masks.rectangle",
    "dilated": "dataprep.masks.dilated",
    "perturbed": "dataprep.masks.perturbed",
    "brush": "dataprep.masks.brush",
    "whole": "dataprep.masks.whole",
}


@dataclass(frozen=True)
class MaskScene:
    """What an edit mask is drawn round.

    Attributes:
        box: annotated box, inside the picture, at least one pixel.
        extended: extended box.
        size: (width, height) of the picture.
        window: () -> part of the picture that the crop shows; the first call draws it.
        object_mask: uint8 [H, W], 255 = object; None if it is not known.
    """

    box: "Box"
    extended: "Box"
    size: tuple[int, int]
    window: "Callable[[], Box]"
    object_mask: "np.ndarray | None" = None


class MaskKind(Config):
    """One kind of edit mask and how often it is drawn. Each kind adds its numbers, and says:

    Attributes:
        needs_object: whether it is drawn from the object's own mask.
        covers_object: whether it covers every pixel of that mask.
        largest_hole: largest share of the annotated box that it may leave uncovered.
    """

    needs_object: ClassVar[bool] = False
    covers_object: ClassVar[bool] = False
    largest_hole: ClassVar[float] = 1.0
    kind: str  # name in MASKS
    share: float = Field(gt=0, le=1)  # of the samples

    @property
    def reach(self) -> int | None:
        """How far beyond the extended box it may go, pixels; None without a limit."""
        return 0

    def draw(self, scene: MaskScene, rng: "np.random.Generator") -> "EditMask":
        """Draw one edit mask in the picture's geometry."""
        raise NotImplementedError


def read_mask_kind(value: Any) -> Any:
    """The kind that `value` names in MASKS, with its numbers checked; what is one already stays.

    Raises:
        UsageError: for an unknown kind or number; the message lists the valid ones.
    """
    if not isinstance(value, dict):
        return value
    name = value.get("kind")
    if name not in MASKS:
        raise UsageError(f"masks: kind={name!r} is not one of {', '.join(MASKS)}")
    schema: type[MaskKind] = import_module(MASKS[name]).MASK
    return build_config(schema, value, where=f"masks, kind {name}")
