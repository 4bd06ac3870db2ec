"""The picture that the exemplar of a pair was cut out of: as stored in the shard, or from the pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataprep.pictures.decode import load_picture
from dataprep.pictures.stores import open_store
from dataprep.pictures.video import is_video, load_frames
from dataprep.plan.plan_file import PLAN_FILE, read_plan_header
from dataprep.records import Rejected
from intarsia.errors import UserError
from intarsia.sample import Sample, decode_view


def origins_of(folder: Path, samples: Sequence[Sample]) -> list[np.ndarray | None]:
    """For each sample the exemplar's own picture, uint8 [H, W, 3] RGB.

    None for a sample that is not a pair, and where the picture is in no shard and is no longer where it was
    when the folder was planned.

    Args:
        folder: shard folder of the samples.
        samples: samples that were read from it.
    """
    return [_origin(folder, sample) for sample in samples]


def _origin(folder: Path, sample: Sample) -> np.ndarray | None:
    origin = sample.meta.exemplar_from
    if origin is None:
        return None
    for place, view in enumerate(sample.meta.views):
        if (view.file, view.frame) == (origin.file, origin.frame):
            return decode_view(sample, place)[0]
    try:
        images = read_plan_header(folder / PLAN_FILE)["inputs"]["images"]["path"]
        file = open_store(images, str(folder)).place(origin.file)
    except (UserError, KeyError):
        return None
    if not is_video(origin.file):
        found = load_picture(file)
        return None if isinstance(found, Rejected) else found.pixels
    frames = load_frames(file, [origin.frame or 0])
    if isinstance(frames, Rejected) or (origin.frame or 0) not in frames:
        return None
    return frames[origin.frame or 0].pixels
