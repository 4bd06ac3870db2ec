"""What every command line of ours has in common."""

import argparse
from typing import Any, TypeAlias

_EPILOG = "Add --debug to any command to see the whole traceback of an error."


class Parser(argparse.ArgumentParser):
    """A parser, and by default that of its commands too, whose options are written in full.

    argparse would take `--num` for `--num-images` or whatever else begins so, and another one tomorrow.
    """

    def __init__(self, **own: Any) -> None:
        """Options as of `argparse.ArgumentParser`; the help ends with how to see more of an error."""
        options: dict[str, Any] = {"allow_abbrev": False, "epilog": _EPILOG} | own
        super().__init__(**options)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
