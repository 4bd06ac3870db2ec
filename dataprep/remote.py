"""The one fetcher of remote files: taken up where an answer broke off, tried again with growing pauses."""

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from intarsia.errors import UserError

TIMEOUT_S = 60.0
PIECE_BYTES = 1 << 20
_LATER = (408, 416, 429)  # answers of 4xx that may be others soon; 416: the file is shorter than it should be


@dataclass(frozen=True)
class Patience:
    """How long a file is tried.

    Attributes:
        tries: attempts in a row that bring nothing new.
        pause_s: seconds before the second attempt; each further pause is twice as long.
    """

    tries: int
    pause_s: float


class PasswordNeeded(FileNotFoundError):
    """The server asks for a password: of one file as of all others."""


def read_remote(url: str, patience: Patience, size: int | None = None) -> Iterator[bytes]:
    """The content of a remote file in pieces.

    Args:
        url: address with http, https, or any protocol that fsspec knows.
        patience: attempts and pauses.
        size: bytes that the file must have; None for what the server says.

    Raises:
        FileNotFoundError: if the server says that nothing is there; at once, with its answer.
        ValueError: if there are more bytes than there must be.
        OSError: if the attempts are used up, with what went wrong in the last one.
        UserError: if fsspec cannot open such an address.
    """
    done, failures = 0, 0
    while True:
        before, expected, problem = done, size, ""
        try:
            with _opened(url, done) as (stream, length):
                expected = length if size is None else size
                while piece := stream.read(PIECE_BYTES):
                    done += len(piece)
                    if expected is not None and done > expected:
                        break  # the cache has room for no more
                    yield piece
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own, none is lost
            problem = str(error) if type(error) is OSError else f"{type(error).__name__}: {error}"
        if not problem and (expected is None or done == expected):
            return
        if expected is not None and done > expected:
            raise ValueError(f"longer than its {expected} bytes")
        failures = 1 if done > before else failures + 1
        if failures >= patience.tries:
            raise OSError(problem or f"{done} of {expected} bytes came")
        time.sleep(patience.pause_s * 2 ** (failures - 1))


def retried(fetch: Callable[[], bytes], patience: Patience) -> bytes:
    """What `fetch` returns, tried again after an OSError; a file that is not there is not tried again."""
    for attempt in range(patience.tries - 1):
        try:
            return fetch()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(patience.pause_s * 2**attempt)
    return fetch()


@contextmanager
def _opened(url: str, start: int) -> Iterator[tuple[IO[bytes], int | None]]:
    """A remote file from byte `start` on, and the length of the whole where the server gives it."""
    if url.startswith(("http://", "https://")):
        with _open_http(url, start) as answer:
            yield answer, _length(answer, start)
        return
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url} cannot be opened: {error}") from None
    with system.open(path, "rb") as stream:
        stream.seek(start)
        yield stream, stream.size


def _open_http(url: str, start: int) -> Any:
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(parts._replace(path=urllib.parse.quote(parts.path, safe="/%")).geturl())
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        kind: type[OSError] = OSError
        if 400 <= error.code < 500 and error.code not in _LATER:
            kind = PasswordNeeded if error.code == 401 else FileNotFoundError
        raise kind(f"{error.code} {error.reason}") from None
    if start and answer.status != http.client.PARTIAL_CONTENT:  # a server without ranges: all of it again
        answer.read(start)
    return answer


def _length(answer: Any, start: int) -> int | None:
    length = answer.headers.get("Content-Length")
    whole = answer.status != http.client.PARTIAL_CONTENT
    return None if length is None else int(length) + (0 if whole else start)
