"""`python -m dataprep pull OWNER/NAME OUT`: a shard folder from the Hugging Face Hub."""

import argparse
from pathlib import Path

from intarsia.command_line import Commands


def add(commands: Commands) -> None:
    """Add `pull` to the command line."""
    parser = commands.add_parser(
        "pull",
        help="get a shard folder from the Hub",
        description="Get a shard folder from the Hugging Face Hub. The same command again continues.",
    )
    parser.add_argument("repo", metavar="OWNER/NAME", help="repository")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit (default: the newest commit)"
    )
    parser.set_defaults(run=_pull)


def _pull(options: argparse.Namespace) -> None:
    from dataprep.shards.manifest import SHARD_MANIFEST
    from intarsia.hub.transfer import pull_folder

    commit = pull_folder(options.repo, "dataset", options.out, (SHARD_MANIFEST,), options.revision)
    print(f"{options.out}: {options.repo} at {commit}")
    print(f"next: python -m dataprep verify {options.out}")
