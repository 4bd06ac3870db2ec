"""`python -m dataprep push OUT OWNER/NAME`: a shard folder to the Hugging Face Hub, with a data set card."""

import argparse
from pathlib import Path
from typing import Any

from intarsia.command_line import Commands
from intarsia.hub.options import add_push_options, send


def add(commands: Commands) -> None:
    """Add `push` to the command line."""
    parser = commands.add_parser(
        "push",
        help="send a shard folder to the Hub",
        description="Send a finished shard folder to the Hugging Face Hub as a data set, in one commit. Its "
        "README.md is the card; the card's data name the licence and the tars, which the data viewer shows.",
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="shard folder")
    add_push_options(parser)
    parser.add_argument(
        "--licence",
        required=True,
        metavar="ID",
        help="the Hub's id of the pictures' licence, such as cc-by-2.0",
    )
    parser.set_defaults(run=_push)


def _push(options: argparse.Namespace) -> None:
    from dataprep.shards.manifest import CARD, read_shard_manifest
    from intarsia.hub.card import with_data
    from intarsia.hub.transfer import files_of

    manifest = read_shard_manifest(options.folder)
    card = with_data((options.folder / CARD).read_text(encoding="utf-8"), _data(manifest, options.licence))
    message = f"{manifest['kept']['samples']:,} samples, fingerprint {manifest['fingerprint'][:12]}"
    print(send(options, "dataset", files_of(options.folder), card, message))


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
