"""The line of edits: few places, one turn at a time, and everyone in it can be stopped."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from intarsia.errors import UserError

_STOPPED = "the edit was stopped"
_LOOK = 0.2  # seconds between two looks at whether a waiting edit was stopped


class Busy(UserError):
    """Too many edits are waiting."""


class Stopped(UserError):
    """An edit was stopped by its visitor, or because the visitor or the server is gone."""


@dataclass(eq=False)
class Waiting:
    """One visitor's edit in line.

    Attributes:
        stop: event that stops it.
        kind: edits of the same kind can share a turn; None shares with none.
        pictures: number of pictures that it makes.
        read: function that reads its requests, in the thread whose turn it is.
        report: function called as `report(done, total)` after every step; None for none.
        answer: its results, or the error that ended it.
        others: number of pictures of others that were made in the same call.
        is_answered: whether a turn of the line is over for it.
    """

    stop: threading.Event
    kind: Any = None
    pictures: int = 1
    read: Callable[[], list[Any]] = list
    report: Callable[[int, int], None] | None = None
    answer: list[Any] | Exception = field(default_factory=lambda: Stopped(_STOPPED))
    others: int = 0
    is_answered: bool = False

    def results(self) -> list[Any]:
        """Its results; raises the error that ended it."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class EditLine:
    """A line of edits; each has a place, and its turn comes in the order of `turn`."""

    def __init__(self, waiting: int) -> None:
        """`waiting`: places beside that of the edit that is made."""
        self.waiting = waiting
        self._places = threading.BoundedSemaphore(waiting + 1)
        self._changed = threading.Condition()
        self._waiting: deque[Waiting] = deque()
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
    def turn(self, waiting: Waiting, most: int = 1) -> Iterator[list[Waiting]]:
        """Wait until it is this edit's turn, and hold it.

        Args:
            waiting: the edit.
            most: pictures of edits that share a turn, at most.

        Yields:
            The edits that share this turn, this one first; none if another's turn answered this one.

        Raises:
            Stopped: if the edit is stopped before.
        """
        with self._changed:
            self._waiting.append(waiting)
        together: list[Waiting] = []
        try:
            with self._changed:
                while not waiting.is_answered and self._waiting[0] is not waiting:
                    self.check(waiting.stop)
                    self._changed.wait(_LOOK)
                self.check(waiting.stop)
                if not waiting.is_answered:
                    together = self._sharing(waiting, most)
            yield together
        finally:
            with self._changed:
                for one in together or [waiting]:
                    one.is_answered = True
                    if one in self._waiting:  # one that was stopped has left
                        self._waiting.remove(one)
                self._changed.notify_all()

    def _sharing(self, first: Waiting, most: int) -> list[Waiting]:
        """The edits in line that share the turn of the first, in order."""
        together, room = [first], most - first.pictures
        for one in self._waiting:
            if one is first or one.kind is None or one.kind != first.kind or one.stop.is_set():
                continue
            room -= one.pictures
            if room < 0:
                break
            together.append(one)
        return together

    def check(self, stop: threading.Event) -> None:
        """Raise `Stopped` if this edit or all edits were stopped."""
        if stop.is_set() or self._closed.is_set():
            raise Stopped(_STOPPED)


def make_together(line: EditLine, together: list[Waiting], make: Callable[..., list[Any]]) -> None:
    """Make what several edits ask in one call, and give each its `answer`.

    What one does wrong is its own error. One that was stopped hears of no further step, and the others go on;
    the call ends when all were stopped.

    Args:
        line: line of the edits.
        together: edits that share the turn.
        make: function of the requests of all and `on_step(done, total)`, which returns their results.
    """
    requests: list[tuple[Waiting, list[Any]]] = []
    for one in together:
        try:
            line.check(one.stop)
            requests.append((one, one.read()))
        except Exception as error:  # noqa: BLE001  # raised in the thread of that edit
            one.answer = error
    if requests:
        _make(line, requests, make)


def _make(line: EditLine, requests: list[tuple[Waiting, list[Any]]], make: Callable[..., list[Any]]) -> None:
    def on_step(done: int, total: int) -> None:
        going = [one for one, _ in requests if not one.stop.is_set()]
        line.check((going or [requests[0][0]])[0].stop)
        for one in going:
            if one.report:
                one.report(done, total)

    try:
        results = make([request for _, own in requests for request in own], on_step)
    except Exception as error:  # noqa: BLE001  # raised in the threads of the edits
        if len(requests) == 1 or isinstance(error, Stopped):
            for one, _ in requests:
                one.answer = type(error)(*error.args) if isinstance(error, Stopped) else error
        else:  # one of them causes it: make each by itself
            for single in requests:
                _make(line, [single], make)
        return
    for one, own in requests:
        one.answer, results = results[: len(own)], results[len(own) :]
        one.others = sum(len(others) for _, others in requests) - len(own)
