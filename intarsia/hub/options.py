"""The options of the commands that send folders to the Hub, and that get them."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from intarsia.hub.transfer import RepoType, pull_folder, push_files


def add_push_options(parser: argparse.ArgumentParser) -> None:
    """Add the repository to send to, and what `send` looks at."""
    parser.add_argument("repo", metavar="OWNER/NAME", help="repository; it is made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--dry-run", action="store_true", help="print the card and the files; send nothing")


def send(
    arguments: argparse.Namespace,
    repo_type: RepoType,
    files: Mapping[str, Path | bytes],
    card: str,
    message: str,
) -> str:
    """Send files with their card; the commit's address, or with --dry-run what would be sent.

    Raises as `push_files`.

    Args:
        arguments: those of `add_push_options`.
        repo_type: kind of repository.
        files: path in the repository -> file, or its content.
        card: README.md.
        message: first line of the commit.
    """
    files = {**files, "README.md": card.encode()}
    if arguments.dry_run:
        return "\n".join([card, *files])
    return push_files(arguments.repo, repo_type, files, message, arguments.private)


def add_pull_options(parser: argparse.ArgumentParser, metavar: str) -> None:
    """Add what `receive` looks at; `metavar`: word of the folder in the help."""
    parser.add_argument("repo", metavar="OWNER/NAME", help="repository")
    parser.add_argument("out", type=Path, metavar=metavar, help="folder to make")
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit (default: the newest commit)"
    )


def receive(arguments: argparse.Namespace, repo_type: RepoType, markers: tuple[str, ...]) -> str:
    """Get a folder and say which commit it is; arguments and errors as `pull_folder`."""
    commit = pull_folder(arguments.repo, repo_type, arguments.out, markers, arguments.revision)
    return f"{arguments.out}: {arguments.repo} at {commit}"
