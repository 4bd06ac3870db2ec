"""The JSON endpoint POST /api/invert: one picture edited by inversion, from a JSON body to a JSON answer."""

from __future__ import annotations

import base64
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, create_model

from intarsia.config import build_config
from sampling.denoise.sampler import OnStep
from sampling.jobs import FILES
from sampling.methods.read import read_inversion, said_of
from sampling.methods.request import check_asked, without_effect
from sampling.methods.run_inversion import InversionResult
from sampling.pictures import png_bytes, write_png
from sampling.provenance import made_from, source_file
from sampling.settings import CANVAS_SETTINGS, EditSettings, ExemplarBackground, InversionSettings
from sampling.web.bodies import kept, object_of
from sampling.web.line import Waiting
from sampling.web.service import Service, named

_FILES = (*FILES, "source_exemplar")
_CANVAS = {name: EditSettings.model_fields[name] for name in CANVAS_SETTINGS}
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Asked(InversionSettings):
    """Pictures in base64, what picture and edit show, and the inversion's settings."""

    image: str
    mask: str | None = None
    exemplar: str | None = None
    exemplar_mask: str | None = None
    source_exemplar: str | None = None
    source: str = ""
    target: str = ""
    words: dict[str, str] = Field(default_factory=dict)
    reweight: dict[str, _Finite] = Field(default_factory=dict)
    negative_prompt: str = ""
    caption: str = ""
    seed: int = Field(default=0, ge=0, lt=2**62)
    invert_mask: bool = False
    exemplar_background: ExemplarBackground = "crop"
    inner_steps: int = Field(default=10, ge=1, le=100)  # a visitor's share of the machine has an end


# The body of a request: the settings of the canvas are those of an edit.
InvertBody = create_model(
    "InvertBody", __base__=_Asked, **{name: (one.annotation, one) for name, one in _CANVAS.items()}
)  # type: ignore[call-overload]


@dataclass(frozen=True)
class InvertOrder:
    """One visitor's inversion: files from `Service.keep`, prompts and words, and settings.

    Attributes:
        files: "image" and, if they are given, "mask", "exemplar", "exemplar_mask", "source_exemplar".
        texts: prompts and words: fields of `InversionRequest`.
        settings: method, couplings and their settings.
        canvas: settings of the canvas.
    """

    files: Mapping[str, Path]
    texts: Mapping[str, Any]
    settings: InversionSettings
    canvas: EditSettings
    seed: int = 0
    invert_mask: bool = False
    exemplar_background: ExemplarBackground = "crop"


def read_order(service: Service, body: bytes) -> InvertOrder:
    """What a body asks; its pictures are kept, and none is read but for its header.

    Raises:
        UserError: for anything that is wrong before the pictures are looked at.
    """
    content = object_of(body, "image, and exemplar or target, in it")
    asked: Any = build_config(InvertBody, content, "/api/invert")
    texts = {
        "source_prompt": asked.source,
        "target_prompt": asked.target,
        "words": tuple(asked.words.items()),
        "reweight": tuple(asked.reweight.items()),
        "negative_prompt": asked.negative_prompt,
        "caption": asked.caption,
    }
    chosen = {name: getattr(asked, name) for name in InversionSettings.model_fields}
    pictures = {name: text for name in _FILES if (text := getattr(asked, name)) is not None}
    settings = InversionSettings(**chosen)
    tower = service.pattern.style_tower is not None
    check_asked([settings], pictures, texts, service.parts, tower)
    return InvertOrder(
        kept(service, pictures),
        texts,
        settings,
        EditSettings(**{name: getattr(asked, name) for name in CANVAS_SETTINGS}),
        asked.seed,
        asked.invert_mask,
        asked.exemplar_background,
    )


def make_inversion(
    service: Service, order: InvertOrder, stop: threading.Event, on_step: OnStep | None = None
) -> dict[str, Any]:
    """The answer to an order, when it is its turn; the edit is written to the service's folder.

    Raises:
        Stopped: if `stop` or the end of the server stops it.
        UserError: for what cannot be inverted.
    """
    assert service.inverting is not None, "a painter that inverts"
    reading = order.invert_mask, order.exemplar_background
    with service.working_on(order.files, Waiting(stop)):
        source, request, remarks = read_inversion(order.files, order.texts, order.seed, *reading)

        def after_call(done: int, total: int) -> None:
            service.line.check(stop)
            if on_step:
                on_step(done, total)

        result = service.inverting.invert(request, order.settings, order.canvas, after_call)
        shared = replace(service.pattern, invert_mask=order.invert_mask, exemplar_background=reading[1])
        kept = {name: source_file(path) for name, path in order.files.items() if name in FILES}
        canvas = {name: getattr(order.canvas, name) for name in CANVAS_SETTINGS}
        recorded = order.settings.plain() | canvas | said_of(order.texts, order.files)
        made = made_from(shared, kept, order.seed, recorded)
        path = service.folder / f"invert-{made.work()[:16]}.png"
        changed = request.edit_mask if order.canvas.composite else None
        write_png(result.image, path, source, changed, made.to_text())  # type: ignore[arg-type]
        every = *remarks, *without_effect([order.settings]), *result.remarks
        notes = [named(text, order.files) for text in every]
        return _told(result, path.read_bytes(), notes)


def _told(result: InversionResult, png: bytes, notes: list[str]) -> dict[str, Any]:
    return {
        "png": base64.b64encode(png).decode(),
        "reconstruction": base64.b64encode(png_bytes(result.reconstruction)).decode(),
        "latent_error": _finite(result.latent_error),
        "background_psnr": _finite(result.background_psnr),
        "seconds": round(result.seconds, 3),
        "calls": result.calls,
        "rows": result.rows,
        "notes": notes,
    }


def _finite(value: float | None) -> float | None:
    """A number that JSON has; equal pictures have no finite PSNR."""
    return value if value is not None and math.isfinite(value) else None
