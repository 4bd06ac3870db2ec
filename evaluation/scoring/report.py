"""What an evaluation found: numbers of cases and of sets, each with its recipe; one shape for every bench.

A report is `report.json`; tables, pages and comparisons are made of it alone.
"""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evaluation.measures.metrics import Mask
from evaluation.measures.weights import UNLISTED
from evaluation.scoring.confidence import Interval, bootstrap_mean, jackknife
from intarsia.errors import UserError
from intarsia.files import read_json, write_json

REPORT_VERSION = 1
FILE = "report.json"


@dataclass(frozen=True)
class ReportColumn:
    """A number that a bench reports.

    Attributes:
        name: name in files.
        title: name in tables, with its scale.
        better: direction of better values.
        recipe: everything that decides the number; weights' fingerprints are after an @.
        digits: digits after the point in tables.
    """

    name: str
    title: str
    better: Literal["up", "down"]
    recipe: str
    digits: int = 2

    @property
    def heading(self) -> str:
        """The title with an arrow towards what is better."""
        return f"{self.title} {'↑' if self.better == 'up' else '↓'}"

    @property
    def method(self) -> str:
        """The recipe without fingerprints of weights and reference sets, which publications do not name."""
        return re.sub(r"[@#]~?\w+", "", self.recipe)

    @property
    def unlisted(self) -> bool:
        """Whether weights in the recipe are not on the list of published files."""
        return f"@{UNLISTED}" in self.recipe


@dataclass(frozen=True)
class SetFigure:
    """A number of the whole set, such as a Fréchet distance.

    Attributes:
        column: name and recipe.
        value: value of all cases.
        replicates: values without one group of cases each (groups: `confidence.group_of`); empty if they were
            not computed.
        deviation: standard deviation over random subsets, for a number that is their average; else None.
        weak: whether there are too few cases for it, such as fewer than its features have dimensions.
    """

    column: ReportColumn
    value: float
    replicates: tuple[float, ...] = ()
    deviation: float | None = None
    weak: bool = False


