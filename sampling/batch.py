"""Make many edits in one folder; a second run makes only the missing ones, and bad rows are skipped."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from intarsia.errors import UsageError, UserError
from sampling.canvas.edits import EditRequest, EditResult
from sampling.inputs import read_inputs
from sampling.jobs import Job
from sampling.ledger import EditProgress, merge_records, read_records, records_name, sole_writer
from sampling.painters.painter import Paint
from sampling.pictures import PictureFile, write_png
from sampling.provenance import Provenance, made_from, map_files, source_file
from sampling.settings import EditSettings


@dataclass(frozen=True)
class BatchOptions:
    """Options that all edits of a batch share.

    Attributes:
        out: folder of results.
        settings: settings of each edit; a row's own settings override them.
        seed: seed of rows without one.
        pattern: `Provenance` with all values that are the same for all rows.
        shard: (i, n) selects every n-th row from row i on, counted from 0.
        structure: sources of structure maps of rows without any (`jobs.structure_sources`).
    """

    out: Path
    settings: EditSettings
    seed: int
    pattern: Provenance
    shard: tuple[int, int] = (0, 1)
    structure: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class _Todo:
    """A row to paint, with its inputs and settings."""

    job: Job
    provenance: Provenance
    settings: EditSettings


def run_batch(jobs: Sequence[Job], options: BatchOptions, open_painter: Callable[[], Paint]) -> Counter[str]:
    """Make the edits of this shard's rows, and write a record of each to results.jsonl.

    A row is kept if its PNG exists and its record has the same inputs, settings and model. All other rows are
    made, including those that failed before.

    Args:
        jobs: all rows of the list; `options.shard` selects the rows to make.
        options: options that all edits share.
        open_painter: function that loads the painter; not called if no row is left to make.

    Returns:
        The numbers of rows "made", "kept" and "failed".

    Raises:
        UsageError: if a result would replace an input.
        UserError: if another process works on the same shard.
    """
    _check_inputs_stay(jobs, options.out)
    place, number = options.shard
    mine = jobs[place::number]
    name = records_name(options.shard)
    options.out.mkdir(parents=True, exist_ok=True)
    with sole_writer(options.out / f".{name}.lock"), (options.out / name).open("a", encoding="utf-8") as file:
        before = read_records(options.out)
        counts: Counter[str] = Counter()

        def record(job: Job, status: str, **more: Any) -> None:
            counts["made" if status == "ok" else "failed"] += 1
            files = {key: str(path) for key, path in job.files.items()}
            files |= {"prompt": job.prompt} if job.prompt else {}
            file.write(json.dumps({"name": job.name, "status": status, **files, **more}) + "\n")
            file.flush()

        todo = []
        for job in mine:
            try:
                item = _plan(job, options)
            except UserError as error:
                record(job, "failed", error=str(error))
                continue
            if _is_done(before.get(job.name), item, options.out):
                counts["kept"] += 1
            else:
                todo.append(item)
        if todo:
            tell = EditProgress(len(todo) + counts["failed"], counts["failed"])
            _paint_all(todo, options, open_painter(), record, tell)
    if number > 1:
        merge_records(options.out, [job.name for job in jobs])
    return counts


def failures(out: Path, jobs: Sequence[Job]) -> dict[str, str]:
    """The errors of the jobs whose newest record is a failure, by name, in the order of the jobs."""
    records = read_records(out)
    failed = [job.name for job in jobs if records.get(job.name, {}).get("status") == "failed"]
    return {name: records[name]["error"] for name in failed}


def pending(jobs: Sequence[Job], options: BatchOptions) -> list[str]:
    """The names of the jobs of all shards that are neither made with these options nor failed."""
    records = read_records(options.out)
    names = []
    for job in jobs:
        record = records.get(job.name)
        try:
            done = _is_done(record, _plan(job, options), options.out)
        except UserError:
            continue
        if not done and not (record and record["status"] == "failed"):
            names.append(job.name)
    return names


def _check_inputs_stay(jobs: Sequence[Job], out: Path) -> None:
    results = {(out / f"{job.name}.png").resolve() for job in jobs if not job.error}
    for job in jobs:
        for kind, path in (job.files | job.structure).items():
            if path.is_file() and path.resolve() in results:
                raise UsageError(
                    f"a result would replace {path}, the {kind} of {job.name}; give --out another folder"
                )


def _plan(job: Job, options: BatchOptions) -> _Todo:
    if job.error:
        raise UserError(job.error)
    settings = EditSettings.model_validate(options.settings.model_dump() | job.settings)
    files = {name: source_file(path) for name, path in job.files.items()}
    seed = options.seed if job.seed is None else job.seed
    maps = map_files(job.structure or options.structure)
    made = made_from(options.pattern, files, seed, settings.plain(), job.prompt, maps)
    return _Todo(job, made, settings)


def _is_done(record: dict[str, Any] | None, item: _Todo, out: Path) -> bool:
    same = record is not None and record["status"] == "ok" and record["work"] == item.provenance.work()
    return same and (out / f"{item.job.name}.png").is_file()


def _paint_all(
    todo: Sequence[_Todo],
    options: BatchOptions,
    paint: Paint,
    record: Callable[..., None],
    tell: EditProgress,
) -> None:
    for settings, items in groupby(todo, key=lambda item: item.settings):
        group = list(items)
        for start in range(0, len(group), settings.batch_size):
            chunk = group[start : start + settings.batch_size]
            for item, outcome in _paint(chunk, settings, paint):
                if isinstance(outcome, UserError):
                    record(item.job, "failed", error=str(outcome))
                else:
                    _keep(item, *outcome, options.out, record)
                tell.one_more(failed=isinstance(outcome, UserError))
    tell.close()


_Outcome = tuple[EditResult, PictureFile, float] | UserError


def _paint(chunk: Sequence[_Todo], settings: EditSettings, paint: Paint) -> Iterator[tuple[_Todo, _Outcome]]:
    """The results of a chunk in order; a row that cannot be made yields an error and does not stop others."""
    read: list[tuple[_Todo, EditRequest, PictureFile]] = []
    for item in chunk:
        try:
            read.append((item, *_read(item)))
        except UserError as error:
            yield item, error
    if not read:
        return
    start = time.perf_counter()
    try:
        results = paint([request for _, request, _ in read], settings)
    except UserError as error:
        if len(read) == 1:
            yield read[0][0], error
        else:  # one row causes the error: paint each row separately
            for item, _, _ in read:
                yield from _paint([item], settings, paint)
        return
    seconds = (time.perf_counter() - start) / len(read)
    for (item, _, source), result in zip(read, results, strict=True):
        yield item, (result, source, seconds)


def _read(item: _Todo) -> tuple[EditRequest, PictureFile]:
    made = item.provenance
    maps = {name: Path(file.path) for name, file in made.structure.items()}
    inputs = read_inputs(item.job.files, made.invert_mask, made.exemplar_background, maps)
    told = inputs.source.pixels, inputs.edit_mask, inputs.exemplar
    request = EditRequest(*told, made.seed, prompt=item.job.prompt, structure=inputs.structure)
    return request, replace(inputs.source, remarks=inputs.remarks)


def _keep(
    item: _Todo,
    result: EditResult,
    source: PictureFile,
    seconds: float,
    out: Path,
    record: Callable[..., None],
) -> None:
    path = out / f"{item.job.name}.png"
    mask = result.request.edit_mask.astype(bool) if item.settings.composite else None
    write_png(result.image, path, source, mask, item.provenance.to_text())
    record(
        item.job,
        "ok",
        output=path.name,
        seed=item.provenance.seed,
        settings=dict(item.provenance.settings),
        model=item.provenance.what_painted(),
        seconds=round(seconds, 3),
        remarks=[*source.remarks, *result.remarks],
        work=item.provenance.work(),
    )
