"""`python -m intarsia PACKAGE ...`, or `intarsia PACKAGE ...`: our packages, not others with the same names.

In a checkout the packages lie beside this one, in an installed copy in a folder of their own; no other code
has to know. They are known here by name only, because each of them imports this one.
"""

import argparse
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from functools import partial

from intarsia.command_line import Parser
from intarsia.errors import run_command
from intarsia.files import ROOT

_PACKAGES = {
    "dataprep": "boxes and pictures to shards",
    "training": "train a model, or continue a run",
    "sampling": "edit pictures with a model",
    "evaluation": "score edits",
    "slurm": "jobs on a cluster, and checks of this machine",
}
_DESCRIPTION = """`intarsia PACKAGE ...` is `python -m PACKAGE ...` of a checkout, in any folder.
With several ranks:
torchrun --nproc-per-node 8 -m intarsia training CONFIG.yaml ..."""


def run_package(name: str, argv: Sequence[str] | None = None) -> int:
    """Run a package's command line with our packages first, in this process and in those that it starts.

    Args:
        name: package name, a key of the table above.
        argv: arguments without the program's name; None = `sys.argv[1:]`.

    Returns:
        The exit code.
    """
    root = str(ROOT)
    sys.path[:] = [root, *(entry for entry in sys.path if entry != root)]
    inherited = [
        entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", root)
    ]
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *inherited])
    module = f"{name}.__main__"
    # Its first imports may lack the libraries of an extra.
    if code := run_command(lambda _: _import(module), argv):
        return code
    return sys.modules[module].main(argv)


def _import(module: str) -> None:
    importlib.import_module(module)


dataprep, training, sampling, evaluation, slurm = (partial(run_package, name) for name in _PACKAGES)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in _PACKAGES:  # all other words are the package's own
        return run_package(words[0], words[1:])
    return run_command(_run, words)


def _run(argv: Sequence[str]) -> None:
    parser = Parser(
        prog="intarsia", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"intarsia {_version()}")
    commands = parser.add_subparsers(required=True, metavar="PACKAGE")
    for name, summary in _PACKAGES.items():
        commands.add_parser(name, help=summary, add_help=False)
    path = commands.add_parser(
        "path", help="print the folder of packages, configs, examples and Slurm scripts"
    )
    path.set_defaults(run=lambda _: print(ROOT))
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


def _version() -> str:
    try:
        return importlib.metadata.version("intarsia")
    except importlib.metadata.PackageNotFoundError:
        return "of a checkout that is not installed"


if __name__ == "__main__":
    sys.exit(main())
