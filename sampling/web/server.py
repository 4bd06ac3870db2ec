"""The server: the JSON door, the page, and the gate before both, on one address."""

import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from intarsia.errors import UserError
from sampling.web.api import add_api
from sampling.web.choices import Folder, ModelFields
from sampling.web.gate import BodyLimits, Gate, PunctualProtocol
from sampling.web.keeping import look_regularly
from sampling.web.models import Models
from sampling.web.page import Page, add_page
from sampling.web.service import Service
from sampling.web.visitors import Visitors


class Address(NamedTuple):
    """Where to listen, and who may ask."""

    host: str
    port: int
    visitors: Visitors


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
    service: Service,
    place: Address,
    browse: Path | None,
    batch_size: int,
    tidy: Callable[[], None],
    models: Models | None = None,
) -> None:
    """Answer until interrupted.

    Args:
        service: service that makes the edits.
        place: address, port and rules for visitors.
        browse: folder of pictures that the page offers.
        batch_size: edits of a request at the same time.
        tidy: function called before the process ends, without a wait for a step that takes long.
        models: models to choose from, `service`'s the first; None for this one alone.

    Raises:
        UserError: if the address is not available.
    """
    host, port, visitors = place
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        number = error.errno or 0
        if number < 0 or number == errno.EADDRNOTAVAIL:  # below 0 are those of names that are not found
            raise UserError(f"--host {host} is not an address of this machine; give one that is") from None
        reason = os.strerror(number) if number else str(error)
        raise UserError(
            f"cannot listen on {host}:{port} ({reason}); take another --port, or 0 for a free one"
        ) from None
    # All decoding in this process stops at the limit: Pillow refuses at twice this number.
    Image.MAX_IMAGE_PIXELS = int(service.limits.megapixels * 1e6 / 2) + 1
    app = build_app(service, visitors, browse, batch_size, models=models)
    look_regularly(service.forget)
    config = uvicorn.Config(
        app,
        http=PunctualProtocol,
        log_level="warning",
        server_header=False,
        limit_concurrency=200,  # connections; one more gets a 503
        timeout_graceful_shutdown=3,
    )
    # uvicorn raises the signal again once it has closed. Python would then take the libraries apart, which
    # costs more than a second of CPU time, and no timer would end it any more.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _end(tidy))
    shown = f"[{host}]" if ":" in host else host
    secret = f"?token={visitors.token}" if visitors.token else ""
    sys.stderr.write(f"ready on http://{shown}:{listening.getsockname()[1]}/{secret}  (Ctrl-C ends it)\n")
    sys.stderr.flush()
    _Server(config, lambda: _leave(service, tidy)).run(sockets=[listening])


def _leave(service: Service, tidy: Callable[[], None]) -> None:
    """Stop all edits at their next step; one whose step takes longer ends with the process."""
    service.line.close()
    late = threading.Timer(_LAST_SECONDS, _end, [tidy])
    late.daemon = True
    late.start()


def _end(tidy: Callable[[], None]) -> NoReturn:
    """End the process at once."""
    tidy()
    sys.stderr.flush()
    os._exit(0)


def build_app(
    service: Service,
    visitors: Visitors,
    browse: Path | None,
    batch_size: int,
    fields: ModelFields | None = None,
    models: Models | None = None,
) -> Gate:
    """The whole server as an ASGI app; arguments as in `serve`, `Address` and `Models`."""
    app = Starlette(exception_handlers={404: _nothing_there, 405: _nothing_there})
    models = models or Models(service, fields)
    add_api(app, models, batch_size)
    add_page(app, Page(models, Folder(browse) if browse else None))
    each = service.limits.upload_mb << 20
    # Those that wait keep theirs in memory; a few more can come in meanwhile.
    return Gate(app, BodyLimits(each, each * (service.limits.waiting + 5)), visitors)


async def _nothing_there(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "there is no such page"}, 404)
