"""The source `openimages`: Open Images' box CSVs, their class names and hierarchy, and their object masks."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dataprep.sources.source import SEGMENTATIONS, Source, SourceInput

if TYPE_CHECKING:
    from dataprep.records import Annotations, FilterRules


def _read(inputs: Mapping[str, Path], rules: "FilterRules", masks: bool) -> "Annotations":
    from dataprep.formats.captions import read_narratives, with_captions
    from dataprep.formats.object_masks import read_open_images_masks
    from dataprep.formats.openimages_csv import read_open_images

    notes = read_open_images(inputs["boxes"], inputs["classes"], rules)
    if "narratives" in inputs:
        notes = with_captions(notes, read_narratives(inputs["narratives"]), inputs["narratives"])
    if not masks:
        return notes
    outlines = read_open_images_masks(inputs[SEGMENTATIONS], notes, inputs["classes"])
    return replace(notes, segmentation=outlines)


def _families(inputs: Mapping[str, Path]) -> dict[str, frozenset[str]]:
    from dataprep.choose.filters import read_hierarchy
    from dataprep.formats.openimages_csv import read_class_names

    codes = read_class_names(inputs["classes"])
    families = {name: frozenset((name,)) for name in codes.values()}
    return families | (read_hierarchy(inputs["hierarchy"], codes) if "hierarchy" in inputs else {})


SOURCE = Source(
    help="from an Open Images box CSV",
    inputs=(
        SourceInput("boxes", "*-annotations-bbox.csv", is_file=True),
        SourceInput("classes", "class-descriptions-boxable.csv", is_file=True),
        SourceInput("hierarchy", "bbox_labels_600_hierarchy.json, for class names", required=False),
        SourceInput(
            "narratives",
            "Localized Narratives, a .jsonl or a folder of them, for text-conditioned training",
            required=False,
            endings=(".jsonl",),
        ),
        SourceInput(
            SEGMENTATIONS,
            "folder of object masks (PNGs) with their CSV of MaskPath, ImageID, …",
            required=False,
            endings=(".png", ".csv"),
            planned=False,
        ),
    ),
    unit="fractions",
    licence="annotations CC BY 4.0 (Google LLC); the pictures are listed as CC BY 2.0",
    read=_read,
    has_masks=True,
    mask_hint="their CSV",
    families=_families,
)
