"""The line of edits: few places, one turn at a time, and everyone in it can be stopped."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from intarsia.errors import UserError

_LOOK = 0.2  # seconds between two looks at whether a waiting edit was stopped


class Busy(UserError):
    """Too many edits are waiting."""


class Stopped(UserError):
    """An edit was stopped by its visitor, or because the visitor or the server is gone."""


class EditLine:
    """A line of edits; each has a place, and its turn comes in the order of `turn`."""

    def __init__(self, waiting: int) -> None:
        """`waiting`: places beside that of the edit that is made."""
        self.waiting = waiting
        self._places = threading.BoundedSemaphore(waiting + 1)
        self._changed = threading.Condition()
        self._tickets: deque[object] = deque()
        self._closed = threading.Event()

    def close(self) -> None:
        """Stop all edits, at their next step; a signal's handler may call this."""
        self._closed.set()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place; the work of a request is done inside.

        Raises:
            Busy: if all places are taken.
        """
        if not self._places.acquire(blocking=False):
            raise Busy(f"{self.waiting} edits are waiting already; try again in a minute")
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def turn(self, stop: threading.Event) -> Iterator[None]:
        """Wait until it is this edit's turn, and hold it.

        Raises:
            Stopped: if the edit is stopped before.
        """
        ticket = object()
        with self._changed:
            self._tickets.append(ticket)
        try:
            with self._changed:
                while self._tickets[0] is not ticket:
                    self.check(stop)
                    self._changed.wait(_LOOK)
            self.check(stop)
            yield
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def check(self, stop: threading.Event) -> None:
        """Raise `Stopped` if this edit or all edits were stopped."""
        if stop.is_set() or self._closed.is_set():
            raise Stopped("the edit was stopped")
