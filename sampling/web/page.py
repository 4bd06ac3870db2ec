"""The page's routes: its own files, and what it asks beside edits. How it looks and acts is in static/."""

from __future__ import annotations

import asyncio
import base64
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from intarsia.boxes import Box
from intarsia.config import build_config
from intarsia.errors import UserError
from sampling.canvas.canvas import check_mask
from sampling.pictures import PictureFile, open_mask, open_picture
from sampling.settings import EditSettings
from sampling.web.choices import Folder, examples, page_choices
from sampling.web.copies import cut_out, mask_copy, mask_of_strokes, small_copy, window_of, work_copy
from sampling.web.models import Models
from sampling.web.service import TooLarge, called_by_name, named

# Not by `mimetypes`, which asks the machine: a browser refuses a script of another type.
_KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".gif": "image/gif",
}
_AT_ONCE = 2  # pictures that are decoded at the same time
_LARGEST = 1 << 20  # sides of a picture in a query

log = logging.getLogger(__name__)


class Page:
    """The page of a service; each method answers one question with its query and its body."""

    def __init__(self, models: Models, folder: Folder | None) -> None:
        """`models`: what can be chosen to paint; `folder`: pictures that are offered."""
        self.models, self.folder, self.service = models, folder, models.first

    def choices(self, query: Mapping[str, str], body: bytes) -> Response:
        """What the page offers with a `model`."""
        service, fields = self.models.of(query.get("model", ""))
        inverts = service.inverting is not None
        tower = service.pattern.style_tower is not None
        offered = page_choices(fields, service.limits, self.folder, inverts, tower)
        return JSONResponse({**offered, "models": self.models.names})

    def look(self, query: Mapping[str, str], body: bytes) -> Response:
        """Size, notes and a copy to paint on of a picture (`kind`)."""
        kind = query.get("kind", "picture")[:40]
        picture, notes = self._opened(body, kind)
        height, width = picture.pixels.shape[:2]
        return JSONResponse(
            {"width": width, "height": height, "notes": notes, "copy": _data_url(work_copy(picture))}
        )

    def mask(self, query: Mapping[str, str], body: bytes) -> Response:
        """A copy of a mask file for a picture of `width` and `height`."""
        width, height = _numbers(query, "width", "height")
        with _as_file(body, self.service.check(body, "mask"), "mask") as path:
            opened = open_mask(path, query.get("invert") == "true")
            edit_mask = check_mask(opened.edit_mask, np.broadcast_to(np.uint8(0), (height, width, 3)))
            notes = [named(remark, {"mask": path}) for remark in opened.remarks]
        return JSONResponse({"notes": notes, "copy": _data_url(mask_copy(edit_mask))})

    def strokes(self, query: Mapping[str, str], body: bytes) -> Response:
        """The mask of a picture of `width` and `height`, from what was painted on its copy."""
        width, height = _numbers(query, "width", "height")
        self._check_size(width, height)
        return Response(mask_of_strokes(body, (width, height)), media_type="image/png")

    def cut(self, query: Mapping[str, str], body: bytes) -> Response:
        """A part of a picture, `x0`, `y0`, `x1` and `y1` in its own pixels."""
        picture, _ = self._opened(body, "exemplar")
        return Response(
            cut_out(picture, Box(*_numbers(query, "x0", "y0", "x1", "y1"))), media_type="image/png"
        )

    def window(self, query: Mapping[str, str], body: bytes) -> Response:
        """The part of a picture that the `model` will see; null if it sees all."""
        _, fields = self.models.of(query.get("model", ""))
        width, height = _numbers(query, "width", "height")
        marked = Box(*_numbers(query, "x0", "y0", "x1", "y1")).clipped((width, height))
        chosen = {name: query[name] for name in ("fit", "context") if name in query}
        settings = build_config(EditSettings, chosen, "window")
        self._check_size(width, height)
        if fields.size is None or not marked.area:
            return JSONResponse({"window": None})
        window = window_of(marked, (width, height), fields.size, settings)
        return JSONResponse({"window": window.as_list()})

    def offered(self, query: Mapping[str, str], body: bytes) -> Response:
        """A picture of the folder by `name`, or with `small` a small copy."""
        if self.folder is None:
            raise UserError("this server offers no folder")
        return self._picture(self.folder.read(query.get("name", "")), "small" in query)

    def example(self, query: Mapping[str, str], body: bytes) -> Response:
        """The `file` of the example called `name`, or with `small` a small copy."""
        path = examples().get(query.get("name", ""), {}).get(query.get("file", ""))
        if path is None:
            raise UserError("there is no such example")
        return self._picture(path.read_bytes(), "small" in query)

    def _check_size(self, width: int, height: int) -> None:
        if not 0 < width * height <= self.service.limits.megapixels * 1e6:
            raise UserError(f"a picture cannot have {width} x {height} pixels here")

    def _picture(self, content: bytes, small: bool) -> Response:
        suffix = self.service.check(content, "picture")
        if small:
            return Response(small_copy(content), media_type="image/jpeg")
        return Response(content, media_type=_KINDS[suffix])

    def _opened(self, body: bytes, kind: str) -> tuple[PictureFile, list[str]]:
        with _as_file(body, self.service.check(body, kind), kind) as path:
            picture = open_picture(path)
            return picture, [named(remark, {kind: path}) for remark in picture.remarks]


def add_page(app: Starlette, page: Page) -> None:
    """Let `app` answer `/`, `/static/` and `/page/`."""
    content = {file.name: file.read_bytes() for file in files("sampling.web").joinpath("static").iterdir()}
    limit = asyncio.Semaphore(_AT_ONCE)

    async def static(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in content:
            return JSONResponse({"error": "there is no such page"}, 404)
        kind = _KINDS[Path(name).suffix]
        return Response(content[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    def asked(answer: Callable[[Mapping[str, str], bytes], Response]) -> Any:
        async def ask(request: Request) -> Response:
            body = await request.body()
            async with limit:
                return await run_in_threadpool(_guarded, answer, request.query_params, body)

        return ask

    app.add_route("/", static)
    app.add_route("/static/{name}", static)
    for answer in (page.choices, page.window, page.offered, page.example):
        app.add_route(f"/page/{answer.__name__}", asked(answer))
    for answer in (page.look, page.mask, page.strokes, page.cut):
        app.add_route(f"/page/{answer.__name__}", asked(answer), methods=["POST"])


def _guarded(
    answer: Callable[[Mapping[str, str], bytes], Response], query: Mapping[str, str], body: bytes
) -> Response:
    try:
        return answer(query, body)
    except TooLarge as error:
        return JSONResponse({"error": str(error)}, 413)
    except UserError as error:
        return JSONResponse({"error": str(error)}, 422)
    except Exception:
        log.exception("a question of the page failed")
        return JSONResponse({"error": "that failed; the server's log says why"}, 500)


@contextmanager
def _as_file(content: bytes, suffix: str, kind: str) -> Iterator[Path]:
    """The path of a file with this content, for as long as the context lasts; errors name the kind."""
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(content)
        file.flush()
        path = Path(file.name)
        with called_by_name({kind: path}):
            yield path


def _numbers(query: Mapping[str, str], *names: str) -> list[int]:
    """Whole numbers of a query, at most the largest side of a picture."""
    found = []
    for name in names:
        text = query.get(name, "")
        if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) <= _LARGEST):
            raise UserError(f"{name}={text[:20]!r} must be a whole number of pixels")
        found.append(int(text))
    return found


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
