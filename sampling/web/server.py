"""The server: the JSON door, the page, and the gate before both, on one address."""

import signal
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import gradio.processing_utils
import uvicorn
from fastapi import FastAPI
from PIL import Image

from intarsia.errors import UserError
from sampling.web.api import add_api
from sampling.web.gate import BodyLimits, Gate
from sampling.web.page import CSS, THEME, build_page
from sampling.web.service import Service
from sampling.web.sockets import PunctualProtocol
from sampling.web.visitors import Visitors


class Address(NamedTuple):
    """Where to listen, and who may ask."""

    host: str
    port: int
    visitors: Visitors


def serve(service: Service, place: Address, browse: Path | None, batch_size: int) -> None:
    """Answer until interrupted.

    Args:
        service: service that makes the edits.
        place: address, port and rules for visitors.
        browse: folder of pictures that the page offers.
        batch_size: edits of a request at the same time.

    Raises:
        UserError: if the address is not available.
    """
    host, port, visitors = place
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); take another --port, or 0 for a "
            "free one"
        ) from None
    # All decoding in this process stops at the limit: Pillow refuses at twice this number.
    Image.MAX_IMAGE_PIXELS = int(service.limits.megapixels * 1e6 / 2) + 1
    config = uvicorn.Config(
        build_app(service, visitors, browse, batch_size),
        http=PunctualProtocol,
        log_level="warning",
        server_header=False,
        limit_concurrency=200,  # connections; one more gets a 503
        timeout_graceful_shutdown=3,
    )
    shown = f"[{host}]" if ":" in host else host
    secret = f"?token={visitors.token}" if visitors.token else ""
    sys.stderr.write(f"ready on http://{shown}:{listening.getsockname()[1]}/{secret}  (Ctrl-C ends it)\n")
    sys.stderr.flush()
    # uvicorn raises the signal again once it has closed: then by an exit that lets the caller tidy up.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[listening])


def build_app(service: Service, visitors: Visitors, browse: Path | None, batch_size: int) -> Gate:
    """The whole server as an ASGI app; arguments as in `serve` and `Address`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_api(app, service, batch_size)
    page = build_page(service, browse, batch_size)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        max_file_size=service.limits.upload_mb << 20,
        theme=THEME,
        css=CSS,
    )
    # A mounted page was never launched; gradio would then accept any path of this machine as an upload.
    page.has_launched = True
    gradio.processing_utils.async_ssrf_protected_download = _refuse_address
    each = service.limits.upload_mb << 20
    # Those that wait keep theirs in memory; a few more can come in meanwhile.
    return Gate(app, BodyLimits(each, each * (service.limits.waiting + 5)), visitors)


async def _refuse_address(*_: Any, **__: Any) -> str:
    raise gr.Error("give a file, not an address", print_exception=False)
