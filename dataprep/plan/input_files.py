"""Sizes and times of the files that a build is made from: enough to notice a change without reading them."""

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from dataprep.pictures.stores import describe_store, locate
from dataprep.plan.inputs import BuildRequest
from dataprep.sources.source import source_of
from intarsia.errors import UsageError, UserError
from intarsia.files import walk_files

_MODULUS = 1 << 256


def describe_inputs(request: BuildRequest) -> dict[str, Any]:
    """A record of each input by role, without reading it; `changed_inputs` compares two such records.

    Of pictures the folder's own time counts, or the sizes and times of tars; of a folder of labels or masks
    the path, size and time of each file.

    Raises:
        UserError: for an input that does not exist.
    """
    described: dict[str, Any] = {"images": describe_store(locate(request.images))}
    endings = {item.role: item.endings for item in source_of(request.config.source).inputs}
    for role, path in request.inputs.items():
        if not path.exists():
            raise UserError(f"--{role} {path} does not exist")
        # These three are as earlier versions wrote them, so that their folders can be continued.
        files = [path] if path.is_file() else sorted(path.glob("*.csv"))
        described[role] = {
            "path": str(path.resolve()),
            "bytes": sum(file.stat().st_size for file in files),
            "modified": max(place.stat().st_mtime_ns for place in (path, *files)),
        }
        if path.is_dir():
            described[role]["files"] = _describe_folder(path, endings.get(role, ()))
    return described


def _describe_folder(folder: Path, endings: tuple[str, ...]) -> dict[str, Any]:
    """Number and size of the files, and a hash of paths, sizes and times in any order."""
    number = size = total = 0
    for path, entry in walk_files(folder):
        if endings and not path.lower().endswith(endings):
            continue
        state = _state(entry)
        number, size = number + 1, size + state.st_size
        line = f"{path}\0{state.st_size}\0{state.st_mtime_ns}".encode(errors="surrogateescape")
        total = (total + int.from_bytes(sha256(line).digest(), "big")) % _MODULUS
    return {"number": number, "bytes": size, "sha256": f"{total:064x}"}


def _state(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except FileNotFoundError:  # a link to nothing
        return entry.stat(follow_symlinks=False)


def changed_inputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Roles whose inputs differ; what an earlier version did not record in `old` is not compared."""

    def differs(role: str) -> bool:
        if role not in old or role not in new:
            return True
        return any(old[role][name] != new[role].get(name) for name in old[role])

    return [role for role in sorted({*old, *new}) if differs(role)]


def refuse_changed_files(request: BuildRequest, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check the inputs of which a plan knows the names only, such as object masks.

    Raises:
        UsageError: if a file of a folder is not what it was.
    """
    for item in source_of(request.config.source).inputs:
        before, now = (inputs.get(item.role, {}).get("files") for inputs in (old, new))
        if not item.planned and before and now and before != now:
            raise UsageError(
                f"the files in --{item.role} {request.inputs[item.role]} are not those that {request.out} "
                f"was planned with ({_in_words(before)}, now {_in_words(now)}); put those back, with their "
                "times, or choose another --out, or delete that folder"
            )


def _in_words(record: Mapping[str, Any]) -> str:
    return f"{record['number']:,} with {record['bytes']:,} bytes, hash {record['sha256'][:8]}"
