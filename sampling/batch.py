"""Make many edits in one folder; a second run makes only the missing ones, and bad rows are skipped."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from intarsia.errors import UsageError, UserError
from intarsia.files import atomic_write
from sampling.editing import EditRequest, EditResult
from sampling.inputs import read_inputs
from sampling.jobs import Job
from sampling.painters.painter import Paint
from sampling.pictures import PictureFile, write_png
from sampling.provenance import Provenance, made_from, map_files, source_file
from sampling.settings import EditSettings

RESULTS = "results.jsonl"
_LINE_SECONDS = 10.0  # time between two lines of progress if there is no terminal


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
    name = RESULTS if number == 1 else f"results-{place}-of-{number}.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    with _alone(options.out / f".{name}.lock"), (options.out / name).open("a", encoding="utf-8") as file:
        before = _read_records(options.out)
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
            tell = _Teller(len(todo) + counts["failed"], counts["failed"])
            _paint_all(todo, options, open_painter(), record, tell)
    if number > 1:
        _merge(options.out, jobs)
    return counts


def failures(out: Path, jobs: Sequence[Job]) -> dict[str, str]:
    """The errors of the jobs whose newest record is a failure, by name, in the order of the jobs."""
    records = _read_records(out)
    failed = [job.name for job in jobs if records.get(job.name, {}).get("status") == "failed"]
    return {name: records[name]["error"] for name in failed}


def pending(jobs: Sequence[Job], options: BatchOptions) -> list[str]:
    """The names of the jobs of all shards that are neither made with these options nor failed."""
    records = _read_records(options.out)
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
    tell: _Teller,
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


def _read_records(out: Path) -> dict[str, dict[str, Any]]:
    """The newest record of each name in all shards' files; lines that a crash truncated are ignored."""
    records: dict[str, dict[str, Any]] = {}
    # Oldest file first, so that newer records replace older ones.
    for path in sorted(out.glob("results*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                record = json.loads(line)
                records[record["name"]] = record
    return records


def _merge(out: Path, jobs: Sequence[Job]) -> None:
    """Write results.jsonl from all shards' files in the list's order; the last process writes all records."""
    with (out / f".{RESULTS}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        records = _read_records(out)
        lines = [json.dumps(records[job.name]) + "\n" for job in jobs if job.name in records]
        atomic_write(out / RESULTS, "".join(lines))


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is working on these rows in {lock.parent}; wait for it, or give --shard i/n"
            ) from None
        yield


class _Teller:
    """Progress and remaining time: a bar on a terminal, otherwise a line every ten seconds."""

    def __init__(self, total: int, failed: int) -> None:
        """Start with `total` rows, of which `failed` have failed before painting."""
        from tqdm import tqdm

        self.total, self.done, self.failed = total, failed, failed
        self.painted = 0
        self.start = self.last = time.monotonic()
        self.bar = tqdm(total=total, initial=failed, unit="edit", disable=None)

    def one_more(self, failed: bool) -> None:
        """Count a finished row."""
        self.done += 1
        self.painted += 1
        self.failed += failed
        self.bar.update()
        now = time.monotonic()
        if self.bar.disable and (now - self.last >= _LINE_SECONDS or self.done == self.total):
            self.last = now
            left = (now - self.start) / self.painted * (self.total - self.done)
            sys.stderr.write(f"{self.done}/{self.total} edits  {self.failed} failed  left {left:.0f} s\n")

    def close(self) -> None:
        """End the bar."""
        self.bar.close()
