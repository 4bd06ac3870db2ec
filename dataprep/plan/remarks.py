"""What a plan shows of its inputs' mistakes before any picture is read, in sentences."""

import difflib

import numpy as np
import pyarrow.compute as pc

from dataprep.pictures.index import PictureIndex
from dataprep.plan.plan import BuildPlan
from dataprep.records import REASONS, RejectReason
from intarsia.words import counted

_COMPARED = 1000  # names among which the one most like a missing picture's is looked for


def plan_remarks(plan: BuildPlan, index: PictureIndex) -> tuple[str, ...]:
    """What the reader decided, and what looks like a mistake; empty for a plan without any.

    Args:
        plan: plan of the build.
        index: picture files that it was made with.
    """
    found = (*plan.annotations.remarks, missing_pictures(plan, index))
    return tuple(text for text in found if text)


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
    if not len(index.paths):
        return "--images has no picture at all"
    # Better one that no annotation is about: it may be the missing one under its real name.
    free = index.paths.filter(pc.invert(pc.is_in(index.paths, value_set=plan.files)))
    names = (free if len(free) else index.paths)[:_COMPARED].to_pylist()
    like = difflib.get_close_matches(wanted, names, n=1, cutoff=0)
    return f"--images has {(like or names)[0]!r}"
