"""Read lists of edits: a CSV file, a JSONL file, or a folder; each row is checked separately."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intarsia.architecture import MAPS
from intarsia.config import build_config
from intarsia.errors import UsageError, UserError
from intarsia.words import counted
from sampling.settings import EditSettings
from sampling.told import EXEMPLAR_ONLY, PartNames, check_outline, check_scales, check_told

FILES = ("image", "mask", "exemplar", "exemplar_mask")
# The folder of exemplars is called `reference` in the examples of the original code.
_FOLDERS = {"exemplar": ("exemplar", "reference")}  # of others: their own name
_TEXTS = (".txt",)
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")  # file name endings
_OWN = ("name", "seed", "truth", "prompt", "structure")
COMPUTED_OF = ("picture", "exemplar")  # what a structure map can be computed of
_LONGEST = 200  # largest length of a name in bytes; leaves room for the endings of (temporary) files


@dataclass(frozen=True)
class Job:
    """One edit of a list.

    Attributes:
        name: name of the result, NAME.png.
        files: paths of image and mask, and of exemplar and exemplar_mask if there are any.
        seed: seed of the noise; None = the command's seed.
        settings: fields of `EditSettings` that the row sets.
        truth: path of the true picture for `evaluation bench`, if the row has it.
        prompt: text that says what to paint; empty if there is none.
        structure: sources of structure maps (`structure_sources`).
        error: reason why the row cannot be made; empty if it can.
    """

    name: str
    files: dict[str, Path]
    seed: int | None
    settings: dict[str, Any]
    error: str = ""
    truth: Path | None = None
    prompt: str = ""
    structure: dict[str, Path] = field(default_factory=dict)


def structure_sources(words: Iterable[str], base: Path = Path()) -> dict[str, Path]:
    """Sources of structure maps by name, as a command or a list has them.

    Args:
        words: `MAP=FILE`, `MAP=picture` or `MAP=exemplar`; `edges` for edges=picture, `exemplar` for
            edges=exemplar, and any other word for edges=FILE.
        base: folder that files are relative to.

    Returns:
        Paths; those in COMPUTED_OF are no files.

    Raises:
        UsageError: for an unknown map, or one that has two sources.
    """
    sources: dict[str, Path] = {}
    for word in words:
        name, equals, source = word.partition("=")
        if not equals:
            name, source = "edges", "picture" if word == "edges" else word
        if name not in MAPS:
            raise UsageError(
                f"structure {word!r}: {name!r} is not one of {', '.join(MAPS)}; a file whose name has a = "
                "needs the map, such as edges=a=b.png"
            )
        if name in sources:
            raise UsageError(f"structure: {name} has two sources; give one")
        sources[name] = Path(source) if source in COMPUTED_OF else base / source
    return sources


def read_jobs(path: Path, parts: PartNames = EXEMPLAR_ONLY) -> list[Job]:
    """The edits of a list, in order; paths in the list are relative to its folder.

    Args:
        path: CSV file with a header or JSONL file (columns or keys image, mask, exemplar or prompt, and
            optionally exemplar_mask, name, seed, truth, structure and any setting of an edit), or a folder
            with image/, mask/ and exemplar/, where files with the same name, ignoring the ending, form one
            edit; it may also have exemplar_mask/, structure/ (edges) and prompt/ (.txt).
        parts: what the model is told.

    Raises:
        UsageError: if the list cannot be read, has unknown or missing columns, or has a name twice.
    """
    if path.is_dir():
        rows = _folder_rows(path, parts)
    elif not path.is_file():
        raise UsageError(f"{path} does not exist; give a .csv or .jsonl file or a folder")
    elif path.suffix.lower() == ".csv":
        rows = _csv_rows(path, parts)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        rows = _jsonl_rows(path, parts)
    else:
        raise UsageError(f"{path} must end in .csv or .jsonl, or be a folder with image/, mask/, exemplar/")
    base = path if path.is_dir() else path.parent
    jobs = [_job(row, number, base, parts) for number, row in enumerate(rows, 1)]
    if not jobs:
        raise UsageError(f"{path} contains no edits")
    twice = [name for name, count in Counter(job.name for job in jobs).items() if count > 1]
    if twice:
        raise UsageError(
            f"{path} has {counted(len(twice), 'name')} more than once, first {twice[0]!r}; names must differ"
        )
    return jobs


def _job(row: dict[str, Any], number: int, base: Path, parts: PartNames) -> Job:
    files = {name: base / str(row[name]) for name in FILES if row.get(name)}
    stem = files["image"].stem if "image" in files else "row"
    name = str(row.get("name") or f"{number:06d}-{stem}")
    prompt = str(row.get("prompt") or "")
    settings = {key: value for key, value in row.items() if key not in (*FILES, *_OWN, "error")}
    try:
        if row.get("error"):
            raise UsageError(row["error"])
        missing = [key for key in _required(parts) if key not in files]
        if missing:
            raise UsageError(f"the row has no {', '.join(missing)}")
        check_told(parts, "exemplar" in files, prompt)
        check_outline(files)
        check_scales(parts, settings)
        if Path(name).name != name or name == ".." or "\0" in name or len(name.encode()) > _LONGEST:
            raise UsageError(f"name={name!r} is not a plain file name of at most {_LONGEST} bytes")
        seed = None if row.get("seed") in (None, "") else _seed(row["seed"])
        structure = structure_sources(filter(None, str(row.get("structure") or "").split(";")), base)
        build_config(EditSettings, settings, where=f"row {number}")
    except UserError as error:
        return Job(name, files, None, {}, str(error))
    truth = base / str(row["truth"]) if row.get("truth") else None
    return Job(name, files, seed, settings, truth=truth, prompt=prompt, structure=structure)


def _required(parts: PartNames) -> tuple[str, ...]:
    """The files that every edit needs; only a model that is told nothing else needs an exemplar."""
    return FILES[:3] if parts == EXEMPLAR_ONLY else FILES[:2]


def _seed(value: Any) -> int:
    try:
        seed = int(str(value))
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed={value!r} must be a whole number, 0 or more")
    return seed


def _csv_rows(path: Path, parts: PartNames) -> Iterator[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            _check_keys(list(reader.fieldnames or []), parts, path)
            for row in reader:
                error = "the row has more fields than the header" if None in row else ""
                row.pop(None, None)
                # An empty field means the command's value.
                yield {k: v for k, v in row.items() if v not in (None, "")} | {"error": error}
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a CSV in UTF-8 ({error})") from None
    except csv.Error as error:
        raise UsageError(f"{path} is not a CSV ({error})") from None


def _jsonl_rows(path: Path, parts: PartNames) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not JSON in UTF-8 ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number}: not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number} must be an object with image, mask and exemplar")
        _check_keys(list(row), parts, path, number)
        yield row


def _check_keys(keys: list[Any], parts: PartNames, path: Path, line: int | None = None) -> None:
    valid = [*FILES, *_OWN, *EditSettings.model_fields]
    where = f"{path}, line {line}" if line else str(path)
    unknown = [key for key in keys if key not in valid]
    if unknown:
        raise UsageError(f"{where}: unknown column {unknown[0]!r}; valid: {', '.join(valid)}")
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise UsageError(f"{where}: two columns are called {twice[0]}; remove one")
    required = _required(parts)
    missing = [key for key in required if key not in keys]
    if missing:
        raise UsageError(f"{where}: no column {', '.join(missing)}; required: {', '.join(required)}")


def _folder_rows(folder: Path, parts: PartNames) -> Iterator[dict[str, Any]]:
    required = _required(parts)
    found: dict[str, dict[str, list[str]]] = {}
    for kind in (*FILES, "structure", "prompt"):
        names = _FOLDERS.get(kind, (kind,))
        place = next((folder / name for name in names if (folder / name).is_dir()), None)
        if place is None and kind in required:
            raise UsageError(
                f"{folder} has no folder {' or '.join(names)}/; required: "
                + ", ".join(f"{name}/" for name in required)
            )
        files = found[kind] = {}
        for file in sorted(place.iterdir()) if place else ():
            if file.suffix.lower() in (_TEXTS if kind == "prompt" else PICTURES):
                files.setdefault(file.stem, []).append(str(file.relative_to(folder)))
    for stem in sorted(set().union(*found.values())):
        row: dict[str, Any] = {"name": stem, "error": ""}
        for kind, of_kind in found.items():
            candidates = of_kind.get(stem, [])
            endings = _TEXTS if kind == "prompt" else PICTURES
            if len(candidates) == 1:
                row[kind] = candidates[0]
            elif candidates or kind in required:
                what = counted(len(candidates), "picture") if candidates else "no picture"
                place_name = _FOLDERS.get(kind, (kind,))[0]
                row["error"] = f"{what} called {stem} in {place_name}/ ({', '.join(endings)})"
        if "prompt" in row:
            row["prompt"] = _prompt(folder / row["prompt"])
        yield row


def _prompt(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8 ({error})") from None
