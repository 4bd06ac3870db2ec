"""All ranks train the same run: what each was given is compared before anything is trained."""

import importlib.metadata
import json
import platform
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from intarsia.config import flatten
from intarsia.errors import UserError
from intarsia.files import ROOT, fingerprint, sha256_bytes
from training.config import NODE_GROUPS, NODE_KEYS, TrainConfig
from training.ranks.distributed import World
from training.run.state import library_versions, shards_fingerprint

_PACKAGES = ("intarsia", "dataprep", "sampling", "evaluation", "training")  # whose code a rank runs
_MORE_LIBRARIES = ("peft", "pillow", "opencv-python-headless", "simplejpeg", "albumentations")
_MOST = 6  # differences that the refusal lists


def facts_of(config: TrainConfig, shards: Sequence[Any], held_out: Sequence[Any] = ()) -> dict[str, Any]:
    """What must be equal on all ranks, by name: options, data, code, libraries, Python.

    Not compared is where a machine has its shards, weights and caches, and how many processes read them:
    `config.NODE_KEYS`. Of shards the content is compared here, and of weights by `weights_facts`.

    Args:
        config: training config.
        shards: shards from `find_shards`.
        held_out: shards of the validation.
    """
    options = {
        key: value
        for key, value in flatten(config.model_dump(mode="json")).items()
        if key not in NODE_KEYS and not key.startswith(NODE_GROUPS)
    }
    versions = library_versions()
    for name in _MORE_LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        **options,
        "the data": shards_fingerprint(shards)[:12],
        "the validation data": shards_fingerprint(held_out)[:12],
        "the code": _code()[:12],
        "Python": platform.python_version(),
        **versions,
    }


def agree(world: World, facts: Mapping[str, Any]) -> None:
    """Compare what the ranks were given. Collective.

    Raises:
        UserError: the same on every rank, naming rank, host, key and both values.
    """
    if world.size == 1:
        return
    first = world.from_main(dict(facts))
    lines = [
        f"rank {world.rank} ({socket.gethostname()}): {key} is {_shown(facts, key)}, rank 0 has "
        f"{_shown(first, key)}"
        for key in sorted({*first, *facts})
        if first.get(key, "…") != facts.get(key, "…")
    ]
    found = [line for lines_of_rank in world.gather(lines) for line in lines_of_rank]
    if found:
        more = f"; and {len(found) - _MOST} more differences" if len(found) > _MOST else ""
        raise UserError(
            f"the ranks were not started for the same run: {'; '.join(found[:_MOST])}{more}; start all with "
            "the same command, code, libraries, data and weights"
        )


def _shown(facts: Mapping[str, Any], key: str) -> str:
    if key not in facts:
        return "missing"
    return facts[key] if isinstance(facts[key], str) else json.dumps(facts[key])


def _code() -> str:
    """A hash of the source of our packages, as this rank has it."""
    files = sorted(path for package in _PACKAGES for path in (ROOT / package).rglob("*.py"))
    return fingerprint([[str(path.relative_to(ROOT)), sha256_bytes(path.read_bytes())] for path in files])
