"""Where picture files come from: a folder, tars, a web server, or anything that fsspec knows."""

import glob
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dataprep.pictures.decode import Readable, check_source
from dataprep.pictures.index import PictureIndex, index_paths, index_pictures
from dataprep.pictures.tar_store import PACKED, TarStore
from dataprep.remote import PasswordNeeded, Patience, read_remote, retried
from intarsia.errors import UserError

PICTURE_PATIENCE = Patience(tries=3, pause_s=0.5)
INDEX_FILE = ".pictures.arrow"  # places of the members of tars, in the shard folder


class PictureStore(Protocol):
    """The pictures of a data set; each worker opens its own."""

    def index(self) -> PictureIndex | None:
        """All names; None if the store cannot list them."""

    def place(self, file: str) -> Readable:
        """One picture, by its name in the index."""

    def check(self, file: str) -> None:
        """After a picture could not be read: does the store still exist? UserError if it does not."""


def open_store(images: str, folder: str) -> PictureStore:
    """The store of `--images`.

    Args:
        images: result of `locate`.
        folder: shard folder, in which the index of tars is kept.

    Raises:
        UserError: if it does not exist, or a package for its protocol is not installed.
    """
    if images.startswith(("http://", "https://")):
        return HttpStore(images)
    if is_uri(images):
        return _open_fsspec(images)
    paths = [Path(path) for path in images.split("\n")]
    if len(paths) == 1 and (paths[0].suffix != ".tar" or paths[0].is_dir()):
        return FolderStore(paths[0])
    return TarStore(tuple(paths), Path(folder) / INDEX_FILE)


def locate(images: str | Path) -> str:
    """`--images` with absolute paths and patterns filled in; several tars are on a line each.

    Raises:
        UserError: if a pattern matches nothing, or there are several paths that are not all tars.
    """
    if is_uri(str(images)):
        return str(images)
    found: list[str] = []
    for item in str(images).split("\n"):
        pattern = glob.has_magic(item) and not Path(item).exists()
        matches = sorted(glob.glob(item)) if pattern else [item]  # noqa: PTH207 - Path knows no absolute ones
        if not matches:
            raise UserError(f"--images {item}: no file has such a name")
        found += [str(Path(match).resolve()) for match in matches]
    for path in found:
        if not path.endswith((".tar", *PACKED)) and (len(found) > 1 or Path(path).is_file()):
            raise UserError(f"--images {path}: give one folder, or .tar and .tar.gz files")
    return "\n".join(found)


def packed_tars(images: str) -> list[Path]:
    """The tars of a located store, if at least one of them can only be read from start to end."""
    paths = [] if is_uri(images) else images.split("\n")
    return [Path(path) for path in paths] if any(path.endswith(PACKED) for path in paths) else []


def is_uri(images: str) -> bool:
    """Whether this is an address with a protocol."""
    return "://" in images


def describe_store(images: str) -> dict[str, Any]:
    """Enough to see without a walk that a located store is the one of the last time.

    Raises:
        UserError: if a path does not exist.
    """
    described: dict[str, Any] = {"path": images, "bytes": 0, "modified": 0}
    for path in [] if is_uri(images) else map(Path, images.split("\n")):
        if not path.exists():
            raise UserError(f"the folder of pictures {path} does not exist")
        status = path.stat()
        described["bytes"] += status.st_size if path.is_file() else 0
        described["modified"] = max(described["modified"], status.st_mtime_ns)
    return described


@dataclass(frozen=True)
class FolderStore:
    """A folder, flat or with sub-folders."""

    root: Path

    def index(self) -> PictureIndex:
        """All names."""
        return index_pictures(self.root)

    def place(self, file: str) -> Path:
        """One picture."""
        return self.root / file

    def check(self, file: str) -> None:
        """Raise a UserError if the folder is missing."""
        check_source(self.root, file)


@dataclass(frozen=True)
class _Remote:
    """A file that a function fetches."""

    name: str
    read_bytes: Callable[[], bytes]


@dataclass(frozen=True)
class HttpStore:
    """A folder of a web server, which has no list: names are those of the annotations."""

    address: str

    def index(self) -> None:
        """None: a server has no list."""

    def place(self, file: str) -> _Remote:
        """One picture."""
        url = f"{self.address.rstrip('/')}/{urllib.parse.quote(file)}"
        return _Remote(file, lambda: _download(url, PICTURE_PATIENCE))

    def check(self, file: str) -> None:
        """Raise a UserError if the server does not answer, or answers only with errors of its own."""
        try:
            _download(self.address, Patience(1, 0))
        except FileNotFoundError:
            return  # it answers, although not with a list
        except OSError as error:
            raise UserError(f"the pictures at {self.address} are out of reach ({error})") from None


def _download(url: str, patience: Patience) -> bytes:
    try:
        return b"".join(read_remote(url, patience))
    except PasswordNeeded:  # 403 may mean a single picture that is not there
        raise UserError(f"{url}: the server asks for a password; fetch the pictures into a folder") from None
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url}: {error}") from None
    except OSError as error:
        raise OSError(f"{url}: {error}") from None


@dataclass(frozen=True)
class FsspecStore:
    """A folder of any file system that fsspec opens."""

    system: Any
    root: str
    address: str

    def index(self) -> PictureIndex:
        """All names."""
        try:
            paths = self.system.find(self.root)
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own
            raise UserError(f"--images {self.address} cannot be listed ({error})") from None
        if not paths:
            raise UserError(f"--images {self.address}: nothing is there")
        start = len(self.root.rstrip("/")) + 1
        return index_paths(path[start:] for path in paths)

    def place(self, file: str) -> _Remote:
        """One picture."""
        return _Remote(file, lambda: retried(lambda: self._fetch(file), PICTURE_PATIENCE))

    def _fetch(self, file: str) -> bytes:
        try:
            return self.system.cat_file(f"{self.root.rstrip('/')}/{file}")
        except PermissionError as error:  # it was listed: the credentials are wrong, not the picture
            raise UserError(
                f"{self.address}: {file} may not be read ({error}); give other credentials, or leave it out "
                "with --exclude"
            ) from None
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - see index
            raise OSError(f"{file}: {type(error).__name__}: {error}") from None

    def check(self, file: str) -> None:
        """Raise a UserError if the folder cannot be listed any more."""
        folder = f"{self.root.rstrip('/')}/{file}".rpartition("/")[0]
        try:
            if self.system.ls(folder, detail=False, refresh=True):
                return
            what = "is empty"
        except Exception as error:  # noqa: BLE001 - see index
            what = f"cannot be listed ({error})"
        raise UserError(f"{self.address} {what} now, while it held pictures when planned")


def _open_fsspec(address: str) -> FsspecStore:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UserError(f"--images {address} cannot be opened: {error}") from None
    return FsspecStore(system, root, address)
