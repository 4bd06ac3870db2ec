"""The source `voc`: an XML file for each picture, as in Pascal VOC and as labelling tools write it."""

import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from dataprep.formats.label_folder import label_files
from dataprep.sources.source import Source, SourceInput
from intarsia.errors import UserError
from intarsia.files import refuse_lfs_pointer

if TYPE_CHECKING:
    from dataprep.records import Annotations, FilterRules

_ENDING = ".xml"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = {"truncated": "is_truncated", "occluded": "is_occluded", "difficult": "is_difficult"}
_ANSWERS = {"1": 1, "true": 1, "yes": 1, "0": 0, "false": 0, "no": 0}


def read_voc(annotations: Path | str) -> "Annotations":
    """Read a folder of XML files: ANNOTATIONS/a/b.xml is about the picture a/b, or else about its `filename`.

    Corners are pixels that count from 1, the last one inside the box, and may have decimals; a box is
    (xmin - 1, ymin - 1, xmax, ymax). Parts of objects are not objects. A flag that is missing or neither yes
    nor no is unknown (-1). A box's id is its number among all boxes, in the order of the files' paths.

    Args:
        annotations: folder of the XML files, with or without sub-folders.

    Raises:
        UserError: if the folder is missing or holds no XML file, or a file is something else; with file, line
            and value.
    """
    root = Path(annotations)
    files, others = label_files(root, "--annotations", _ENDING)
    records = _Records(tuple(others))
    for path in files:
        records.add(path[: -len(_ENDING)], _parse(root / path))
    return records.annotations()


@dataclass(frozen=True)
class _Document:
    """A parsed file that knows its lines."""

    path: Path
    root: Element
    lines: dict[Element, int]

    def error(self, element: Element, what: str) -> UserError:
        """What is wrong with an element, with its line."""
        return UserError(f"{self.path}, line {self.lines[element]}: {what}")

    def text(self, parent: Element, name: str) -> str:
        """The text of a child; empty where it is missing."""
        return (parent.findtext(name) or "").strip()

    def number(self, parent: Element, name: str) -> float:
        """The number in a child."""
        child = parent.find(name)
        if child is None:
            raise self.error(parent, f"<{parent.tag}> has no <{name}>")
        try:
            return float(child.text or "")
        except ValueError:
            raise self.error(child, f"{name} is {(child.text or '').strip()!r}, not a number") from None


def _parse(path: Path) -> _Document:
    refuse_lfs_pointer(path)
    parser, builder = expat.ParserCreate(), TreeBuilder()
    lines: dict[Element, int] = {}

    def start(tag: str, attributes: dict[str, str]) -> None:
        lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

    def refuse(*_: object) -> None:
        raise UserError(
            f"{path}, line {parser.CurrentLineNumber}: it has a DOCTYPE, which could define entities without "
            "end; remove that line"
        )

    parser.StartElementHandler, parser.EndElementHandler = start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # LookupError: of an unknown encoding
        said = expat.ErrorString(error.code) if isinstance(error, expat.ExpatError) else error
        raise UserError(
            f"{path}, line {parser.CurrentLineNumber}: not valid XML ({said}); is the file whole?"
        ) from None
    root = builder.close()
    if root.tag != "annotation":
        raise UserError(f"{path} is not an annotation of Pascal VOC: it begins with <{root.tag}>")
    return _Document(path, root, lines)


@dataclass
class _Records:
    """What has been read so far."""

    other_files: tuple[str, ...]
    image_ids: list[str] = field(default_factory=list)
    file_names: list[str] = field(default_factory=list)  # as the files say
    sizes: array = field(default_factory=lambda: array("i"))
    picture: array = field(default_factory=lambda: array("i"))
    bounds: array = field(default_factory=lambda: array("d"))
    labels: list[str] = field(default_factory=list)
    flags: dict[str, array] = field(default_factory=lambda: {name: array("b") for name in _FLAGS.values()})

    def add(self, image_id: str, document: _Document) -> None:
        """Take in a picture and its objects."""
        size = document.root.find("size")
        sides = (0, 0) if size is None else (document.number(size, name) for name in ("width", "height"))
        self.sizes.extend(int(side) if 0 < side < 1 << 31 else 0 for side in sides)
        for item in document.root.findall("object"):
            label, box = document.text(item, "name"), item.find("bndbox")
            if not label or box is None:
                raise document.error(item, f"<object> has no <{'bndbox' if label else 'name'}>")
            x0, y0, x1, y1 = (document.number(box, name) for name in _CORNERS)
            self.bounds.extend((x0 - 1, y0 - 1, x1, y1))
            self.labels.append(label)
            self.picture.append(len(self.image_ids))
            for theirs, ours in _FLAGS.items():
                self.flags[ours].append(_ANSWERS.get(document.text(item, theirs).lower(), -1))
        self.image_ids.append(image_id)
        self.file_names.append(re.sub(r"^.*[/\\]", "", document.text(document.root, "filename")))

    def annotations(self) -> "Annotations":
        """Everything in columns."""
        import numpy as np

        from dataprep.records import Annotations

        labels, label = np.unique(np.array(self.labels, object), return_inverse=True)
        number = len(self.image_ids)
        bare = [name.rpartition(".")[0] or name for name in self.file_names]
        return Annotations(
            unit=SOURCE.unit,
            image_ids=self.image_ids,
            files=[""] * number,
            sizes=np.array(self.sizes, np.int32).reshape(-1, 2),
            picture=np.array(self.picture, np.int32),
            box_ids=np.arange(1, 1 + len(label)),
            bounds=np.array(self.bounds, np.float64).reshape(-1, 4),
            label=label.astype(np.int32),
            labels=labels.tolist(),
            flags={name: np.array(values, np.int8) for name, values in self.flags.items()},
            other_names=(self.file_names, bare),
            label_files=number,
            other_files=self.other_files,
        )


def _read(inputs: Mapping[str, Path], rules: "FilterRules", masks: bool) -> "Annotations":
    return read_voc(inputs["annotations"])


SOURCE = Source(
    help="from Pascal VOC XML files, one for each picture",
    inputs=(SourceInput("annotations", "folder of the XML files, a/b.xml for the picture a/b.jpg"),),
    unit="pixels",
    licence="those of the pictures and of the annotations; this program does not know them",
    read=_read,
    all_pictures=True,
)
