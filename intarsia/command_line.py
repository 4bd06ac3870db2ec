"""The argument parser that all command lines share."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

from intarsia.errors import EXIT_USAGE

_EPILOG = "Add --debug to any command to see the whole traceback of an error."


class Parser(argparse.ArgumentParser):
    """A parser without abbreviated options; its sub-commands use the same class by default.

    argparse accepts `--num` for `--num-images` or any other option with this beginning, and its meaning would
    change when options are added. It also prints the whole usage before an error, which hides the error.
    """

    def __init__(self, *, read: "ReadWords | None" = None, **own: Any) -> None:
        """Make a parser whose help ends with a line about --debug.

        Args:
            read: function that parses the arguments instead of argparse's default, such as `intermixed`.
            own: options of `argparse.ArgumentParser`.
        """
        options: dict[str, Any] = {"allow_abbrev": False, "epilog": _EPILOG} | own
        super().__init__(**options)
        self._read = read

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse with `read` if given; the top-level parser calls this method of its commands' parsers."""
        if self._read is None:
            return super().parse_known_args(args, namespace)
        read, self._read = self._read, None  # argparse's own methods call this method again
        try:
            return read(self, args), []
        finally:
            self._read = read

    def error(self, message: str) -> NoReturn:
        """Print one sentence with the error and the command for help, and exit with code 2."""
        self.exit(EXIT_USAGE, f"error: {message}; see {self.prog} --help\n")


ReadWords: TypeAlias = Callable[[Parser, Sequence[str]], argparse.Namespace]
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def intermixed(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parse arguments with options between positional ones, as in `CONFIG --gpu x a.b=c`."""
    return parser.parse_intermixed_args(words)
