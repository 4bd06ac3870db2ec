"""`Source`: what one kind of annotations says about itself, and the table of all of them.

The module of a source loads nothing heavy when it is imported, since `--help` asks for its options.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from intarsia.files import sha256_bytes

if TYPE_CHECKING:
    from dataprep.records import Annotations, BoxUnit, FilterRules

# Sources by name: the module with each one's SOURCE.
SOURCES = {
    "coco": "dataprep.sources.coco",
    "openimages": "dataprep.sources.openimages",
    "boxes": "dataprep.sources.boxes",
    "yolo": "dataprep.sources.yolo",
    "voc": "dataprep.sources.voc",
    "pairs": "dataprep.sources.pairs",
    "video": "dataprep.sources.video",
}
SEGMENTATIONS = "segmentations"  # role of the folder of object masks, of whichever source
_SAFE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class SourceInput:
    """A file or folder that a source is read from: the option --ROLE of its command.

    Attributes:
        role: option name without its dashes, e.g. "annotations".
        help: line of the option in `--help`.
        required: whether the command needs it.
        endings: ends of the names of the files that count in a folder, in lower case; empty for all files.
        is_file: whether it is always a file, and never a folder.
        positional: whether it is given without the option's name.
        planned: whether all that the files say goes into the plan. A change then gives another plan, and is
            found by that; what is only read while shards are built is refused when its files change.
    """

    role: str
    help: str
    required: bool = True
    endings: tuple[str, ...] = ()
    is_file: bool = False
    positional: bool = False
    planned: bool = True


class SourceReader(Protocol):
    """The function that reads the annotations of a source."""

    def __call__(self, inputs: Mapping[str, Path], rules: "FilterRules", masks: bool) -> "Annotations":
        """Read everything but pixels.

        Args:
            inputs: files and folders by role, those of the command line.
            rules: rules that may be applied on the way (`Annotations.judged`), or left to the plan.
            masks: whether object masks are used.

        Raises:
            UserError: for a fault in a file, with file, line and value.
        """


def _stand_for_themselves(inputs: Mapping[str, Path]) -> Mapping[str, Collection[str]]:
    return {}


@dataclass(frozen=True)
class Source:
    """A kind of annotations: COCO, Open Images, …

    Attributes:
        help: line of its command in `--help`.
        inputs: files and folders that it is read from.
        unit: unit of the boxes.
        licence: sentence of the data set card on the licences of annotations and pictures.
        read: reader of the annotations.
        key: image id -> what a sample key begins with, before letters that a key may not have are replaced.
        has_masks: whether the annotations know object masks.
        mask_hint: what else to give beside --segmentations, if masks come from there.
        all_pictures: whether every picture of the folder is one of the data set, so that one without any
            annotations is counted.
        pictures_from: role of the folder that holds the pictures, too; if empty, --images names it.
        masks_from: role of the folder of the files that hold object masks.
        pairs: whether its boxes are views of objects, of which two make a sample (`records.View`).
        of_videos: whether these are frames of videos.
        families: inputs -> class name -> names of the classes that it stands for, for the names that are
            known beside the boxes.
    """

    help: str
    inputs: tuple[SourceInput, ...]
    unit: "BoxUnit"
    licence: str
    read: SourceReader
    key: Callable[[str], str] = str
    has_masks: bool = False
    mask_hint: str = ""
    all_pictures: bool = False
    pictures_from: str = ""
    masks_from: str = SEGMENTATIONS
    pairs: bool = False
    of_videos: bool = False
    families: Callable[[Mapping[str, Path]], Mapping[str, Collection[str]]] = _stand_for_themselves

    def sample_key(self, image_id: str) -> str:
        """A picture's name in sample keys: letters, digits, - and _ only, at most 64 of them."""
        key = self.key(image_id)
        if _SAFE.fullmatch(key):
            return key
        return re.sub(r"[^A-Za-z0-9_-]", "-", key)[:48] + "-" + sha256_bytes(image_id.encode())[:12]


def source_of(name: str) -> Source:
    """The source called `name` in SOURCES."""
    return cast(Source, import_module(SOURCES[name]).SOURCE)
