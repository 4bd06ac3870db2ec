"""`python -m sampling push`: a model folder or adapters to the Hugging Face Hub, with a card."""

import argparse
from pathlib import Path
from typing import Any

from intarsia.command_line import Commands
from intarsia.hub.options import add_push_options, send
from intarsia.model_folder import ADAPTERS, check_model_folder

_KOHYA = "lora_kohya.safetensors"


def add(commands: Commands) -> None:
    """Declare `push`."""
    parser = commands.add_parser(
        "push",
        help="send a model folder or adapters to the Hub",
        description="Send a model folder, or a folder of adapters (RUN/lora), to the Hugging Face Hub in one "
        "commit. Its README.md is the card; licence, lineage and metrics are added to the card's data. "
        f"Adapters are sent with diffusers' names ({ADAPTERS}), and with kohya's, which ComfyUI reads "
        f"({_KOHYA}).",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="model folder, or folder of adapters")
    add_push_options(parser)
    parser.add_argument(
        "--licence", required=True, metavar="ID", help="the Hub's id, such as creativeml-openrail-m, or other"
    )
    parser.add_argument("--base-model", metavar="OWNER/NAME", help="model that the weights began with")
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="OWNER/NAME", help="data set it was trained on"
    )
    parser.add_argument(
        "--report",
        action="append",
        default=[],
        type=Path,
        metavar="REPORT",
        help="report of `python -m evaluation`, whose numbers the card gets",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from intarsia.hub.transfer import files_of

    folder, adapters = arguments.folder, (arguments.folder / ADAPTERS).is_file()
    if not adapters:
        check_model_folder(folder)
    files: dict[str, Path | bytes] = dict(files_of(folder))
    if adapters:
        from safetensors.torch import save

        from intarsia.lora import kohya_state

        files[_KOHYA] = save(kohya_state(folder), metadata={"format": "pt"})
    message = f"{'Adapters' if adapters else 'Model'}, sent by intarsia"
    print(send(arguments, "model", files, _card(arguments, adapters), message))


def _card(arguments: argparse.Namespace, adapters: bool) -> str:
    """README.md of the folder with the data that the Hub shows."""
    from intarsia.hub.card import metrics_of, with_data

    path = arguments.folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else f"# {arguments.repo.rpartition('/')[2]}\n"
    data: dict[str, Any] = {
        "license": arguments.licence,
        "library_name": "diffusers",
        "pipeline_tag": "image-to-image",
        "base_model": arguments.base_model,
        "base_model_relation": arguments.base_model and ("adapter" if adapters else "finetune"),
        "datasets": arguments.dataset,
        "tags": ["intarsia", "inpainting", *(["lora"] if adapters else [])],
        "model-index": metrics_of(arguments.report, arguments.repo.rpartition("/")[2]),
    }
    return with_data(text, data)
