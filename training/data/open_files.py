"""Files held open by number, a bounded number of them; read once more where the system fails."""

import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from intarsia.errors import UserError, file_remedy

_T = TypeVar("_T")
U = TypeVar("U")
REMEDY = (
    "put it back, or delete it and run the same `python -m dataprep build`; then run the same command again"
)


class OpenFiles(Generic[_T]):
    """Files held open by number, each with what is known of its inside; a bounded number per process.

    Args:
        most: files open at a time; the one used longest ago is closed.
        opener: number -> descriptor, and what is known.
    """

    def __init__(self, most: int, opener: Callable[[int], tuple[int, _T]]) -> None:
        self.most = most
        self._opener = opener
        self._open: OrderedDict[int, tuple[int, _T]] = OrderedDict()
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens its own: a descriptor means something else there."""
        return {**self.__dict__, "_open": OrderedDict()}

    def get(self, number: int) -> tuple[int, _T]:
        """The file, opened where it is not."""
        if self._owner != os.getpid():  # forked: the parent's files are not ours to close
            self._open, self._owner = OrderedDict(), os.getpid()
        if number not in self._open:
            self._open[number] = self._opener(number)
            if len(self._open) > self.most:
                self.close(next(iter(self._open)))
        self._open.move_to_end(number)
        return self._open[number]

    def close(self, number: int) -> None:
        """Close one."""
        if self._owner == os.getpid() and number in self._open:
            with suppress(OSError):  # of a file server that has lost sight of it
                os.close(self._open.pop(number)[0])

    def read(self, number: int, place: str, action: Callable[[int, _T], U]) -> U:
        """The answer of `action` to the file; where the system fails, once more with the file opened anew.

        A file server that was restarted or failed over no longer knows the open file, but its name.

        Args:
            number: of the file.
            place: path or address, for the message.
            action: (descriptor, what is known) -> answer.

        Raises:
            UserError: where the system fails twice.
        """
        try:
            return action(*self.get(number))
        except OSError:
            self.close(number)
        try:
            return action(*self.get(number))
        except OSError as error:
            raise unreadable(place, error) from None

    def __len__(self) -> int:
        return len(self._open)


def unreadable(place: str, error: OSError) -> UserError:
    """The error for a file of the data that the system cannot read."""
    return UserError(f"{place} cannot be read ({error.strerror}); {file_remedy(error) or REMEDY}")
