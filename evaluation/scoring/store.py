"""Computed values on the disk, by key; many in a file, since clusters are slow with small files."""

import functools
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evaluation.measures.measures import Value
from intarsia.errors import UserError
from intarsia.files import atomic_path


class ValueStore:
    """Values by key in `pack-*.npz` files; a file is either whole or absent, and never written again.

    Several processes may use one folder: each reads the values of its start and adds its own files.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[str, Path] = {}
        self._open = functools.lru_cache(maxsize=4)(_read)
        for path in sorted(self.folder.glob("pack-*.npz")):
            try:
                with zipfile.ZipFile(path) as file:
                    names = file.namelist()
            except (OSError, zipfile.BadZipFile):
                raise UserError(f"{path} is damaged; delete it, then its values are computed again") from None
            self._places |= dict.fromkeys((name.removesuffix(".npy") for name in names), path)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: str) -> Value:
        return self._open(self._places[key])[key]

    def add(self, values: Mapping[str, Value]) -> None:
        """Keep values; they are on the disk when this returns."""
        if not values:
            return
        path = self.folder / f"pack-{uuid.uuid4().hex}.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **dict(values))
        self._places |= dict.fromkeys(values, path)


def _read(path: Path) -> dict[str, Value]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, zipfile.BadZipFile):
        raise UserError(f"{path} is damaged; delete it, then its values are computed again") from None
