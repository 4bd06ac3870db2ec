"""A large JSON object read piece by piece: the elements of its lists come one at a time."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from intarsia.errors import UserError

EMPTY = object()
_CHUNK = 1 << 22  # characters read at a time
_NEAR_END = 16  # characters from the end where an error may be that of a text cut in two
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODE = json.JSONDecoder().raw_decode


def stream_object(path: Path) -> Iterator[tuple[str, Any]]:
    """The members of the JSON object in a file: (name, value), and for a list (name, element) of each.

    An empty list gives (name, EMPTY). One element at a time is in memory, and some megabytes of text.

    Raises:
        UserError: if the file is not an object in JSON, with the line.
    """
    with path.open(encoding="utf-8-sig") as file:
        text = _Text(path, file)
        try:
            text.expect("{")
            more = text.peek() != "}"
            if not more:
                text.expect("}")
            while more:
                name = text.value()
                if not isinstance(name, str):
                    raise text.error("a name in double quotes is expected")
                text.expect(":")
                if text.peek() == "[":
                    for element in text.elements():
                        yield name, element
                else:
                    yield name, text.value()
                more = text.peek() == ","
                text.expect("," if more else "}")
            if text.peek():
                raise text.error("there is more text after its end")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not valid JSON: it is not UTF-8 text ({error.reason})") from None


class _Text:
    """The part of the file that is in memory, and the place up to which it was read."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.text, self.place = "", 0
        self.lines = 1  # of the file up to the start of `text`
        self.whole = False  # whether the end of the file is in memory

    def peek(self) -> str:
        """The next character that is not a space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.place)
            self.place = match.end() if match else self.place
            if self.place < len(self.text) or not self.more():
                return self.text[self.place : self.place + 1]

    def expect(self, letter: str) -> None:
        """Read this character."""
        found = self.peek()
        if found != letter:
            raise self.error(f"{letter!r} is expected, not {found!r}" if found else "it ends too early")
        self.place += 1

    def elements(self) -> Iterator[Any]:
        """Read a list, element by element."""
        self.expect("[")
        more = self.peek() != "]"
        if not more:
            self.place += 1
            yield EMPTY
        while more:
            yield self.value()
            more = self.peek() == ","
            self.expect("," if more else "]")

    def value(self) -> Any:
        """Read any value."""
        self.peek()
        while True:
            try:
                value, end = _DECODE(self.text, self.place)
            except json.JSONDecodeError as error:
                # A text cut in two has its error at its end; a string without an end has it at its start.
                cut = error.pos > len(self.text) - _NEAR_END or error.msg.startswith("Unterminated string")
                if not cut or not self.more():
                    raise self.error(error.msg, error.pos) from None
                continue
            except RecursionError:
                raise self.error("it is nested too deeply") from None
            if end < len(self.text) - _NEAR_END or not self.more():  # a number may be cut in two
                self.place = end
                return value

    def more(self) -> bool:
        """Read on, at least as much as is left over; False at the end of the file."""
        piece = "" if self.whole else self.file.read(max(_CHUNK, len(self.text) - self.place))
        self.whole = not piece
        if piece:
            self.lines += self.text.count("\n", 0, self.place)
            self.text, self.place = self.text[self.place :] + piece, 0
        return bool(piece)

    def error(self, what: str, place: int | None = None) -> UserError:
        """A UserError that says what is wrong, with the line."""
        line = self.lines + self.text.count("\n", 0, self.place if place is None else place)
        return UserError(f"{self.path}, line {line}: not valid JSON: {what}; is the file whole?")
