"""Remote shards and manifests: how long a file is tried, and what a run says where it cannot be had."""

from collections.abc import Iterator

from dataprep.remote import Patience, read_remote
from intarsia.errors import UserError

SHARD_PATIENCE = Patience(tries=6, pause_s=1.0)  # half a minute in all


def read_shard_file(url: str, size: int | None = None) -> Iterator[bytes]:
    """The content of a remote file in pieces.

    Args:
        url: address with http, https, or any protocol that fsspec knows.
        size: bytes that the file must have; None for what the server says.

    Raises:
        UserError: with the address, if there is no file, or no more of it arrived in half a minute.
    """
    try:
        yield from read_remote(url, SHARD_PATIENCE, size)
    except FileNotFoundError as error:
        raise UserError(f"{url} is not there ({error}); put it back, or correct data.shards") from None
    except ValueError as error:
        raise UserError(f"{url} is {error}; put the right file there") from None
    except OSError as error:
        tries = SHARD_PATIENCE.tries
        raise UserError(
            f"{url} cannot be read ({error}; {tries} tries); see to it, then run the same command again"
        ) from None
