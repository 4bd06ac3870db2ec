"""Make the edits of PIE-Bench; the same command again makes the missing ones only."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from evaluation.pie.pie_ways import Way, words_for
from evaluation.pie.piebench import PieCase
from evaluation.scoring.result_files import SIDE
from intarsia.errors import UserError
from intarsia.files import atomic_write, fingerprint
from sampling.ledger import EditProgress, merge_records, read_records, records_name, sole_writer
from sampling.pictures import Picture, read_exemplar, read_picture, write_png
from sampling.provenance import Provenance, SourceFile, source_file
from sampling.settings import CANVAS_SETTINGS, EditSettings

if TYPE_CHECKING:
    from sampling.denoise.machine import Machine
    from sampling.methods.run_inversion import InversionResult

_EXEMPLARS = ("source_exemplar", "exemplar")


@dataclass(frozen=True)
class PieRun:
    """What all ways of a run share.

    Attributes:
        bench: folder of the bench.
        out: folder of results; ways that have their own folder are below it.
        made_by: provenance without files: model, device, dtype, libraries.
        parts: what the model takes.
        masked: whether the model sees the picture around a mask, and so gets the bench's mask.
        canvas: settings of the canvas.
        exemplars: case -> "exemplar" and optionally "source_exemplar" -> file.
        shard: (i, n) selects every n-th case from case i on, counted from 0.
    """

    bench: Path
    out: Path
    made_by: Provenance
    parts: tuple[str, ...]
    masked: bool
    canvas: EditSettings
    exemplars: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    shard: tuple[int, int] = (0, 1)

    def settings(self, way: Way) -> dict[str, Any]:
        """Everything that affects all results of a way except the model, as JSON values."""
        canvas = {name: getattr(self.canvas, name) for name in CANVAS_SETTINGS} if self.masked else {}
        tower = self.made_by.style_tower
        seen = {"style_tower": tower.sha256[:12]} if tower and way.settings.method == "style" else {}
        return way.plain | canvas | seen | {"dtype": self.made_by.dtype}

    def image(self, case: PieCase) -> Path:
        """The source picture of a case."""
        return self.bench / "annotation_images" / case.image_path


@dataclass(frozen=True)
class _Task:
    """A result to make: one case in one way, with the folder of the way and the hash of the work."""

    way: Way
    folder: Path
    case: PieCase
    files: Mapping[str, SourceFile]
    work: str

    @property
    def output(self) -> str:
        """Path of the result below the way's folder: a strip as published, or a PNG."""
        suffix = ".jpg" if self.way.protocol == "published" else ".png"
        return str(Path(self.case.image_path).with_suffix(suffix))


def run_ways(
    ways: Mapping[Path, Way], cases: Sequence[PieCase], run: PieRun, open_model: Callable[[], Machine]
) -> Counter[str]:
    """Make this shard's results of all ways, and write a record of each to the way's results.jsonl.

    A result is kept if its file exists and its record has the same inputs, settings and model. All others are
    made, including those that failed before.

    Args:
        ways: folder of results -> way.
        cases: cases of all shards.
        run: what the ways share.
        open_model: function that loads the model; not called if nothing is left to make.

    Returns:
        The numbers of results "made", "kept" and "failed".

    Raises:
        UserError: if another process works on the same shard, or a folder has results that were made in
            another way.
    """
    place, number = run.shard
    counts: Counter[str] = Counter()
    name = records_name(run.shard)
    with ExitStack() as stack:
        todo: list[_Task] = []
        for folder, way in ways.items():
            _refuse_other_way(folder, way, cases, run)
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(sole_writer(folder / f".{name}.lock"))
            before = read_records(folder)
            for case in cases[place::number]:
                try:
                    task = _plan(folder, way, case, run)
                except UserError as error:
                    counts["failed"] += 1
                    _record(folder / name, case, {"status": "failed", "error": str(error)})
                    continue
                if _is_done(before.get(case.key), task):
                    counts["kept"] += 1
                else:
                    todo.append(task)
        if todo:
            _make_all(todo, run, open_model(), name, counts)
        if number > 1:
            for folder in ways:
                merge_records(folder, [case.key for case in cases])
    return counts


def failed_cases(folder: Path, cases: Sequence[PieCase]) -> dict[str, str]:
    """Case -> error of those whose newest record is a failure."""
    records = read_records(folder)
    return {
        case.key: records[case.key]["error"]
        for case in cases
        if records.get(case.key, {}).get("status") == "failed"
    }


def waiting_cases(folder: Path, way: Way, cases: Sequence[PieCase], run: PieRun) -> list[str]:
    """The cases of all shards that are neither made in this way nor failed."""
    records, names = read_records(folder), []
    for case in cases:
        record = records.get(case.key)
        if record and record["status"] == "failed":
            continue
        try:
            done = _is_done(record, _plan(folder, way, case, run))
        except UserError:  # its own shard records the failure
            done = False
        if not done:
            names.append(case.key)
    return names


def read_exemplar_list(path: Path) -> dict[str, dict[str, Path]]:
    """A CSV with the columns key, source_exemplar, target_exemplar -> case -> kind -> file.

    Paths are relative to the file's folder; an empty source_exemplar means what is under the mask.

    Raises:
        UserError: if the file, a column, a key or a target exemplar is missing, or a key appears twice.
    """
    import csv

    columns = ["key", "source_exemplar", "target_exemplar"]
    if not path.is_file():
        raise UserError(
            f"--exemplars {path} does not exist; give a .csv with the columns {', '.join(columns)}"
        )
    found: dict[str, dict[str, Path]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path} has no column {', '.join(missing)}; required: {', '.join(columns)}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            key, source, target = ((row[name] or "").strip() for name in columns)
            if not key or not target:
                raise UserError(f"{where}: {'target_exemplar' if key else 'key'} is empty; fill it in")
            if key in found:
                raise UserError(f"{where}: the key {key} appears twice; remove one line")
            found[key] = {"exemplar": path.parent / target}
            found[key] |= {"source_exemplar": path.parent / source} if source else {}
    return found


