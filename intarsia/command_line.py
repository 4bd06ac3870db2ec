"""What every command line of ours has in common."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

from intarsia.errors import EXIT_USAGE

_EPILOG = "Add --debug to any command to see the whole traceback of an error."


class Parser(argparse.ArgumentParser):
    """A parser, and by default that of its commands too, whose options are written in full.

    argparse would take `--num` for `--num-images` or whatever else begins so, and another one tomorrow; and
    would hide what is wrong below all that is possible.
    """

    def __init__(self, *, read: "ReadWords | None" = None, **own: Any) -> None:
        """Options as of `argparse.ArgumentParser`; the help ends with how to see more of an error.

        Args:
            read: another way to parse the words of this parser, such as `intermixed`.
            own: options of `argparse.ArgumentParser`.
        """
        options: dict[str, Any] = {"allow_abbrev": False, "epilog": _EPILOG} | own
        super().__init__(**options)
        self._read = read

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse by `read` where there is one; the door calls this method of its commands' parsers."""
        if self._read is None:
            return super().parse_known_args(args, namespace)
        read, self._read = self._read, None  # argparse's own ways go through this method, too
        try:
            return read(self, args), []
        finally:
            self._read = read

    def error(self, message: str) -> NoReturn:
        """Say in one sentence what is wrong and where to look, and exit with 2."""
        self.exit(EXIT_USAGE, f"error: {message}; see {self.prog} --help\n")


ReadWords: TypeAlias = Callable[[Parser, Sequence[str]], argparse.Namespace]
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def intermixed(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parse words in which options may stand between positional arguments, as in `CONFIG --gpu x a.b=c`."""
    return parser.parse_intermixed_args(words)
