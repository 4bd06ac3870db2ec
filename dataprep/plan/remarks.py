"""What a plan, and then a finished folder, shows of its inputs' mistakes, in sentences."""

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from dataprep.pictures.fit import LEFT_AS_STORED
from dataprep.pictures.index import PictureIndex
from dataprep.plan.mistakes import WARNED_SHARE, box_remarks
from dataprep.plan.plan import BuildPlan
from dataprep.records import CLIPPED, REASONS, RejectReason
from intarsia.words import counted

_COMPARED = 1000  # names among which the one most like a missing picture's is looked for


def plan_remarks(plan: BuildPlan, index: PictureIndex) -> tuple[str, ...]:
    """What the reader decided, and what looks like a mistake; empty for a plan without any.

    Args:
        plan: plan of the build.
        index: picture files that it was made with.
    """
    found = (
        *plan.annotations.remarks,
        missing_pictures(plan, index),
        *box_remarks(plan.annotations, plan.config),
    )
    return tuple(text for text in found if text)


def build_remarks(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """What a finished folder shows of its inputs' mistakes, from the manifest; empty if there is nothing."""
    kept, rejected = manifest["kept"], manifest["rejected"]["pictures"]
    pictures, boxes = (manifest.get("changed", {}).get(what, {}) for what in ("pictures", "boxes"))
    found = []
    if number := pictures.get(LEFT_AS_STORED):
        found.append(
            f"{counted(number, 'picture')} with an EXIF rotation {'has' if number == 1 else 'have'} the "
            "annotated size only without it, and stayed as stored; look at them with `show`, and build with "
            "--orientation upright if their boxes miss the objects"
        )
    if (number := boxes.get(CLIPPED, 0)) > WARNED_SHARE * kept["boxes"]:
        found.append(
            f"{number:,} of {counted(kept['boxes'], 'kept box', 'kept boxes')} extended beyond the pictures, "
            "and the parts outside were cut off; look at the boxes with `show`"
        )
    number = rejected.get(RejectReason.SIZE_MISMATCH, 0)
    if number > WARNED_SHARE * (kept["pictures"] + number):
        found.append(
            f"{counted(number, 'picture')} {'does' if number == 1 else 'do'} not have the annotated size; if "
            "they were resized after annotation, build with --scale-boxes"
        )
    return tuple(found)


def missing_pictures(plan: BuildPlan, index: PictureIndex) -> str:
    """How many pictures are missing, the name of one, and a name that is there; empty if none is missing."""
    missing = np.flatnonzero(plan.fate == REASONS.index(RejectReason.FILE_MISSING))
    if not len(missing):
        return ""
    place = int(missing[0])
    wanted = plan.annotations.files[place] or plan.annotations.image_ids[place]
    are = f"{counted(len(plan.fate), 'picture')} {'is' if len(missing) == 1 else 'are'}"
    return f"{len(missing):,} of {are} missing, such as {wanted!r}; {_what_is_there(plan, index, wanted)}"


def _what_is_there(plan: BuildPlan, index: PictureIndex, wanted: str) -> str:
    if not len(index.paths) and len(index.others):
        return f"--images has no picture by its name, but {index.others[0].as_py()!r}"
    if not len(index.paths):
        return "--images has no picture at all"
    # Better one that no annotation is about: it may be the missing one under its real name.
    free = index.paths.filter(pc.invert(pc.is_in(index.paths, value_set=plan.files)))
    names = (free if len(free) else index.paths)[:_COMPARED].to_pylist()
    like = difflib.get_close_matches(wanted, names, n=1, cutoff=0)
    return f"--images has {(like or names)[0]!r}"
