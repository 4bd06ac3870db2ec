"""Pictures inside tars: plain ones are read by offset, packed ones are unpacked once."""

import functools
import gzip
import json
import tarfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from dataprep.pictures.index import OTHER_EXTENSIONS, PictureIndex, index_paths, is_picture_name, is_text
from dataprep.tars import tar_members
from intarsia.errors import UserError
from intarsia.files import atomic_path, sha256_bytes, sync

PACKED = (".tar.gz", ".tgz")
_KEY = b"tars"


@dataclass(frozen=True)
class TarStore:
    """The members of tars, which are read inside the tars.

    Attributes:
        tars: plain tars; of members with equal names the first one is used.
        index_file: file that keeps the places of the members, so that headers are walked once, not by each
            worker.
    """

    tars: tuple[Path, ...]
    index_file: Path

    def index(self) -> PictureIndex:
        """All names."""
        return index_paths(self._members["name"].to_pylist())

    def place(self, file: str) -> "TarMember":
        """One picture."""
        names = self._members["name"]
        low, high = 0, len(names)
        while low < high:  # they are sorted
            middle = (low + high) // 2
            low, high = (middle + 1, high) if names[middle].as_py() < file else (low, middle)
        if low == len(names) or names[low].as_py() != file:
            return TarMember(file, self.tars[0], 0, -1)
        tar, start, size = (self._members[column][low].as_py() for column in ("tar", "start", "size"))
        return TarMember(file, self.tars[tar], start, size)

    def check(self, file: str) -> None:
        """Raise a UserError if a tar is missing or has become shorter."""
        for path, size, _ in self._described():
            if not Path(path).is_file() or Path(path).stat().st_size < size:
                raise UserError(f"{path} is gone or cut, while it held pictures when planned")

    @functools.cached_property
    def _members(self) -> pa.Table:
        described = json.dumps(self._described()).encode()
        if self.index_file.is_file():
            table = pa.ipc.open_file(pa.memory_map(str(self.index_file))).read_all()
            if (table.schema.metadata or {}).get(_KEY) == described:
                return table
        table = _walk(self.tars).replace_schema_metadata({_KEY: described})
        if self.index_file.parent.is_dir():
            with (
                atomic_path(self.index_file) as temporary,
                pa.ipc.new_file(str(temporary), table.schema) as file,
            ):
                file.write_table(table)
        return table

    def _described(self) -> list[tuple[str, int, int]]:
        try:
            states = [(path, path.stat()) for path in self.tars]
        except FileNotFoundError as error:
            raise UserError(f"the tar of pictures {error.filename} does not exist") from None
        return [(str(path), state.st_size, state.st_mtime_ns) for path, state in states]


@dataclass(frozen=True)
class TarMember:
    """A file inside a tar; a size of -1 means that there is no such file."""

    name: str
    tar: Path
    start: int
    size: int

    def read_bytes(self) -> bytes:
        """Its content."""
        if self.size < 0:
            raise FileNotFoundError(self.name)
        with self.tar.open("rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        if len(content) != self.size:
            raise OSError(f"{self.tar} ends inside {self.name}")
        return content


def _walk(tars: tuple[Path, ...]) -> pa.Table:
    """name, tar, start, size of every picture, sorted by name; of equal names the first."""
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    for number, path in enumerate(tars):
        with _whole(path), path.open("rb") as file:
            for name, start, size in tar_members(file):
                if is_text(name):
                    names.append(name.removeprefix("./"))
                    places.append((number, start, size))
    order = np.argsort(np.array(names, dtype=object), kind="stable").tolist() if names else []
    order = [p for i, p in enumerate(order) if i == 0 or names[p] != names[order[i - 1]]]
    columns = {"name": pa.array([names[p] for p in order], pa.string())}
    for column, what in enumerate(("tar", "start", "size")):
        columns[what] = pa.array([places[p][column] for p in order], pa.int64())
    return pa.table(columns)


def unpack_tars(tars: Sequence[Path], wanted: Collection[str], folder: Path) -> None:
    """Unpack the named pictures of packed tars, each read once from start to end.

    A tar whose pictures were unpacked before is not read again; pictures that exist already are kept.

    Args:
        tars: .tar.gz or .tar files.
        wanted: paths, file names, or file names without extension.
        folder: target folder, made if it is missing; pictures keep the paths that they have in the tar.

    Raises:
        UserError: for a tar that is missing or damaged, a name that leads out of the folder, a full disk.
    """
    which = sha256_bytes("\0".join(sorted(wanted)).encode())[:12]
    try:
        for path in tars:
            if not path.is_file():
                raise UserError(f"the tar of pictures {path} does not exist")
            state = path.stat()
            done = folder / f".{path.name}-{state.st_size}-{state.st_mtime_ns}-{which}.unpacked"
            if not done.is_file():
                for name, content in _contents(path, wanted):
                    _place(folder, path, name, content)
                folder.mkdir(parents=True, exist_ok=True)
                done.touch()
                sync(folder)
    except OSError as error:
        raise UserError(
            f"unpacking into {folder} stopped ({error}); make room, then run the same command again"
        ) from None


def _contents(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, tuple[int, IO[bytes]]]]:
    with _whole(path), tarfile.open(path, "r|*") as tar:
        while member := tar.next():
            vars(tar)["members"].clear()  # it would remember them all
            name = member.name.removeprefix("./")
            file = name.rpartition("/")[2]
            if not (member.isfile() and is_text(name)):
                continue
            stem = file.rpartition(".")[0]
            if (
                name in wanted
                or file in wanted
                or (stem in wanted and is_picture_name(name, OTHER_EXTENSIONS))
            ):
                content = tar.extractfile(member)
                assert content is not None  # a regular file has one
                yield name, (member.size, content)


def _place(folder: Path, tar: Path, name: str, content: tuple[int, IO[bytes]]) -> None:
    target, (size, stream) = folder / name, content
    if ".." in target.parts or name.startswith("/"):
        raise UserError(f"{tar} has a picture called {name}, which leads out of its folder")
    if target.is_file() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    temporary.write_bytes(stream.read())
    temporary.replace(target)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn the errors of a missing or damaged tar into UserErrors."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"the tar of pictures {path} does not exist") from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is not a whole tar ({error}); fetch it again") from None
