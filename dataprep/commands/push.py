"""`python -m dataprep push OUT OWNER/NAME`: a shard folder to the Hugging Face Hub, with a data set card."""

import argparse
from pathlib import Path
from typing import Any

from intarsia.command_line import Commands


def add(commands: Commands) -> None:
    """Add `push` to the command line."""
    parser = commands.add_parser(
        "push",
        help="send a shard folder to the Hub",
        description="Send a finished shard folder to the Hugging Face Hub as a data set, in one commit. Its "
        "README.md is the card; the card's data name the licence and the tars, which the data viewer shows.",
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="shard folder")
    parser.add_argument("repo", metavar="OWNER/NAME", help="repository; it is made if it does not exist")
    parser.add_argument(
        "--licence",
        required=True,
        metavar="ID",
        help="the Hub's id of the pictures' licence, such as cc-by-2.0",
    )
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--dry-run", action="store_true", help="print the card and the files; send nothing")
    parser.set_defaults(run=_push)


def _push(options: argparse.Namespace) -> None:
    from dataprep.shards.manifest import CARD, read_shard_manifest
    from intarsia.hub.card import with_data
    from intarsia.hub.transfer import files_of, push_files

    manifest = read_shard_manifest(options.folder)
    card = with_data((options.folder / CARD).read_text(encoding="utf-8"), _data(manifest, options.licence))
    files: dict[str, Path | bytes] = {**files_of(options.folder), CARD: card.encode()}
    if options.dry_run:
        print(card, *files, sep="\n")
        return
    message = f"{manifest['kept']['samples']:,} samples, fingerprint {manifest['fingerprint'][:12]}"
    print(push_files(options.repo, "dataset", files, message, options.private))


def _data(manifest: dict[str, Any], licence: str) -> dict[str, Any]:
    """The card's data; `configs` has the data viewer read the tars as a webdataset."""
    from intarsia.hub.card import size_category

    files = [{"split": manifest["config"]["split"], "path": "*.tar"}]
    return {
        "license": licence,
        "task_categories": ["image-to-image"],
        "size_categories": [size_category(manifest["kept"]["samples"])],
        "tags": ["intarsia", "webdataset", "inpainting"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
