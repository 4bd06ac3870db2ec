"""The accounts of a shard: what was kept and rejected, and the histograms of its samples."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dataprep.plan.plan import BuildConfig
from dataprep.records import PictureRecord, Rejected
from intarsia.sample import Sample

HISTOGRAMS = ("box_area", "box_aspect", "mask_coverage")  # their axes: figures.AXES
BINS = 100


@dataclass
class ShardTally:
    """What happened while a shard was built."""

    kept: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in ("pictures", "boxes", "draws", "masks")}
    )
    changed: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in ("pictures", "boxes")}
    )
    draws: int = 0  # of pairs, whose number follows from neither pictures nor boxes
    rejects: list[dict[str, Any]] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    hashes: dict[str, str] = field(default_factory=dict)
    box_area: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    box_aspect: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    mask_coverage: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def reject_picture(self, record: PictureRecord, rejected: Rejected, boxes: list[int]) -> None:
        """Count a picture, and with it the boxes that it still had."""
        self.rejected["pictures"][rejected.reason.value] += 1
        if boxes:
            self.rejected["boxes"][rejected.reason.value] += len(boxes)
        self._note("picture", record, rejected, {"file": record.file, "box_ids": boxes})

    def reject_box(self, record: PictureRecord, box_id: int, rejected: Rejected) -> None:
        """Count a box."""
        self.rejected["boxes"][rejected.reason.value] += 1
        self._note("box", record, rejected, {"box_id": box_id})

    def reject_draw(self, record: PictureRecord, draw: int, rejected: Rejected) -> None:
        """Count a draw."""
        self.rejected["draws"][rejected.reason.value] += 1
        self._note("draw", record, rejected, {"draw": draw})

    def count_mask(self, record: PictureRecord, draw: int, mask: np.ndarray | Rejected | None) -> None:
        """Count the object mask of a sample, if its box has one."""
        if isinstance(mask, Rejected):
            self.rejected["masks"][mask.reason.value] += 1
            self._note("mask", record, mask, {"draw": draw})
        elif mask is not None:
            self.kept["masks"] += 1

    def change(self, what: str, how: str, number: int = 1) -> None:
        """Count what was kept, but not as annotated."""
        if number:
            self.changed[what][how] += number

    def keep(self, boxes: int, samples: list[Sample]) -> None:
        """Count a picture with its boxes and samples."""
        self.kept.update(pictures=1, boxes=boxes, samples=len(samples))
        for sample in samples:
            width, height = sample.meta.image_size
            self.labels[sample.meta.label] += 1
            self.box_area[_bin(sample.meta.box.area / (width * height))] += 1
            self.box_aspect[_bin(math.log2(sample.meta.box.width / sample.meta.box.height) / 6 + 0.5)] += 1
            self.mask_coverage[_bin(mask_coverage(sample.edit_mask))] += 1

    def _note(self, what: str, record: PictureRecord, rejected: Rejected, more: dict[str, Any]) -> None:
        base = {"stage": "render", "what": what, "image_id": record.image_id, "reason": rejected.reason.value}
        detail = {"detail": rejected.detail} if rejected.detail else {}
        self.rejects.append(base | more | detail)


def mask_coverage(edit_mask: np.ndarray) -> float:
    """Share of the image that an edit mask, uint8 [H, W], covers."""
    return np.count_nonzero(edit_mask >= 128) / edit_mask.size


def _bin(share: float) -> int:
    return min(max(int(share * BINS), 0), BINS - 1)


def kept_counts(kept: Counter[str], config: BuildConfig) -> dict[str, int]:
    """The counts of what was kept, for sidecars and the manifest; a kept draw is a sample."""
    return {name: kept[name] for name in ("samples" if a == "draws" else a for a in config.accounts)}


def encode_line(record: dict[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"
