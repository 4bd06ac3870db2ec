"""`python -m sampling pull`: a model folder or adapters from the Hugging Face Hub."""

import argparse
from pathlib import Path

from intarsia.command_line import Commands
from intarsia.model_folder import ADAPTERS, INDEX


def add(commands: Commands) -> None:
    """Declare `pull`."""
    parser = commands.add_parser(
        "pull",
        help="get a model folder or adapters from the Hub",
        description="Get a model folder, or adapters, from the Hugging Face Hub. The same "
        "command again continues.",
    )
    parser.add_argument("repo", metavar="OWNER/NAME", help="repository")
    parser.add_argument("out", type=Path, metavar="FOLDER", help="folder to make")
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit (default: the newest commit)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from intarsia.hub.transfer import pull_folder

    commit = pull_folder(arguments.repo, "model", arguments.out, (INDEX, ADAPTERS), arguments.revision)
    print(f"{arguments.out}: {arguments.repo} at {commit}")