def _refuse_other_way(folder: Path, way: Way, cases: Sequence[PieCase], run: PieRun) -> None:
    """Refuse a folder whose results another model or other settings made, with the first difference."""
    keys, now = {case.key for case in cases}, run.settings(way) | {"model": run.made_by.model.sha256[:12]}
    now = json.loads(json.dumps(now))
    for key, record in read_records(folder).items():
        if key not in keys or record["status"] != "ok":
            continue
        before = record["settings"] | {"model": record["model"]["sha256"][:12]}
        for name in sorted(now.keys() | before.keys()):
            if now.get(name) != before.get(name):
                raise UserError(
                    f"{folder} has results made with {name}={before.get(name)}, and this command has "
                    f"{name}={now.get(name)}; give --results another folder"
                )


def _plan(folder: Path, way: Way, case: PieCase, run: PieRun) -> _Task:
    files = {"image": _hashed(run.image(case))}
    if "exemplar" in run.parts and case.key in run.exemplars:
        files |= {name: _hashed(path) for name, path in run.exemplars[case.key].items()}
    elif "text" not in run.parts:
        raise UserError(f"{case.key} has no line in --exemplars, and the model takes an exemplar; add one")
    words, _ = words_for(case, way, run.parts)
    hashes = {name: file.sha256 for name, file in files.items()}
    mask = case.edit_mask.tobytes().hex() if run.masked else ""
    shared = [run.settings(way), run.made_by.model.sha256]
    return _Task(way, folder, case, files, fingerprint([hashes, words, fingerprint(mask), *shared]))


@lru_cache(maxsize=4096)
def _hashed(path: Path) -> SourceFile:
    return source_file(path)


def _is_done(record: Mapping[str, Any] | None, task: _Task) -> bool:
    same = record is not None and record["status"] == "ok" and record["work"] == task.work
    return same and (task.folder / task.output).is_file()


def _make_all(todo: Sequence[_Task], run: PieRun, model: Machine, name: str, counts: Counter[str]) -> None:
    model[0].requires_grad_(False)
    progress = EditProgress(len(todo) + counts["failed"], counts["failed"])
    for task in todo:
        try:
            made = {"status": "ok"} | _make(task, run, model)
        except UserError as error:
            made = {"status": "failed", "error": str(error)}
        counts["made" if made["status"] == "ok" else "failed"] += 1
        _record(task.folder / name, task.case, made)
        progress.one_more(failed=made["status"] == "failed")
    progress.close()


def _record(path: Path, case: PieCase, content: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"name": case.key, **content}) + "\n")


def _make(task: _Task, run: PieRun, model: Machine) -> dict[str, Any]:
    """Make and write a result; what its record says of it."""
    from sampling.methods.request import InversionRequest
    from sampling.methods.run_inversion import invert_edit

    case, way = task.case, task.way
    picture = read_picture(task.files["image"].path)
    if picture.shape[:2] != (SIDE, SIDE):
        size = f"{picture.shape[1]} × {picture.shape[0]} pixels"
        raise UserError(f"{task.files['image'].path} has {size}; PIE-Bench's pictures have {SIDE} × {SIDE}")
    words, remarks = words_for(case, way, run.parts)
    exemplars = {name: read_exemplar(task.files[name].path) for name in _EXEMPLARS if name in task.files}
    mask = case.edit_mask if run.masked else None
    request = InversionRequest(picture, mask, **exemplars, **words, seed=way.seed)
    result = invert_edit(model[0], request, way.settings, run.canvas, model[1])
    if not math.isfinite(result.latent_error):
        raise UserError("the latents are not finite numbers; give --dtype float32 or bfloat16")
    _write(task, picture, result)
    return {
        "output": task.output,
        **{name: file.path for name, file in task.files.items()},
        **{name: words[name] for name in ("source_prompt", "target_prompt") if name in words},
        "settings": run.settings(way),
        "model": asdict(run.made_by.model),
        "latent_error": result.latent_error,
        "seconds": round(result.seconds, 3),
        "calls": result.calls,
        "rows": result.rows,
        "remarks": [*remarks, *result.remarks],
        "work": task.work,
    }


def _write(task: _Task, picture: Picture, result: InversionResult) -> None:
    path = task.folder / task.output
    if task.way.protocol != "published":
        write_png(result.image, path)
        return
    texts = _text_square(task.case.source_prompt, task.case.target_prompt)
    strip = np.concatenate([texts, picture, result.reconstruction, result.image], axis=1)
    content = io.BytesIO()
    Image.fromarray(strip).save(content, format="JPEG", quality=75, subsampling="4:2:0")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, content.getvalue())


def _text_square(*texts: str) -> Picture:
    """The texts on white, uint8 [512, 512, 3]: the first square of a published strip."""
    import textwrap

    square = Image.new("RGB", (SIDE, SIDE), "white")
    lines = [line for text in texts for line in (*textwrap.wrap(text, 60), "")]
    ImageDraw.Draw(square).multiline_text((20, 20), "\n".join(lines), fill="black")
    return np.asarray(square)
