"""What a plan drops, as lines of `rejects.jsonl`, written in columns: it is half of Open Images' boxes."""

import json
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataprep.plan.plan import BuildPlan
from dataprep.plan.plan_file import text_bytes
from dataprep.records import REASONS, Dropped, RejectReason
from dataprep.shards.tally import encode_line

_CHUNK = 1 << 18  # lines that are in memory at a time


def write_plan_rejects(plan: BuildPlan, file: BinaryIO) -> None:
    """One line for each box and each picture that the plan drops, and each other file; a picture's names its
    remaining boxes.
    """
    notes = plan.annotations
    late = np.flatnonzero(plan.verdict >= 0)
    for dropped in (
        notes.dropped,
        Dropped(notes.picture[late], notes.box_ids[late], plan.verdict[late]),
    ):
        for first in range(0, len(dropped), _CHUNK):
            piece = slice(first, first + _CHUNK)
            part = Dropped(dropped.picture[piece], dropped.box_ids[piece], dropped.reason[piece])
            file.write(_box_lines(part, notes.image_ids))
    file.writelines(_picture_lines(plan))
    for path in notes.other_files:
        record = {"stage": "plan", "what": "file", "file": path, "reason": RejectReason.OTHER_FILE.value}
        file.write(encode_line(record).encode())


def _box_lines(dropped: Dropped, image_ids: list[str]) -> memoryview:
    pictures, which = np.unique(dropped.picture, return_inverse=True)
    names = [json.dumps(image_ids[p] if p >= 0 else None, ensure_ascii=False) for p in pictures.tolist()]
    reasons = pa.array([reason.value for reason in REASONS])
    lines = pc.binary_join_element_wise(
        '{"stage":"plan","what":"box","image_id":',
        pa.array(names, pa.string()).take(pa.array(which)),
        ',"box_id":',
        pa.array(dropped.box_ids).cast(pa.string()),
        ',"reason":"',
        reasons.take(pa.array(dropped.reason)),
        '"}',
        "",
    )
    return text_bytes(lines, "\n")


def _picture_lines(plan: BuildPlan) -> Iterator[bytes]:
    notes = plan.annotations
    lost = np.flatnonzero(plan.verdict < 0)
    lost = lost[plan.fate[notes.picture[lost]] >= 0]
    lost = lost[np.argsort(notes.picture[lost], kind="stable")]
    gone = np.flatnonzero(plan.fate >= 0)
    starts = np.searchsorted(notes.picture[lost], gone)
    ends = np.searchsorted(notes.picture[lost], gone, side="right")
    for picture, start, end in np.stack([gone, starts, ends], axis=1).tolist():
        record = {
            "stage": "plan",
            "what": "picture",
            "image_id": notes.image_ids[picture],
            "file": notes.files[picture],
            "reason": REASONS[plan.fate[picture]].value,
            "box_ids": notes.box_ids[lost[start:end]].tolist(),
        }
        yield encode_line(record).encode()
