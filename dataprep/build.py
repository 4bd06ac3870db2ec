"""The build from annotations to a finished folder: plan or continue, build what is missing, merge."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dataprep.draw.recipe import with_recipes
from dataprep.pictures.stores import INDEX_FILE
from dataprep.plan.input_files import changed_inputs, describe_inputs, refuse_changed_files
from dataprep.plan.inputs import BuildRequest, new_plan, pictures_place, restore_pictures
from dataprep.plan.plan import BuildConfig, BuildPlan
from dataprep.plan.plan_file import (
    AS_SHOWN,
    PLAN_FILE,
    plan_fingerprint,
    read_plan_header,
    stored_fingerprint,
    write_plan,
)
from dataprep.progress import PROGRESS_NOTES, BuildProgress, metered
from dataprep.shards.build_shard import ShardJob, is_shard_complete, sidecar_path
from dataprep.shards.manifest import CARD, LOCK, REJECTS, SHARD_MANIFEST, read_shard_manifest, write_manifest
from dataprep.shards.plan_rejects import write_plan_rejects
from dataprep.sources.source import source_of
from intarsia.config import complete, config_differences
from intarsia.errors import UsageError, UserError
from intarsia.files import atomic_path, locked, read_json, sweep_temporaries

MOST_IN_VAIN = 100  # pictures without a sample, after which a build stops: that is no accident


def _silent(text: str) -> None:
    """What becomes of warnings that nobody asks for."""


def plan_build(request: BuildRequest) -> dict[str, Any]:
    """The first half of `build`: write the plan and its rejects, or find them; returns the plan's header."""
    with _locked(request.out):
        return _plan_header(request)


def build(
    request: BuildRequest,
    report: Callable[[BuildProgress], None] = lambda _: None,
    warn: Callable[[str], None] = _silent,
) -> dict[str, Any]:
    """Build what is missing in the request's folder and return its manifest.

    The result of a finished folder is its manifest. Options or inputs other than those that the folder was
    planned with are refused.

    Args:
        request: request of the build.
        report: function that gets the progress.
        warn: function that gets sentences on what looks like a mistake in the inputs.

    Raises:
        UsageError: for a folder that belongs to another build.
        UserError: for inputs that cannot be read, a folder that another build uses or that cannot be written
            (a full disk), or anything else that stops a build; the shards so far are kept.
    """
    try:
        return _build(request, report, warn)
    except OSError as error:
        raise UserError(
            f"building stopped: {error}; the shards so far are kept, run the same command again"
        ) from error


def _build(
    request: BuildRequest, report: Callable[[BuildProgress], None], warn: Callable[[str], None]
) -> dict[str, Any]:
    out, plan = request.out, request.out / PLAN_FILE
    with _locked(out):
        _sweep(out)
        goes_on = plan.is_file()
        header = _plan_header(request, warn)
        config = request.config
        missing = [
            shard
            for shard in range(header["shards"])
            if not is_shard_complete(out, config, shard, header["fingerprint"])
        ]
        if not missing and (content := _finished(out, header["fingerprint"])):
            return content
        if goes_on and stored_fingerprint(plan) != header["fingerprint"]:
            raise UserError(
                f"{plan} is damaged: it holds another plan than its fingerprint says; delete {out} and run "
                "the same command again"
            )
        (out / SHARD_MANIFEST).unlink(missing_ok=True)
        if missing:
            restore_pictures(request)
        _run_missing(request, header, missing, report)
        _sweep(out)  # after workers that died on the way
        return write_manifest(out, header, request.command)


def _finished(out: Path, fingerprint: str) -> dict[str, Any] | None:
    """The manifest, if it and the card exist and belong to this build."""
    try:
        content = read_shard_manifest(out)
    except UserError:
        return None
    return content if content.get("fingerprint") == fingerprint and (out / CARD).is_file() else None


def _sweep(out: Path) -> None:
    """Remove what killed runs and workers left; their journals say little about the pictures."""
    sweep_temporaries(out)
    for journal in out.glob(".*.journal"):
        journal.unlink(missing_ok=True)
    shutil.rmtree(out / PROGRESS_NOTES, ignore_errors=True)


def _run_missing(
    request: BuildRequest, header: dict[str, Any], missing: list[int], report: Callable[[BuildProgress], None]
) -> None:
    from dataprep.workers.apart import run_shards

    masks = request.inputs.get(source_of(request.config.source).masks_from)
    jobs = [
        ShardJob(
            folder=str(request.out.resolve()),
            images=pictures_place(request),
            shard=shard,
            fingerprint=header["fingerprint"],
            config=request.config,
            segmentations=str(masks.resolve()) if masks else "",
            as_shown=header.get(AS_SHOWN, False),
        )
        for shard in missing
    ]
    if not jobs:
        return
    per_shard = request.config.images_per_shard
    pictures = sum(min(per_shard, header["pictures"] - shard * per_shard) for shard in missing)
    start = BuildProgress(header["shards"] - len(jobs), header["shards"], 0, pictures)
    fruitless, left = not _has_samples(request, header["shards"], missing), len(jobs)
    rejected: dict[str, Counter[str]] = {"pictures": Counter(), "boxes": Counter()}
    with metered(request.out, start, report) as meter:
        for stats in run_shards(jobs, request.workers, request.ray_address, request.verbose):
            meter.finish(stats)
            left -= 1
            fruitless = fruitless and not stats["samples"]
            for what, numbers in rejected.items():
                numbers.update(stats["rejected"][what])
            if fruitless and left and rejected["pictures"].total() >= MOST_IN_VAIN:
                raise _fruitless(request.out / stats["shard"], rejected)


