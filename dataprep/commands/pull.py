"""`python -m dataprep pull OWNER/NAME OUT`: a shard folder from the Hugging Face Hub."""

import argparse

from intarsia.command_line import Commands
from intarsia.hub.options import add_pull_options, receive


def add(commands: Commands) -> None:
    """Add `pull` to the command line."""
    parser = commands.add_parser(
        "pull",
        help="get a shard folder from the Hub",
        description="Get a shard folder from the Hugging Face Hub. The same command again continues.",
    )
    add_pull_options(parser, "OUT")
    parser.set_defaults(run=_pull)


def _pull(options: argparse.Namespace) -> None:
    from dataprep.shards.manifest import SHARD_MANIFEST

    print(receive(options, "dataset", (SHARD_MANIFEST,)))
    print(f"next: python -m dataprep verify {options.out}")
