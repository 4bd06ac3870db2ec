"""The source `boxes`: a CSV of your own boxes, with a path, four corners and maybe a class in each line."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dataprep.sources.source import SEGMENTATIONS, Source, SourceInput

if TYPE_CHECKING:
    from dataprep.records import Annotations, FilterRules


def _read(inputs: Mapping[str, Path], rules: "FilterRules", masks: bool) -> "Annotations":
    from dataprep.formats.boxes_csv import read_boxes_csv

    return read_boxes_csv(inputs["boxes"], masks)


SOURCE = Source(
    help="from a CSV of path,x0,y0,x1,y1[,label,mask,caption]",
    inputs=(
        SourceInput(
            "boxes",
            "CSV with a header; pixels, half-open; a column mask names PNGs below --segmentations",
            is_file=True,
        ),
        SourceInput(
            SEGMENTATIONS,
            "folder of object masks (PNGs), see --boxes",
            required=False,
            endings=(".png",),
            planned=False,
        ),
    ),
    unit="pixels",
    licence="those of the pictures and of the boxes; this program does not know them",
    read=_read,
    has_masks=True,
    mask_hint="name them in the column `mask` of --boxes",
)
