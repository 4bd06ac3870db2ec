"""`dataprep index`: the index of tars of another program; the same command continues it."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dataprep.draw.pipeline import check_pipeline
from dataprep.draw.recipe import with_recipes
from dataprep.foreign.fields import IndexOptions
from dataprep.foreign.index_tar import TarJob, index_tar, sidecar_of
from dataprep.foreign.mistakes import probe_tar
from dataprep.foreign.tars import PIPE, common_folder, expand_tars, index_beside, names_below
from dataprep.pictures.stores import is_uri
from dataprep.pictures.tar_store import PACKED
from dataprep.plan.mistakes import WARNED_SHARE
from dataprep.progress import BuildProgress
from dataprep.records import CLIPPED
from dataprep.shards.tally import encode_line
from intarsia.config import config_differences
from intarsia.errors import UsageError, UserError
from intarsia.files import atomic_path, locked, read_json, sweep_temporaries, write_json
from intarsia.sample import FORMAT_VERSION
from intarsia.words import counted

INDEX_MANIFEST = "manifest.json"
INDEX_REJECTS = "rejects.jsonl"
_BEGUN = "index.json"  # what the folder is begun for
_TARS_PER_WORKER = 2  # below which another process is not worth its start


@dataclass(frozen=True)
class IndexRequest:
    """What is asked for.

    Attributes:
        tars: paths, addresses and brace patterns.
        options: fields and recipe.
        out: folder of the index; None: beside the tars.
        workers: largest number of processes.
        command: command line, for the manifest.
    """

    tars: tuple[str, ...]
    options: IndexOptions
    out: Path | None = None
    workers: int = 1
    command: str = ""


def index_tars(
    request: IndexRequest, report: Callable[[BuildProgress], None], warn: Callable[[str], None]
) -> tuple[Path, dict[str, Any]]:
    """Index tars; the same request again does what is missing.

    Returns:
        The folder of the index, and its manifest.

    Raises:
        UsageError: for tars that cannot be indexed, or a folder begun for another request.
        UserError: for a tar that cannot be read, or samples none of which can be used.
    """
    tars = expand_tars(request.tars)
    check_tars(tars)
    check_pipeline(request.options.drawing)
    folder = common_folder(tars)
    out = request.out or _beside(tars)
    names = names_below(folder, tars)
    jobs = [
        TarJob(tar, name, str(out / f"{name.removesuffix('.tar')}.json"), request.options)
        for tar, name in zip(tars, names, strict=True)
    ]
    begun = {**request.options.model_dump(mode="json"), "tars": names}
    _check_begun(out, begun)
    missing = [job for job in jobs if not sidecar_of(job)]
    for remark in probe_tar(missing[0]) if missing else ():  # before a folder is made
        warn(remark)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made ({error.strerror}); give another --out FOLDER") from None
    with locked(out / ".lock", f"another index of these tars is being made in {out}; wait for it"):
        _check_begun(out, begun)
        sweep_temporaries(out)
        done = {job.name: found for job in jobs if (found := sidecar_of(job))}
        missing = [job for job in jobs if job.name not in done]
        if missing or not (out / INDEX_MANIFEST).is_file():
            (out / INDEX_MANIFEST).unlink(missing_ok=True)
            write_json(out / _BEGUN, begun)
            done |= _run(missing, request.workers, len(done), report)
            # Beside the tars, they are found from the folder, wherever it is moved with them.
            url = "../{}" if request.out is None else f"{folder}/{{}}"
            _write_manifest(out, [done[name] for name in names], request, url)
        return out, read_json(out / INDEX_MANIFEST)


def check_tars(tars: Sequence[str]) -> None:
    """Refuse what has no order to index.

    Raises:
        UsageError: for a pipe or a packed tar.
        UserError: for tars that do not exist.
    """
    for tar in tars:
        if tar.startswith(PIPE):
            raise UsageError(f"{tar}: a pipe cannot be read from its middle; train from it with data.stream")
        if tar.endswith(PACKED):
            raise UsageError(
                f"{tar} is packed and cannot be read from its middle; unpack it with gunzip first"
            )
        if not tar.endswith(".tar"):
            raise UsageError(
                f"{tar} is not a tar; give names that end with .tar, such as set/{{000000..000123}}.tar"
            )
    gone = [tar for tar in tars if not is_uri(tar) and not Path(tar).is_file()]
    if gone:
        raise UserError(
            f"{len(gone)} of {counted(len(tars), 'tar')} do not exist, such as {gone[0]}; correct the pattern"
        )


def _beside(tars: Sequence[str]) -> Path:
    place = index_beside(tars)
    if is_uri(place):
        raise UsageError(
            f"an index of {tars[0]} cannot be written beside it; give --out FOLDER on this machine"
        )
    return Path(place)


def _check_begun(out: Path, new: dict[str, Any]) -> None:
    """Refuse a folder that holds something else, or was begun for another request.

    Raises:
        UsageError: with the differences.
    """
    if not (out / _BEGUN).is_file():
        others = [path.name for path in out.iterdir() if path.name[0] != "."] if out.is_dir() else []
        if others:
            raise UsageError(f"{out} holds {others[0]} and is not an index; choose another --out")
        return
    old = read_json(out / _BEGUN)
    lines = config_differences(*with_recipes(old, new)) if isinstance(old, dict) else ["all"]
    if lines:
        raise UsageError(
            f"{out} is an index of other tars or by other options ({'; '.join(lines)[:500]}); choose "
            "another --out, or delete it"
        )


def _run(
    jobs: Sequence[TarJob], workers: int, before: int, report: Callable[[BuildProgress], None]
) -> dict[str, dict[str, Any]]:
    """The indexes of tars by name."""
    done: dict[str, dict[str, Any]] = {}
    kept = out = 0
    for job, content in zip(jobs, _made(jobs, workers), strict=True):
        done[job.name] = content
        kept += content["samples"]
        out += len(content["rejects"])
        report(BuildProgress(before + len(done), before + len(jobs), kept + out, kept + out, out, kept))
    return done


def _made(jobs: Sequence[TarJob], workers: int) -> Iterator[dict[str, Any]]:
    workers = min(workers, len(jobs) // _TARS_PER_WORKER)
    if workers <= 1:
        yield from map(index_tar, jobs)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"))
    try:
        yield from pool.map(index_tar, jobs)
    except BrokenProcessPool:
        raise UserError(
            "a process that read a tar was killed (out of memory, or by a decoder); finished tars are kept, "
            "--workers 1 shows where"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _write_manifest(out: Path, indexes: Sequence[dict[str, Any]], request: IndexRequest, url: str) -> None:
    reasons: dict[str, Counter[str]] = {"samples": Counter(), "boxes": Counter()}
    changed: Counter[str] = Counter()
    with atomic_path(out / INDEX_REJECTS) as temporary, temporary.open("w", encoding="utf-8") as file:
        for content in indexes:
            for what, numbers in content["rejected"].items():
                reasons[what].update(numbers)
            changed.update(content["changed"])
            file.writelines(encode_line({"tar": content["tar"], **line}) for line in content["rejects"])
    kept = {what: sum(content[what] for content in indexes) for what in reasons}
    options = request.options.model_dump(mode="json", exclude={"recipe"})
    write_json(
        out / INDEX_MANIFEST,
        {
            "format_version": FORMAT_VERSION,
            "foreign": options,
            "config": {"recipe": request.options.drawing.model_dump(mode="json")}
            if request.options.recipe
            else {},
            "shardlist": [
                {
                    "url": url.format(content["tar"]),
                    "nsamples": content["samples"],
                    "filesize": content["bytes"],
                    "sha256": content["sha256"],
                    "index": f"{content['tar'].removesuffix('.tar')}.json",
                }
                for content in indexes
            ],
            "in": {what: kept[what] + numbers.total() for what, numbers in reasons.items()},
            "kept": kept,
            "rejected": {what: dict(sorted(numbers.items())) for what, numbers in reasons.items()},
            **({"changed": {"boxes": dict(changed)}} if changed else {}),
            "command": request.command,
        },
    )


def index_remarks(manifest: dict[str, Any]) -> list[str]:
    """What looks like a mistake in a finished index."""
    clipped, boxes = manifest.get("changed", {}).get("boxes", {}).get(CLIPPED, 0), manifest["kept"]["boxes"]
    if clipped <= WARNED_SHARE * boxes:
        return []
    return [
        f"{clipped:,} of {counted(boxes, 'box', 'boxes')} extend beyond the picture; what is outside is "
        "cut off"
    ]
