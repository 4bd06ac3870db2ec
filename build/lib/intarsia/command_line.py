"""What every command line of ours has in common."""

import argparse
from typing import Any, NoReturn, TypeAlias

from intarsia.errors import EXIT_USAGE

_EPILOG = "Add --debug to any command to see the whole traceback of an error."


class Parser(argparse.ArgumentParser):
    """A parser, and by default that of its commands too, whose options are written in full.

    argparse would take `--num` for `--num-images` or whatever else begins so, and another one tomorrow; and
    would hide what is wrong below all that is possible.
    """

    def __init__(self, **own: Any) -> None:
        """Options as of `argparse.ArgumentParser`; the help ends with how to see more of an error."""
        options: dict[str, Any] = {"allow_abbrev": False, "epilog": _EPILOG} | own
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        """Say in one sentence what is wrong and where to look, and exit with 2."""
        self.exit(EXIT_USAGE, f"error: {message}; see {self.prog} --help\n")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
