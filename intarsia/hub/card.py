"""A folder's README.md as the Hub reads it: text, and in front of it the data that the Hub shows."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from intarsia.errors import UserError
from intarsia.files import read_json

_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_SIZES = [
    (10**power, text) for power, text in ((3, "n<1K"), (4, "1K<n<10K"), (5, "10K<n<100K"), (6, "100K<n<1M"))
]
_SIZES += [(10**7, "1M<n<10M"), (10**8, "10M<n<100M")]


def with_data(text: str, data: Mapping[str, Any]) -> str:
    """A card with more data in its front matter; tags are added to those it has, other keys are replaced.

    Args:
        text: Markdown text, with or without front matter.
        data: keys of the Hub's front matter; None and empty values are left out.
    """
    found = _FRONT.match(text)
    own = (yaml.safe_load(found[1]) or {}) if found else {}
    new = {key: value for key, value in data.items() if value not in (None, [], "")}
    merged = own | new
    if tags := list(dict.fromkeys([*own.get("tags", []), *new.get("tags", [])])):
        merged["tags"] = tags
    front = yaml.safe_dump(merged, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{text[found.end() :] if found else text}"


def metrics_of(reports: Sequence[Path], name: str) -> list[dict[str, Any]]:
    """The `model-index` of reports of `python -m evaluation`: each number with its recipe.

    Args:
        reports: files `report.json`, or folders that have one.
        name: name of the model.

    Raises:
        UserError: if a file is not a report.
    """
    results = [_result(path / "report.json" if path.is_dir() else path) for path in reports]
    return [{"name": name, "results": results}] if results else []


def _result(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
        averages = content["averages"]["all"]
        numbers = [(column, (averages[column["name"]] or [None])[0]) for column in content["columns"]]
        numbers += [(figure["column"], figure["value"]) for figure in content["figures"]]
        count, bench = averages["count"], content["bench"]
        metrics = [
            {
                "type": column["name"],
                "name": column["title"],
                "value": value,
                "args": {"recipe": column["recipe"]},
            }
            for column, value in numbers
            if value is not None and math.isfinite(float(value))
        ]
    except FileNotFoundError:
        raise UserError(f"report {path} does not exist; score the results first") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a report of `python -m evaluation`: {error!r}") from None
    dataset = {"name": f"{bench}, {count} of {content['expected']} cases", "type": bench}
    return {"task": {"type": "image-to-image"}, "dataset": dataset, "metrics": metrics}


def size_category(samples: int) -> str:
    """The Hub's word for a number of samples."""
    return next((text for limit, text in _SIZES if samples < limit), "n>100M")