def _has_samples(request: BuildRequest, shards: int, missing: list[int]) -> bool:
    """Whether a shard of an earlier run has a sample."""
    complete = sorted({*range(shards)} - {*missing})
    return any(read_json(sidecar_path(request.out, request.config, s))["samples"] for s in complete)


def _fruitless(tar: Path, rejected: dict[str, Counter[str]]) -> UserError:
    """Why a build that makes no samples at all is stopped."""
    rejects = read_json(tar.with_suffix(".json"))["rejects"]
    one = next((line for line in rejects if "detail" in line), rejects[0])
    reasons = ", ".join(
        f"{number:,} {what} {reason}" for what in rejected for reason, number in rejected[what].most_common(2)
    )
    return UserError(
        f"building stopped: not one sample of the first {rejected['pictures'].total():,} pictures "
        f"({reasons}), such as {one['image_id']}: {one.get('detail', one['reason'])}; correct the "
        f"annotations, --images or the options, delete {tar.parent}, and build again"
    )


def _plan_header(request: BuildRequest, warn: Callable[[str], None] = _silent) -> dict[str, Any]:
    """The header of the folder's plan, which is made if there is none."""
    out, path = request.out, request.out / PLAN_FILE
    inputs = describe_inputs(request)
    if not path.is_file():
        return _write_new_plan(request, inputs, warn)
    header = read_plan_header(path)
    given = request.config.model_dump(mode="json")
    differences = config_differences(*with_recipes(complete(BuildConfig, header["config"]), given))
    if differences:
        raise UsageError(
            f"{out} was built with other options ({'; '.join(differences)}); "
            "give those, or choose another --out, or delete that folder"
        )
    rejects = out / REJECTS
    refuse_changed_files(request, header["inputs"], inputs)
    changed = changed_inputs(header["inputs"], inputs)
    if not changed and rejects.is_file():
        return header
    plan = new_plan(request, as_shown=header.get(AS_SHOWN, False))
    if plan_fingerprint(plan, header["config"]) != header["fingerprint"]:
        which = ", ".join(f"--{role}" for role in changed) or "their content"
        raise UsageError(
            f"{out} was planned from other inputs ({_plan_difference(header, plan)}; changed: {which}); "
            "give those, or choose another --out, or delete that folder"
        )
    if not rejects.is_file():
        (out / SHARD_MANIFEST).unlink(missing_ok=True)  # what the shards rejected must be merged again too
        _write_plan_rejects(plan, rejects)
    return header


def _plan_difference(header: dict[str, Any], plan: BuildPlan) -> str:
    now = {"pictures": len(plan.order), **plan.counts()}
    old = {"pictures": header["pictures"], **header["counts"]}
    return "; ".join(config_differences(old, now)) or "the same numbers, other contents"


def _write_new_plan(
    request: BuildRequest, inputs: dict[str, Any], warn: Callable[[str], None] = _silent
) -> dict[str, Any]:
    plan = new_plan(request)
    for text in plan.remarks:
        warn(text)
    header = {
        "config": request.config.model_dump(mode="json"),
        "fingerprint": plan_fingerprint(plan),
        "inputs": inputs,
        "unit": plan.annotations.unit,
        AS_SHOWN: True,
        "shards": plan.shards,
        "pictures": len(plan.order),
        "counts": plan.counts(),
    }
    _write_plan_rejects(plan, request.out / REJECTS)
    write_plan(request.out / PLAN_FILE, plan, header)
    return header


def _write_plan_rejects(plan: BuildPlan, path: Path) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        write_plan_rejects(plan, file)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make the folder and lock it against a second build; the lock ends with the process, however that ends.

    Raises:
        UsageError: if it cannot be made, or holds files that no build made.
        UserError: if another build is running in it.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made ({error.strerror}); choose another") from None
    names = {path.name for path in out.iterdir()}
    strangers = sorted(name for name in names - {REJECTS} if not name.startswith("."))
    if strangers and PLAN_FILE not in names:
        raise UsageError(f"{out} holds {strangers[0]}, which no build made; choose another --out")
    lock = out / LOCK
    with locked(lock, f"another build is running in {out}; wait for it, or choose another --out"):
        try:
            yield
        finally:
            if not (out / PLAN_FILE).exists():  # refused before it began: nothing of it is left
                for file in (lock, out / INDEX_FILE):
                    file.unlink(missing_ok=True)
                with suppress(OSError):
                    for folder in made:
                        folder.rmdir()


def free_space_warning(out: Path, needed: int) -> str | None:
    """A sentence if the disk below `out` has fewer bytes free than `needed`; None if it has enough."""
    existing = next(p for p in [out, *out.resolve().parents] if p.exists())
    free = shutil.disk_usage(existing).free
    if free >= needed:
        return None
    return f"about {needed / 1e9:.1f} GB will be written, {free / 1e9:.1f} GB are free in {existing}"
