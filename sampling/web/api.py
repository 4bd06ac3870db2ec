"""The JSON door: POST /api/edit and /api/invert. Whatever is wrong is a 4xx with {"error": one sentence}."""

from __future__ import annotations

import asyncio
import base64
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from intarsia.architecture import MAPS
from intarsia.config import build_config
from intarsia.errors import UserError
from sampling.denoise.sampler import OnStep
from sampling.jobs import COMPUTED_OF, FILES
from sampling.settings import EditSettings, ExemplarBackground
from sampling.told import check_outline, check_scales, check_told
from sampling.web.bodies import decoded, kept, object_of
from sampling.web.inversions import make_inversion, read_order
from sampling.web.line import Busy, Stopped
from sampling.web.models import Models
from sampling.web.progress import answered
from sampling.web.service import Made, Order, Service, TooLarge

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_LATER = {"Retry-After": "60"}
_LONGEST = 500  # characters of an error: it may quote what was sent

# What is done in the line's turn, with what stops it and what hears of its steps: its answer.
Work = Callable[[threading.Event, OnStep | None], dict[str, Any]]
Maker = Callable[[bytes], Work]  # reads and checks a body; what it raises is the body's fault

log = logging.getLogger(__name__)


class EditBody(EditSettings):
    """The body of POST /api/edit: pictures in base64 (a data: URL will do), a prompt, and how to edit.

    Each structure map is "picture", "exemplar" or a picture.
    """

    image: str
    mask: str
    exemplar: str | None = None
    exemplar_mask: str | None = None
    prompt: str = ""
    seed: int = Field(default=0, ge=0, lt=2**62)
    num_images: int = Field(default=1, ge=1)
    invert_mask: bool = False
    exemplar_background: ExemplarBackground = "crop"
    structure: dict[str, str] = Field(default_factory=dict)


def add_api(app: Starlette, served: Service | Models, batch_size: int) -> None:
    """Let `app` answer below /api/.

    Args:
        app: the server's app.
        served: one service, or several to choose from by the query's `model`.
        batch_size: edits at the same time; the server's affair, not the visitor's.
    """
    models = served if isinstance(served, Models) else Models(served)

    async def answer(request: Request) -> Response:
        try:
            service, _ = await run_in_threadpool(models.of, request.query_params.get("model", ""))
        except UserError as error:
            return _error(400, str(error))
        makers: dict[str, Maker] = {"edit": partial(_edit, service, batch_size)}
        if service.inverting is not None:
            makers["invert"] = partial(_invert, service)
        known = " and ".join(f"/api/{name}" for name in makers)
        make = makers.get(request.path_params["rest"])
        if make is None:
            return _error(404, f"there is only POST {known} here")
        if request.method != "POST":
            return _error(405, f"{request.method} is not for {request.url.path}; send a POST", Allow="POST")
        # Another site's page cannot send this type without a preflight request, which gets no answer.
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _error(415, "the body must be JSON; send Content-Type: application/json")
        # First the body: who sends only its beginning takes no place in the line.
        body = await request.body()

        async def made(on_step: OnStep | None) -> JSONResponse:
            with service.line.place(), _stop_of(request) as stop:
                return await run_in_threadpool(_made, make, body, stop, on_step)

        try:
            return await answered(request, made)
        except Busy as error:
            return _error(503, str(error), **_LATER)

    app.add_route("/api/{rest:path}", answer, methods=_METHODS)


@contextmanager
def _stop_of(request: Request) -> Iterator[threading.Event]:
    """An event that is set once the client is gone; the request's body has been read."""
    stop = threading.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        stop.set()

    watcher = asyncio.get_running_loop().create_task(watch())
    try:
        yield stop
    finally:
        watcher.cancel()


def _made(make: Maker, body: bytes, stop: threading.Event, on_step: OnStep | None) -> JSONResponse:
    status = 400
    try:
        work = make(body)
        status = 422
        return JSONResponse(work(stop, on_step))
    except Stopped as error:
        return _error(503, str(error))
    except Busy as error:
        return _error(503, str(error), **_LATER)
    except TooLarge as error:
        return _error(413, str(error))
    except UserError as error:
        return _error(status, str(error))
    except Exception:
        log.exception("an edit failed")
        return _error(500, "the edit failed; the server's log says why")


def _edit(service: Service, batch_size: int, body: bytes) -> Work:
    order = _order(service, body, batch_size)

    def work(stop: threading.Event, on_step: OnStep | None) -> dict[str, Any]:
        made = service.edit(order, on_step, stop)
        seconds = {part: round(value, 3) for part, value in made[0].result.seconds.items()}
        return {"images": [_told(one) for one in made], "seconds": seconds}

    return work


def _invert(service: Service, body: bytes) -> Work:
    return partial(make_inversion, service, read_order(service, body))


def _order(service: Service, body: bytes, batch_size: int) -> Order:
    content = object_of(body, "image, mask and exemplar in base64")
    if "batch_size" in content:
        raise UserError("batch_size is the server's own; leave it out")
    asked = build_config(EditBody, content, "/api/edit")
    if asked.num_images > service.limits.num_images:
        raise UserError(f"num_images={asked.num_images}: at most {service.limits.num_images} in a request")
    check_told(service.parts, asked.exemplar is not None, asked.prompt)
    check_scales(service.parts, content)
    pictures = {name: text for name in FILES if (text := getattr(asked, name)) is not None}
    check_outline(pictures)
    chosen = {name: getattr(asked, name) for name in EditSettings.model_fields}
    return Order(
        **kept(service, pictures),
        prompt=asked.prompt,
        settings=EditSettings(**chosen | {"batch_size": batch_size}),
        seed=asked.seed,
        num_images=asked.num_images,
        invert_mask=asked.invert_mask,
        exemplar_background=asked.exemplar_background,
        structure={name: _map(service, name, text) for name, text in asked.structure.items()},
    )


def _map(service: Service, name: str, text: str) -> Path:
    if name not in MAPS:
        raise UserError(f"structure has {name!r}, which is not one of {', '.join(MAPS)}")
    kind = f"map {name}"
    return Path(text) if text in COMPUTED_OF else service.keep(decoded(text, kind), kind)


def _told(made: Made) -> dict[str, Any]:
    window = made.result.window
    return {
        "seed": made.result.request.seed,
        "png": base64.b64encode(made.path.read_bytes()).decode(),
        "notes": list(made.notes),
        "window": [window.x0, window.y0, window.x1, window.y1],
        "colour_shift": [round(value, 2) for value in made.result.colour_shift],
    }


def _error(status: int, sentence: str, **headers: str) -> JSONResponse:
    sentence = sentence if len(sentence) <= _LONGEST else sentence[:_LONGEST] + " ..."
    return JSONResponse({"error": sentence}, status, headers)
