"""The source `yolo`: a text file of labels for each picture, as YOLO trainers and their tools write them."""

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dataprep.formats.label_folder import label_files
from dataprep.sources.source import Source, SourceInput
from intarsia.errors import UsageError, UserError
from intarsia.files import refuse_lfs_pointer

if TYPE_CHECKING:
    from dataprep.records import Annotations, FilterRules

_ENDING = ".txt"
CLASSES_FILE = "classes.txt"  # that labelling tools put among the labels
_MOST_CLASSES = 1 << 31
_LIMITS = (-0.5, 1.5)  # of a fraction: boxes may reach out of the picture, pixels are a mistake
_FORMS = "a line is `class cx cy w h`, or a class and the x and y of a polygon's points"


@dataclass(frozen=True)
class YoloNames:
    """What the numbers of classes mean.

    Attributes:
        names: class names in the order of their numbers; None where a number is its own name.
        keypoints: numbers that follow a box in the labels of poses.
        file: file that they are from.
    """

    names: list[str] | None = None
    keypoints: int = 0
    file: Path | None = None


def read_yolo(labels: Path | str, names: YoloNames) -> "Annotations":
    """Read a folder of labels: LABELS/a/b.txt is about the picture a/b.

    A line is a class and a box (centre, width and height), or a class and the points of a polygon, whose
    bounds count; all in fractions of the picture. A sixth number (a confidence, the number of a track) is
    passed over, and so are blank lines. An empty file is a picture without boxes. A box's id is its number
    among all boxes, in the order of the files' paths.

    Args:
        labels: folder of the text files, with or without sub-folders.
        names: names of the classes.

    Raises:
        UserError: if the folder is missing or holds no label file, or a line is something else; with file,
            line and value.
    """
    root = Path(labels)
    files, others = label_files(root, "--labels", _ENDING, (CLASSES_FILE,))
    records = _Records(names, tuple(path for path in others if root / path != names.file))
    for path in files:
        records.add(path[: -len(_ENDING)], root / path)
    return records.annotations()


@dataclass
class _Records:
    """What has been read so far."""

    names: YoloNames
    other_files: tuple[str, ...]
    image_ids: list[str] = field(default_factory=list)
    picture: array = field(default_factory=lambda: array("i"))
    bounds: array = field(default_factory=lambda: array("d"))
    classes: array = field(default_factory=lambda: array("q"))

    def add(self, image_id: str, path: Path) -> None:
        """Take in the boxes of a picture."""
        for number, line in enumerate(_lines(path), 1):
            if line.strip():
                try:
                    code, bounds = self._box(line.split())
                except ValueError as error:
                    raise UserError(f"{path}, line {number}: {error}") from None
                self.picture.append(len(self.image_ids))
                self.bounds.extend(bounds)
                self.classes.append(code)
        self.image_ids.append(image_id)

    def _box(self, words: list[str]) -> tuple[int, tuple[float, float, float, float]]:
        """Class and corners of one line; ValueError, which says what is wrong, for anything else."""
        values = [_number(word) for word in words]
        if self.names.keypoints and len(values) == 5 + self.names.keypoints:
            values = values[:5]
        if len(values) < 5 or (len(values) > 6 and len(values) % 2 == 0):
            raise ValueError(f"it holds {len(values)} numbers, but {_FORMS}")
        points = values[1:5] if len(values) <= 6 else values[1:]
        for value in points:
            if math.isfinite(value) and not _LIMITS[0] <= value <= _LIMITS[1]:
                raise ValueError(f"{value:g} is not a fraction of the picture; divide pixels by its size")
        if len(values) > 6:
            xs, ys = points[::2], points[1::2]
            return self._class(words[0]), (min(xs), min(ys), max(xs), max(ys))
        x, y, width, height = points
        return self._class(words[0]), (x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    def _class(self, word: str) -> int:
        code, names = float(word), self.names.names
        if not code.is_integer() or not 0 <= code < _MOST_CLASSES:
            raise ValueError(f"the class {word!r} is not a whole number from 0 on")
        if names is not None and code >= len(names):
            raise ValueError(f"the class {word} has no name; the names are those of 0 to {len(names) - 1}")
        return int(code)

    def annotations(self) -> "Annotations":
        """Everything in columns."""
        import numpy as np

        from dataprep.records import Annotations

        classes = np.array(self.classes, np.int64)
        labels = self.names.names
        if labels is None:  # a number is its own name
            seen, classes = np.unique(classes, return_inverse=True)
            labels = [str(number) for number in seen.tolist()]
        number = len(self.image_ids)
        return Annotations(
            unit=SOURCE.unit,
            image_ids=self.image_ids,
            files=[""] * number,
            sizes=np.zeros((number, 2), np.int32),
            picture=np.array(self.picture, np.int32),
            box_ids=np.arange(1, 1 + len(classes)),
            bounds=np.array(self.bounds, np.float64).reshape(-1, 4),
            label=classes.astype(np.int32),
            labels=labels,
            flags={},
            label_files=number,
            other_files=self.other_files,
        )


def _lines(path: Path) -> list[str]:
    refuse_lfs_pointer(path)
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8; save it in that encoding") from None


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{word[:40]!r} is not a number; {_FORMS}") from None


def read_yolo_names(inputs: Mapping[str, Path]) -> YoloNames:
    """The class names of --names, of --data, or of a classes.txt among the labels; without any, numbers.

    Raises:
        UsageError: if both options are given.
        UserError: if a file is missing or holds something else.
    """
    if "names" in inputs and "data" in inputs:
        raise UsageError("--names and --data both name the classes; give one of them")
    if "data" in inputs:
        return _read_data(inputs["data"])
    path = inputs.get("names", inputs["labels"] / CLASSES_FILE)
    if "names" not in inputs and not path.is_file():
        return YoloNames()
    if path.suffix.lower() in (".yaml", ".yml"):
        raise UsageError(f"--names {path} is YAML; give it as --data")
    names = [line.strip() for line in "\n".join(_lines(path)).rstrip().split("\n")]
    if not all(names):
        line = names.index("") + 1
        raise UserError(f"{path}, line {line}: it is blank; each line names one class, from number 0 on")
    return YoloNames(names, file=path)


def _read_data(path: Path) -> YoloNames:
    """Names, a list or by number, and keypoints of a data.yaml; its folders are not looked at."""
    import yaml

    try:  # as text: to YAML a class called `no` is false
        content = yaml.load("\n".join(_lines(path)), yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        by_number = {key: name for key, name in names.items() if key.isdecimal()}
        names = [by_number.get(str(number)) for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{path}: `names` must be a list of class names, or give one for each number from 0 on"
        )
    shape = content.get("kpt_shape") or ["0"]
    if not isinstance(shape, list) or not all(isinstance(size, str) and size.isdecimal() for size in shape):
        raise UserError(f"{path}: `kpt_shape` must be two whole numbers, such as [17, 3]")
    return YoloNames(names, math.prod(int(size) for size in shape), path)


def _read(inputs: Mapping[str, Path], rules: "FilterRules", masks: bool) -> "Annotations":
    return read_yolo(inputs["labels"], read_yolo_names(inputs))


SOURCE = Source(
    help="from YOLO label files, one text file for each picture",
    inputs=(
        SourceInput("labels", "folder of the label files, LABELS/a/b.txt for the picture a/b.jpg"),
        SourceInput("names", "text file with a class name in each line, from class 0 on", required=False),
        SourceInput("data", "data.yaml with the class names, instead of --names", required=False),
    ),
    unit="fractions",
    licence="those of the pictures and of the labels; this program does not know them",
    read=_read,
    all_pictures=True,
)
