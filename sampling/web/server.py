"""The server: the JSON door, the page, and the gate before both, on one address."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import gradio as gr
import gradio.processing_utils
import uvicorn
from fastapi import FastAPI
from gradio.utils import get_upload_folder
from PIL import Image
from starlette.types import ASGIApp, Receive, Scope, Send

from intarsia.errors import UserError
from sampling.web.api import add_api
from sampling.web.gate import BodyLimits, Gate
from sampling.web.keeping import forget, look_regularly
from sampling.web.line import Stops
from sampling.web.page import CSS, THEME, build_page
from sampling.web.service import Service
from sampling.web.sockets import PunctualProtocol
from sampling.web.visitors import Visitors


class Address(NamedTuple):
    """Where to listen, and who may ask."""

    host: str
    port: int
    visitors: Visitors


_HEARTBEAT = "/gradio_api/heartbeat"
UPLOAD_SECONDS = 3600.0  # age at which the page's copies of files go
_LAST_SECONDS = 8.0  # from a signal to the end of the process, however long a step is


class _Server(uvicorn.Server):
    """uvicorn's server, whose end does not wait for the edits."""

    def __init__(self, config: uvicorn.Config, leave: Callable[[], None]) -> None:
        super().__init__(config)
        self._leave = leave

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop the edits first: the event loop waits for their threads."""
        self._leave()
        super().handle_exit(sig, frame)


def serve(
    service: Service, place: Address, browse: Path | None, batch_size: int, tidy: Callable[[], None]
) -> None:
    """Answer until interrupted.

    Args:
        service: service that makes the edits.
        place: address, port and rules for visitors.
        browse: folder of pictures that the page offers.
        batch_size: edits of a request at the same time.
        tidy: function called before the process ends without waiting for a step that takes long.

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
    app = build_app(service, visitors, browse, batch_size)
    look_regularly(_forgetting(service, Path(get_upload_folder())))
    config = uvicorn.Config(
        app,
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
    _Server(config, lambda: _leave(service, tidy)).run(sockets=[listening])


def _forgetting(service: Service, uploads: Path) -> Callable[[], None]:
    """A function that deletes old files of visitors; those there now are the page's own examples."""
    own, limits = set(uploads.rglob("*")), service.limits

    def look() -> None:
        service.forget()
        forget([uploads], UPLOAD_SECONDS, limits.keep_mb << 20, own)

    return look


def _leave(service: Service, tidy: Callable[[], None]) -> None:
    """Stop all edits at their next step; one whose step takes longer ends with the process."""

    def end() -> None:
        tidy()
        os._exit(0)

    service.line.close()
    late = threading.Timer(_LAST_SECONDS, end)
    late.daemon = True
    late.start()


def build_app(service: Service, visitors: Visitors, browse: Path | None, batch_size: int) -> Gate:
    """The whole server as an ASGI app; arguments as in `serve` and `Address`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_api(app, service, batch_size)
    stops = Stops()
    page = build_page(service, browse, batch_size, stops)
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
    return Gate(_watched(app, stops), BodyLimits(each, each * (service.limits.waiting + 5)), visitors)


def _watched(app: ASGIApp, stops: Stops) -> ASGIApp:
    """`app` that stops a visitor's edits when their page, which holds a request open, is closed."""

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        finally:
            start, _, visitor = scope.get("path", "").rpartition("/")
            if start == _HEARTBEAT:
                stops.stop(visitor)

    return watched


async def _refuse_address(*_: Any, **__: Any) -> str:
    raise gr.Error("give a file, not an address", print_exception=False)