@dataclass(frozen=True)
class Report:
    """Everything about one folder of results.

    Attributes:
        bench: name of the bench.
        name: name of the method that made the results.
        expected: number of cases that the bench has.
        columns: columns of the cases' numbers.
        rows: case -> column -> value; NaN for a region without pixels.
        figures: numbers of the whole set.
        groups: case -> category; empty for benches without.
        files: case -> "image", "mask", "exemplar", "result" ... -> path, for pages with pictures.
        captions: case -> description of the edit, for benches with prompts.
        remarks: notes for the reader, one sentence each.
        settings: settings that made the results, if known.
        weights_checked: whether recipes mark weights that are not on the list of published files; False for
            files of earlier versions.
        inputs: case -> "image", "mask", "exemplar", "prompts" ... -> digest of what the case is made of, all
            but its result; None for files of earlier versions, which did not note it.
        masks: case -> edit mask that is not a file, by `pack_mask`, for pages.
    """

    bench: str
    name: str
    expected: int
    columns: Sequence[ReportColumn]
    rows: Mapping[str, Mapping[str, float]]
    figures: Sequence[SetFigure] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights_checked: bool = True
    inputs: Mapping[str, Mapping[str, str]] | None = field(default_factory=dict)
    masks: Mapping[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether all cases have results."""
        return len(self.rows) == self.expected

    def values(self, column: str) -> dict[str, float]:
        """Case -> value."""
        return {key: row[column] for key, row in self.rows.items()}


@dataclass(frozen=True)
class Line:
    """The averages of some cases.

    Attributes:
        name: category, or "all".
        count: number of cases.
        values: column -> average; None if every case is NaN.
    """

    name: str
    count: int
    values: Mapping[str, Interval | None]


def summarise(report: Report, seed: int = 0) -> list[Line]:
    """A line for each category that has cases, in the order of their first case, and one for all."""
    members: dict[str, list[str]] = {}
    for key in report.rows:
        if key in report.groups:
            members.setdefault(report.groups[key], []).append(key)
    members["all"] = list(report.rows)
    lines = []
    for name, keys in members.items():
        data = {c.name: np.array([report.rows[key][c.name] for key in keys]) for c in report.columns}
        averages = {n: None if np.isnan(v).all() else bootstrap_mean(v, seed) for n, v in data.items()}
        lines.append(Line(name, len(keys), averages))
    return lines


def estimate_set(figure: SetFigure, count: int) -> Interval:
    """A set's number with the interval that leaving out groups gives it."""
    return jackknife(figure.value, figure.replicates, count)


def write_report(report: Report, folder: Path) -> Path:
    """Write `report.json` into a folder, which is made; give its path."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "version": REPORT_VERSION,
        **{name: getattr(report, name) for name in ("bench", "name", "expected")},
        "remarks": list(report.remarks),
        "settings": dict(report.settings),
        "weights_checked": report.weights_checked,
        "averages": {line.name: _plain_line(line) for line in summarise(report)},
        "columns": [asdict(column) for column in report.columns],
        "figures": [_plain_figure(figure) for figure in report.figures],
        "rows": {key: {n: to_json(v) for n, v in row.items()} for key, row in report.rows.items()},
        "groups": dict(report.groups),
        "captions": dict(report.captions),
        "files": {key: dict(files) for key, files in report.files.items()},
        **({} if report.inputs is None else {"inputs": {k: dict(i) for k, i in report.inputs.items()}}),
        **({"masks": dict(report.masks)} if report.masks else {}),
    }
    write_json(folder / FILE, content)
    return folder / FILE


def read_report(path: Path) -> Report:
    """Read a report; for a folder, the `report.json` in it or in its `report/`.

    Raises:
        UserError: if there is none, or it is not a report of this program.
    """
    if path.is_dir():
        places = [path / FILE, path / "report" / FILE]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UserError(f"neither {path} nor its report/ has a {FILE}; score the results first")
        path = found
    content = read_json(path, unique=True)
    try:
        if content["version"] != REPORT_VERSION:
            raise UserError(f"{path} was written by another version; score the results again")
        columns = [_column(column) for column in content["columns"]]
        return Report(
            bench=content["bench"],
            name=str(content["name"]),
            expected=int(content["expected"]),
            columns=columns,
            rows={k: {c.name: from_json(row[c.name]) for c in columns} for k, row in content["rows"].items()},
            figures=[_figure(figure) for figure in content["figures"]],
            groups=content["groups"],
            files=content["files"],
            captions=content["captions"],
            remarks=tuple(content["remarks"]),
            settings=content["settings"],
            weights_checked=content.get("weights_checked", False),
            inputs=content.get("inputs"),
            masks=content.get("masks", {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not a report of `python -m evaluation`: {error!r}") from None


def pack_mask(mask: Mask) -> str:
    """A mask, bool [H, W], as the text that reports hold: a PNG of 1 bit in base64, about 1 KB."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def unpack_mask(text: str) -> Mask:
    """The inverse of `pack_mask`.

    Raises:
        UserError: for a text that is not a mask.
    """
    from PIL import Image

    try:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("1"))
    except (OSError, ValueError):
        raise UserError("a mask of the report is damaged; score the results again") from None


def incomplete(count: int, expected: int) -> tuple[str, ...]:
    """The note that cases are missing, if there are any."""
    missing = expected - count
    return (f"{missing} of {expected} results are missing: not comparable",) if missing else ()


def to_json(value: float) -> float | str | None:
    """A number as JSON has it: NaN becomes null, infinity "inf"."""
    if math.isnan(value):
        return None
    return str(value) if math.isinf(value) else value


def from_json(value: float | str | None) -> float:
    """The inverse of `to_json`."""
    return math.nan if value is None else float(value)


def _plain_line(line: Line) -> dict[str, Any]:
    averages = {
        name: None if e is None else [to_json(e.value), to_json(e.low), to_json(e.high)]
        for name, e in line.values.items()
    }
    infinite = {name: e.infinite for name, e in line.values.items() if e is not None and e.infinite}
    return {"count": line.count, **averages, **({"infinite": infinite} if infinite else {})}


def _plain_figure(figure: SetFigure) -> dict[str, Any]:
    return {
        "column": asdict(figure.column),
        "value": to_json(figure.value),
        "replicates": [to_json(value) for value in figure.replicates],
        "deviation": figure.deviation,
        **({"weak": True} if figure.weak else {}),
    }


def _column(content: Mapping[str, Any]) -> ReportColumn:
    column = ReportColumn(**content)
    if not (isinstance(column.recipe, str) and isinstance(column.digits, int)):
        raise ValueError(f"{column.name} has recipe {column.recipe!r} and digits {column.digits!r}")
    return column


def _figure(content: Mapping[str, Any]) -> SetFigure:
    replicates = tuple(from_json(value) for value in content["replicates"])
    column = _column(content["column"])
    weak = bool(content.get("weak", False))
    return SetFigure(column, from_json(content["value"]), replicates, content["deviation"], weak)
