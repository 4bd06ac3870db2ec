"""`python -m sampling pull`: a model folder or adapters from the Hugging Face Hub."""

import argparse

from intarsia.command_line import Commands
from intarsia.hub.options import add_pull_options, receive
from intarsia.model_folder import ADAPTERS, INDEX


def add(commands: Commands) -> None:
    """Declare `pull`."""
    parser = commands.add_parser(
        "pull",
        help="get a model folder or adapters from the Hub",
        description="Get a model folder, or adapters, from the Hugging Face Hub. The same "
        "command again continues.",
    )
    add_pull_options(parser, "FOLDER")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    print(receive(arguments, "model", (INDEX, ADAPTERS)))
