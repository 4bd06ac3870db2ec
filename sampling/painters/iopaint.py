"""The painter `iopaint`: any model of a running IOPaint server, asked by its own HTTP endpoint."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from intarsia.errors import UsageError, UserError
from sampling.painters.each import Taking, painting_each
from sampling.painters.painter import Paint, Painter
from sampling.pictures import png_bytes
from sampling.settings import CANVAS_SETTINGS

if TYPE_CHECKING:
    from sampling.canvas.edits import EditRequest
    from sampling.pictures import Mask, Picture
    from sampling.settings import EditSettings, MachineSettings
    from sampling.told import PartNames

_ERASE = ("lama", "anime-lama", "ldm", "zits", "mat", "fcf", "manga", "cv2", "migan")
_EXEMPLAR = "Fantasy-Studio/Paint-by-Example"
_CROP_ABOVE = 800  # pixels, as lama-cleaner
_LARGEST = 1 << 28  # bytes of an answer
_SECONDS = 600.0  # for a picture, or to load a model


def _name(model: Path | None) -> str:
    if model is None:
        raise UsageError("--model iopaint needs the name of a model of IOPaint, such as --model iopaint:mat")
    return str(model)


def _check(model: Path | None) -> None:
    _name(model)


def _parts(model: Path | None) -> PartNames:
    name = _name(model)
    return () if name in _ERASE else ("exemplar",) if name == _EXEMPLAR else ("text",)


def _scale(name: str) -> str:
    return "guidance_scale" if name == _EXEMPLAR else "text_guidance_scale"


def _uses(name: str) -> tuple[str, ...]:
    return CANVAS_SETTINGS if name in _ERASE else (*CANVAS_SETTINGS, "num_inference_steps", _scale(name))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An answer that points to another address is an error, as every status but 200."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""


class IopaintServer:
    """A running IOPaint server."""

    def __init__(self, url: str) -> None:
        """`url`: address with http:// and port.

        Raises:
            UsageError: for another kind of address.
        """
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--iopaint-url {url} must begin with http:// or https://")
        self.url = url.rstrip("/")
        # Directly: a proxy of the environment, or a server that an answer points to, would get the pictures.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """The body of an answer: of a POST with a JSON body, or of a GET without one.

        Raises:
            UserError: if there is no answer, or it is an error or too large.
        """
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}/api/v1/{path}", content, {"Content-Type": "application/json"}
        )
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                received = answer.read(_LARGEST + 1)
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode("utf-8", "replace").strip()
            raise UserError(f"IOPaint at {self.url} answers {error.code} to {path}: {said[:200]}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise UserError(
                f"no IOPaint answers at {self.url} ({reason}); start it with `iopaint start --port 8080`, or "
                "give its address by --iopaint-url"
            ) from None
        if len(received) > _LARGEST:
            raise UserError(f"IOPaint at {self.url} answers with more than {_LARGEST >> 20} MiB")
        return received

    def use(self, name: str) -> None:
        """Let the server load a model, unless it has it.

        Raises:
            UserError: as `ask`, and if the answer does not come from IOPaint.
        """
        try:
            if json.loads(self.ask("model"))["name"] != name:
                self.ask("model", {"name": name})
        except (ValueError, KeyError, TypeError):
            raise UserError(f"what answers at {self.url} is not IOPaint; check --iopaint-url") from None

    def inpaint(self, body: Mapping[str, Any], size: tuple[int, int]) -> Picture:
        """The painted picture, uint8 [h, w, 3] RGB.

        Raises:
            UserError: as `ask`, and for an answer that is not a picture of `size` (width, height).
        """
        received = self.ask("inpaint", body)
        try:
            with Image.open(io.BytesIO(received), formats=("PNG", "JPEG", "WEBP")) as picture:
                painted = np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise UserError(f"IOPaint at {self.url} does not answer with a picture") from None
        if painted.shape[:2] != size[::-1]:
            height, width = painted.shape[:2]
            raise UserError(
                f"IOPaint at {self.url} answers with {width} x {height} pixels to {size[0]} x {size[1]}"
            )
        return painted


def _open(model: Path | None, machine: MachineSettings) -> Paint:
    name, server = _name(model), IopaintServer(machine.iopaint_url)
    server.use(name)

    def paint_one(image: Picture, mask: Mask, request: EditRequest, settings: EditSettings) -> Picture:
        server.use(name)  # somebody else may have chosen another
        body: dict[str, Any] = {
            "image": _base64(image),
            "mask": _base64(mask.astype(np.uint8) * 255),
            "hd_strategy": "Original",  # what it sees is our choice, by `fit`
            "sd_seed": request.seed % (1 << 31),
            "sd_mask_blur": 0,  # outside the mask we keep the picture's own pixels
            "sd_steps": settings.num_inference_steps,
            "sd_guidance_scale": getattr(request.own_settings(settings), _scale(name)),
            "prompt": request.prompt,
        }
        if name == _EXEMPLAR and request.exemplar is not None:
            body["paint_by_example_example_image"] = _base64(request.exemplar)
        return server.inpaint(body, (mask.shape[1], mask.shape[0]))

    return painting_each(Taking(f"iopaint:{name}", _parts(model), _uses(name)), paint_one, _CROP_ABOVE)


def _base64(pixels: np.ndarray) -> str:
    return base64.b64encode(png_bytes(pixels)).decode()


PAINTER = Painter(
    check=_check,
    open=_open,
    fingerprint=lambda model: f"iopaint {_name(model)}",
    parts=_parts,
    uses=lambda model: (*_uses(_name(model)), "seed"),
    named=True,
    libraries=dict,
    machine=(),
    torch=False,
)
