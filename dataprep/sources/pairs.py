"""The source `pairs`: a CSV of pictures of one object, one to be repainted and one to show it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dataprep.sources.source import SEGMENTATIONS, Source, SourceInput

if TYPE_CHECKING:
    from dataprep.records import Annotations, FilterRules


def _read(inputs: Mapping[str, Path], rules: "FilterRules", masks: bool) -> "Annotations":
    from dataprep.formats.pairs_csv import read_pairs_csv

    return read_pairs_csv(inputs["rows"], inputs.get(SEGMENTATIONS))


SOURCE = Source(
    help="pairs of pictures of one object, from a CSV of target,mask,exemplar",
    inputs=(
        SourceInput(
            "rows",
            "CSV with a header: target, exemplar; mask or x0,y0,x1,y1; optional: exemplar_mask, label, "
            "caption, group (rows of one group show one object)",
            is_file=True,
            positional=True,
        ),
        SourceInput(
            SEGMENTATIONS,
            "folder of the masks (PNGs) that the CSV names",
            required=False,
            endings=(".png",),
            planned=False,
        ),
    ),
    unit="pixels",
    licence="those of the pictures; this program does not know them",
    read=_read,
    has_masks=True,
    pairs=True,
)
