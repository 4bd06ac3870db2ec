"""The values of many cases: each picture decoded once, batches for the networks, values kept on disk.

A case is a few requests by name, such as a result's CLIP features and its background error; the order of
cases is kept. A value's key is made of the pictures' bytes, the mask, the recipe and the weights'
fingerprint, so it is computed once, for all file names and commands.

In memory at any time: two windows of cases, prepared, and the decoded pictures that later cases need.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.measures.measures import Measure, NothingLeft, Value
from evaluation.measures.metrics import Mask
from evaluation.scoring.store import ValueStore
from intarsia.errors import UserError
from intarsia.files import sha256_bytes
from sampling.pictures import read_mask, read_picture

OnProgress: TypeAlias = Callable[[int, int], None]  # cases done, cases in all

WINDOW = 64  # cases prepared together
BATCH_SIZE = 32
WORKERS = 4


@dataclass(frozen=True, eq=False)
class Request:
    """A value to be computed.

    Attributes:
        pictures: files in the order of the measure's arguments.
        measure: measure of them.
        mask: file (white = edited), or the mask itself; None for a measure without mask.
    """

    pictures: tuple[Path, ...]
    measure: Measure
    mask: Path | Mask | None = None


Case: TypeAlias = Mapping[str, Request]


def score(
    cases: Sequence[Case],
    store: ValueStore,
    report: OnProgress | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = WORKERS,
) -> Iterator[dict[str, Value]]:
    """The values of every case by the names of its requests, in order; NaN for a region without pixels.

    While the networks work on one window of cases, the next is read and prepared.

    Args:
        cases: requests of each case, by name.
        store: values on disk; those in it are not computed again, and their pictures not decoded.
        report: called with the number of cases done and the number in all.
        batch_size: inputs of a network at the same time; affects only speed and memory.
        workers: threads that read, decode and resize; affects only speed.

    Raises:
        UserError: for a picture that is missing or damaged, or does not fit its recipe, with its name.
    """
    windows = [cases[start : start + WINDOW] for start in range(0, len(cases), WINDOW)]
    with ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(1) as ahead:
        reader = _Reader(cases, store, pool)
        waiting = [ahead.submit(reader.prepare, window) for window in windows[:1]]
        done = 0
        for number in range(len(windows)):
            keys, inputs = waiting.pop().result()
            if number + 1 < len(windows):
                waiting.append(ahead.submit(reader.prepare, windows[number + 1]))
            store.add(_compute(inputs, batch_size))
            for names in keys:
                yield {name: store[key] for name, key in names.items()}
            done += len(keys)
            if report:
                report(done, len(cases))
    store.keep()


@dataclass(frozen=True)
class _Input:
    measure: Measure
    prepared: NDArray[Any] | None  # None: the region is empty


class _Reader:
    """Reads, hashes, decodes and prepares; a decoded picture is dropped after its last use."""

    def __init__(self, cases: Sequence[Case], store: ValueStore, pool: ThreadPoolExecutor) -> None:
        self._store, self._pool = store, pool
        # A file may be asked for both as a mask and as a picture, such as an object's mask.
        self._hashes, self._decoded, self._masks = _Once(), _Once(), _Once()
        self._uses = Counter(path for case in cases for request in case.values() for path in _files(request))
        self._promised: set[str] = set()

    def prepare(self, window: Sequence[Case]) -> tuple[list[dict[str, str]], dict[str, _Input]]:
        """Per case, the keys by name; and the inputs of the keys that are not computed yet."""
        keys = list(self._pool.map(self._keys_of, window))
        wanted: list[dict[str, Request]] = []
        for case, names in zip(window, keys, strict=True):
            fresh = {key: case[name] for name, key in names.items() if key not in self._store}
            fresh = {key: request for key, request in fresh.items() if key not in self._promised}
            self._promised |= fresh.keys()
            wanted.append(fresh)
        inputs: dict[str, _Input] = {}
        for prepared in self._pool.map(self._prepare_case, wanted):
            inputs |= prepared
        for case in window:
            self._let_go(case)
        return keys, inputs

    def _keys_of(self, case: Case) -> dict[str, str]:
        return {name: self._key(request) for name, request in case.items()}

    def _key(self, request: Request) -> str:
        parts = [self._hash(path) for path in request.pictures]
        if isinstance(request.mask, Path):
            parts.append("mask " + self._hash(request.mask))
        elif request.mask is not None:
            parts.append(f"mask {request.mask.shape} {sha256_bytes(np.packbits(request.mask).tobytes())}")
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return f"{request.measure.identity.replace('/', '|')}|{digest[:40]}"

    def _hash(self, path: Path) -> str:
        def hashed(path: Path) -> str:
            try:
                return self._store.hash_of(path)
            except OSError as error:
                raise UserError(f"{path} cannot be read: {error.strerror}") from None

        return self._hashes.get(path, hashed)

    def _prepare_case(self, requests: Mapping[str, Request]) -> dict[str, _Input]:
        return {key: _Input(request.measure, self._prepared(request)) for key, request in requests.items()}

    def _prepared(self, request: Request) -> NDArray[Any] | None:
        arguments = [self._decoded.get(path, read_picture) for path in request.pictures]
        if isinstance(request.mask, Path):
            arguments.append(self._masks.get(request.mask, read_mask))
        elif request.mask is not None:
            arguments.append(request.mask)
        try:
            return request.measure.prepare(*arguments)
        except NothingLeft:
            return None
        except ValueError as error:
            files = " with ".join(str(path) for path in _files(request))
            raise UserError(f"{files}: {error} ({request.measure.recipe})") from None

    def _let_go(self, case: Case) -> None:
        for request in case.values():
            for path in _files(request):
                self._uses[path] -= 1
                if not self._uses[path]:
                    self._decoded.forget(path)
                    self._masks.forget(path)
                    self._hashes.forget(path)


class _Once:
    """Results of a function by path; threads that ask for the same one wait for the first."""

    def __init__(self) -> None:
        self._results: dict[Path, Any] = {}
        self._locks: dict[Path, threading.Lock] = {}

    def get(self, path: Path, function: Callable[[Path], Any]) -> Any:
        with self._locks.setdefault(path, threading.Lock()):
            if path not in self._results:
                self._results[path] = function(path)
            return self._results[path]

    def forget(self, path: Path) -> None:
        self._results.pop(path, None)
        self._locks.pop(path, None)


def _files(request: Request) -> list[Path]:
    return [*request.pictures, request.mask] if isinstance(request.mask, Path) else list(request.pictures)


def _compute(inputs: Mapping[str, _Input], batch_size: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    groups: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for key, item in inputs.items():
        if item.prepared is None:
            values[key] = np.asarray(np.nan)
        elif item.measure.network is None:
            values[key] = item.prepared
        else:
            groups.setdefault((id(item.measure.network), item.prepared.shape), []).append(key)
    for keys in groups.values():
        for start in range(0, len(keys), batch_size):
            chosen = keys[start : start + batch_size]
            measures = [inputs[key].measure for key in chosen]
            network = measures[0].network
            assert network is not None
            outputs = network.run(np.stack([inputs[key].prepared for key in chosen]))
            for key, measure, output in zip(chosen, measures, outputs, strict=True):
                values[key] = measure.finish(output) if measure.finish else output.copy()
    return values
