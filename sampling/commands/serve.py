"""`serve`: options of the page and its JSON door."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import sys
from functools import partial
from pathlib import Path

from intarsia.command_line import Commands
from intarsia.errors import UsageError, UserError
from sampling.options import (
    add_machine_options,
    add_noised_option,
    add_style_option,
    machine_settings,
)
from sampling.painters.options import add_painter_options, check_painter
from sampling.settings import EditSettings
from sampling.upsampler.options import add_upsampler_option
from sampling.web.keeping import own_folder

_WHERE = "python -m sampling serve"
_TOKEN = r"[A-Za-z0-9._~-]{8,200}"  # what a header, a cookie and an address take as it is

# Accepted, because nothing would change: why.
_IDLE = {
    "disable-nsfw": "no safety checker is loaded",
    "enable-xformers": "attention is PyTorch's own, which needs as little memory",
    "local-files-only": "weights are complete, and no hub is ever contacted",
}
# Refused: what to give instead.
_INSTEAD = {
    "gui": "the page has no window of its own; leave it out and open the printed address in a browser",
    "sd-cpu-textencoder": "give --low-vram, which keeps every network off the GPU that is not in use",
}


def add(commands: Commands) -> None:
    """Declare `serve`."""
    parser = commands.add_parser(
        "serve",
        help="serve a page to paint masks in the browser, and a JSON endpoint",
        description="Serve a page to paint or upload a mask, choose an exemplar and edit the picture, and "
        "POST /api/edit and /api/invert (docs/web.md). It contacts no other host but that of --iopaint-url.",
    )
    files = parser.add_argument_group("files")
    add_painter_options(files)
    add_noised_option(files)
    add_upsampler_option(files)
    add_style_option(files)
    files.add_argument(
        "--input",
        type=Path,
        metavar="PATH",
        help="a folder whose pictures the page offers, or a picture that it begins with",
    )
    files.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="keep results, and their files below inputs/; by default both are deleted after an hour",
    )
    files.add_argument(
        "--disable-model-switch",
        action="store_true",
        help="offer one model only, whatever else its folder holds",
    )
    network = parser.add_argument_group("network")
    network.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default %(default)s: only this machine; 0.0.0.0: any machine that can "
        "reach it; see --token)",
    )
    network.add_argument(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="another name by which browsers reach this server, such as that of a proxy; repeatable",
    )
    network.add_argument(
        "--token",
        nargs="?",
        const="",
        metavar="TEXT",
        help="answer only who has this token, by the printed address or a header; without TEXT a new one",
    )
    network.add_argument("--port", type=int, default=7860, help="port (default %(default)s); 0 = a free one")
    _add_limits(parser)
    add_machine_options(parser)
    _add_other_flags(parser)
    parser.set_defaults(run=_run, batch_size=EditSettings().batch_size)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-megapixels",
        type=float,
        default=50.0,
        metavar="N",
        help="size limit of a picture (default %(default)g)",
    )
    limits.add_argument(
        "--max-upload-mb",
        type=int,
        default=64,
        metavar="N",
        help="size limit of a request (default %(default)s)",
    )
    limits.add_argument(
        "--max-kept-mb",
        type=int,
        default=1024,
        metavar="N",
        help="size limit of inputs and results without --output-dir; the oldest are deleted first (default "
        "%(default)s)",
    )
    limits.add_argument(
        "--max-images",
        type=int,
        default=8,
        metavar="N",
        help="limit of edits in a request (default %(default)s)",
    )
    limits.add_argument(
        "--max-waiting",
        type=int,
        default=8,
        metavar="N",
        help="limit of waiting requests; one is done at a time (default %(default)s)",
    )
    limits.add_argument(
        "--share-batch",
        type=int,
        default=1,
        metavar="N",
        help="number of pictures, at most, of waiting requests with equal settings that are painted in one "
        "batch (default %(default)s: each request by itself)",
    )


def _run(arguments: argparse.Namespace) -> None:
    machine_options = machine_settings(arguments, _WHERE)
    _check(arguments)
    # Before the libraries are imported: they read these once.
    os.environ["HF_HUB_OFFLINE"] = "1"
    with own_folder() as own:
        try:
            from sampling.web.server import Address, serve
        except ImportError as error:
            raise UserError(
                f"the page needs {error.name}; install it by: python -m pip install -e '.[web]'"
            ) from None
        from sampling.painters.painter import open_painter, painter_of
        from sampling.provenance import pattern
        from sampling.web.choices import fields_of
        from sampling.web.models import Models, offered_models
        from sampling.web.service import Limits, Service
        from sampling.web.visitors import visitors_of

        limits = Limits(
            arguments.max_megapixels,
            arguments.max_upload_mb,
            arguments.max_images,
            arguments.max_waiting,
            arguments.share_batch,
            keep_seconds=None if arguments.output_dir else 3600.0,
            keep_mb=arguments.max_kept_mb,
        )
        folder = (arguments.output_dir or own / "results").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        painter, model = arguments.painter, arguments.model
        shared = pattern(model, machine_options, painter=painter)
        paint, parts = open_painter(painter, model, machine_options), painter_of(painter).parts(model)
        service = Service(paint, shared, folder, limits, parts)
        folder_of_models = None if arguments.disable_model_switch else arguments.model_dir
        name, offered = offered_models(painter, model, folder_of_models)
        models = Models(service, fields_of(painter, model, parts), name, offered, machine_options)
        token = secrets.token_urlsafe(24) if arguments.token == "" else arguments.token or ""
        visitors = visitors_of(arguments.host, arguments.host_name, token)
        if visitors.addresses and not token:
            print(
                f"note: everybody who can reach {arguments.host} can use this server; --token admits only "
                "those who have the token",
                file=sys.stderr,
            )
        address = Address(arguments.host, arguments.port, visitors)
        tidy = partial(shutil.rmtree, own, ignore_errors=True)
        serve(service, address, arguments.input, arguments.batch_size, tidy, models)


def _check(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.port < 65536:
        raise UsageError(f"--port {arguments.port} must be between 0 and 65535")
    for name in ("max_megapixels", "max_upload_mb", "max_kept_mb", "max_images", "batch_size", "share_batch"):
        if getattr(arguments, name) <= 0:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(arguments, name):g} must be more than 0")
    if arguments.token and not re.fullmatch(_TOKEN, arguments.token):
        raise UsageError(
            "--token TEXT must be 8 to 200 letters, digits and . _ ~ -; without TEXT a good one is made"
        )
    for name in arguments.host_name:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise UsageError(f"--host-name {name} must be a name alone, without http://, port and path")
    if not arguments.host:
        raise UsageError("--host is empty; give an address, such as 127.0.0.1, or 0.0.0.0 for all")
    if arguments.output_dir is not None and arguments.output_dir.is_file():
        raise UsageError(f"--output-dir {arguments.output_dir} is a file; give a folder")
    if arguments.max_waiting < 0:
        raise UsageError(f"--max-waiting {arguments.max_waiting} must be 0 or more")
    if arguments.input is not None and not arguments.input.exists():
        raise UsageError(f"--input {arguments.input} is neither a folder nor a picture")
    _check_other_flags(arguments)
    check_painter(arguments)
    if arguments.share_batch > 1 and arguments.painter != "own" and arguments.model_dir is None:
        print(f"note: --share-batch has no effect: {arguments.painter} paints one at a time", file=sys.stderr)


def _add_other_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that are accepted or answered because other tools have them."""
    group = parser.add_argument_group("flags of lama-cleaner, see docs/web.md")
    group.add_argument(
        "--cpu-offload",
        dest="low_vram",
        action="store_const",
        const=True,
        default=argparse.SUPPRESS,
        help="the same as --low-vram",
    )
    for name, why in _IDLE.items():
        group.add_argument(f"--{name}", action="store_true", help=f"accepted, without effect: {why}")
    for name, instead in _INSTEAD.items():
        group.add_argument(f"--{name}", action="store_true", help=f"refused: {instead}")


def _check_other_flags(arguments: argparse.Namespace) -> None:
    """Note the flags that have no effect, and refuse those that have another name here."""
    for name, instead in _INSTEAD.items():
        if _given(arguments, name):
            raise UsageError(f"--{name}: {instead}")
    for name, why in _IDLE.items():
        if _given(arguments, name):
            print(f"note: --{name} has no effect: {why}", file=sys.stderr)


def _given(arguments: argparse.Namespace, name: str) -> bool:
    return bool(getattr(arguments, name.replace("-", "_")))
