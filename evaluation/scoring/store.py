"""Computed values on the disk, by key; many in a file, since clusters are slow with small files."""

import functools
import logging
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evaluation.measures.measures import Value
from intarsia.errors import UserError
from intarsia.files import atomic_path

log = logging.getLogger(__name__)


class ValueStore:
    """Values by key in `pack-*.npz` files; a file is either whole or absent, and never written again.

    Several processes may use one folder: each reads the values of its start and adds its own files.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._places: dict[str, Path] = {}
        self._kept: dict[str, Value] = {}  # where the folder cannot be written
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning(f"{self.folder} cannot be made ({error.strerror}): values are computed, but not kept")
        self._open = functools.lru_cache(maxsize=4)(_read)
        for path in sorted(self.folder.glob("pack-*.npz")):
            try:
                with zipfile.ZipFile(path) as file:
                    names = file.namelist()
            except (OSError, zipfile.BadZipFile):
                log.warning(f"{path} is damaged and ignored: its values are computed again; delete it")
                continue
            self._places |= dict.fromkeys((name.removesuffix(".npy") for name in names), path)

    def __contains__(self, key: str) -> bool:
        return key in self._kept or self._readable(key)

    def _readable(self, key: str) -> bool:
        """Whether the key's file can be read; the keys of one that cannot are forgotten."""
        path = self._places.get(key)
        if path is None:
            return False
        try:
            return key in self._open(path)
        except UserError as error:
            log.warning(f"{error}; it is ignored")
            self._places = {name: place for name, place in self._places.items() if place != path}
            return False

    def __len__(self) -> int:
        return len(self._places) + len(self._kept)

    def __getitem__(self, key: str) -> Value:
        return self._kept[key] if key in self._kept else self._open(self._places[key])[key]

    def add(self, values: Mapping[str, Value]) -> None:
        """Keep values; they are on the disk when this returns, or in memory where that is not possible."""
        if not values:
            return
        path = self.folder / f"pack-{uuid.uuid4().hex}.npz"
        try:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **dict(values))
            self._places |= dict.fromkeys(values, path)
        except OSError as error:
            if not self._kept:
                log.warning(
                    f"{self.folder} cannot be written ({error.strerror}): values are computed, but not kept"
                )
            self._kept |= values


def _read(path: Path) -> dict[str, Value]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile):
        raise UserError(f"{path} is damaged; delete it, then its values are computed again") from None
