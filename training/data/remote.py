"""Remote files, from start to end: taken up where an answer broke off, tried again with growing pauses."""

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from dataprep.pictures.stores import TIMEOUT_S
from intarsia.errors import UserError

TRIES = 6  # one after the other that bring nothing new
PAUSE_S = 1.0  # before the second; each further one waits twice as long: half a minute in all
PIECE_BYTES = 1 << 20
_LATER = (408, 416, 429)  # answers of 4xx that may be others soon; 416: the file is shorter than it should be


def read_remote(url: str, size: int | None = None) -> Iterator[bytes]:
    """The content of a remote file in pieces.

    Args:
        url: http, https, or any protocol that fsspec knows.
        size: bytes that there must be; None: what the server says.

    Raises:
        UserError: naming the address, where nothing is there or half a minute brought no more of it.
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
                        raise UserError(
                            f"{url} is longer than its {expected} bytes; put the right file there"
                        )
                    yield piece
        except FileNotFoundError as error:
            raise UserError(f"{url} is not there ({error}); put it back, or correct data.shards") from None
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own, none is lost
            problem = f"{type(error).__name__}: {error}"
        if not problem and (expected is None or done == expected):
            return
        failures = 1 if done > before else failures + 1
        if failures == TRIES:
            problem = problem or f"{done} of {expected} bytes came"
            raise UserError(
                f"{url} cannot be read ({problem}; {TRIES} tries); see to it, then run the same command again"
            )
        time.sleep(PAUSE_S * 2 ** (failures - 1))


@contextmanager
def _opened(url: str, start: int) -> Iterator[tuple[IO[bytes], int | None]]:
    """A remote file from byte `start` on, and the length of the whole where the server tells it."""
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
        kind = FileNotFoundError if 400 <= error.code < 500 and error.code not in _LATER else OSError
        raise kind(f"{error.code} {error.reason}") from None
    if start and answer.status != http.client.PARTIAL_CONTENT:  # a server without ranges: all of it again
        answer.read(start)
    return answer


def _length(answer: Any, start: int) -> int | None:
    told = answer.headers.get("Content-Length")
    whole = answer.status != http.client.PARTIAL_CONTENT
    return None if told is None else int(told) + (0 if whole else start)
