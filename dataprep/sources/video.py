"""The source `video`: masks of objects in the frames of videos, of which two frames make a pair."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dataprep.sources.source import Source, SourceInput
from intarsia.errors import UserError

if TYPE_CHECKING:
    from dataprep.records import Annotations, FilterRules


def _read(inputs: Mapping[str, Path], rules: "FilterRules", masks: bool) -> "Annotations":
    from dataprep.formats.davis import find_davis, read_davis
    from dataprep.formats.sav import find_sav, read_sav

    root = inputs["videos"]
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder of the videos and their masks")
    davis, sav = find_davis(root), find_sav(root)
    if davis and sav:
        raise UserError(
            f"{root} holds masks of two layouts, {davis[0]} and {sav[0]}; give a folder with one of them"
        )
    if not davis and not sav:
        raise UserError(
            f"{root} holds no masks: neither Annotations/SEQUENCE/FRAME.png beside JPEGImages/ (DAVIS, "
            "YouTube-VOS, MOSE, LVOS) nor VIDEO_manual.json or VIDEO_auto.json (SA-V)"
        )
    return read_davis(root, davis) if davis else read_sav(root, sav)


SOURCE = Source(
    help="pairs of frames of one object: DAVIS, YouTube-VOS, MOSE, LVOS, SA-V",
    inputs=(
        SourceInput(
            "videos",
            "folder of videos with masks: JPEGImages/ and Annotations/ (DAVIS' layout), or VIDEO.mp4 with "
            "VIDEO_manual.json or VIDEO_auto.json (SA-V's)",
            endings=(".png", ".json"),
            positional=True,
        ),
    ),
    unit="pixels",
    licence="DAVIS and YouTube-VOS: research only; MOSE and MOSEv2: CC BY-NC-SA and CC BY-SA; SA-V: CC BY "
    "4.0; others: this program does not know them",
    read=_read,
    has_masks=True,
    pictures_from="videos",
    masks_from="videos",
    pairs=True,
    of_videos=True,
)
