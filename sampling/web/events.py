"""What happens on the page: from files and strokes to an order, and from edits to what is shown."""

import functools
import io
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from intarsia.config import build_config
from intarsia.errors import UserError
from intarsia.files import atomic_write, sha256_bytes
from sampling.jobs import PICTURES
from sampling.pictures import open_picture
from sampling.settings import EditSettings
from sampling.web.line import Stops
from sampling.web.service import Made, Order, Service, upright_size

_STROKE = 64  # of 255, opacity from which a pixel is painted; the brush has 178
_PREVIEW = 1024  # pixels of the longer side of pictures to paint on and to compare
_OFFERED = 1000  # files of a folder, at most

log = logging.getLogger(__name__)


def guard(handler: Callable[..., Any]) -> Callable[..., Any]:
    """`handler` whose errors are one sentence on the page."""

    @functools.wraps(handler)
    def guarded(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except UserError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from None
        except Exception:
            log.exception("a handler of the page failed")
            raise gr.Error("that failed; the server's log says why", print_exception=False) from None

    return guarded


def painter(service: Service, names: list[str], batch_size: int, stops: Stops) -> Callable[..., tuple]:
    """The function of the button.

    Args:
        service: service that makes the edits.
        names: names of the controls; their values follow picture, strokes, mask, its inversion and exemplar.
        batch_size: edits at the same time.
        stops: what stops each visitor's edits.
    """

    @guard
    def paint(
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio's way
        *values: Any,
    ) -> tuple:
        picture, painted, mask, invert, exemplar, *chosen = values
        if picture is None:
            raise UserError("there is no picture yet; drop one into field 1")
        if exemplar is None:
            raise UserError("there is no exemplar yet; drop a picture of the object into field 3")
        with service.line.place(), stops.of(str(request.session_hash)) as stop:
            progress(0.0, "waiting for the model")
            image = service.keep(_uploaded(picture), "image")
            region = _uploaded(mask) if mask else _mask_of_strokes(painted, upright_size(image))
            files = {
                "image": image,
                "mask": service.keep(region, "mask"),
                "exemplar": service.keep(_uploaded(exemplar), "exemplar"),
                "invert_mask": bool(invert and mask),
            }
            order = _order(files, dict(zip(names, chosen, strict=True)), service, batch_size)
            made = service.edit(
                order, lambda done, total: progress((done, total), "painting", unit="steps"), stop
            )
        return _shown(image, made)

    return paint


def stopper(stops: Stops) -> Callable[[gr.Request], None]:
    """The function of the button Stop."""

    def stop(request: gr.Request) -> None:
        stops.stop(str(request.session_hash))

    return stop


def canvas(service: Service) -> Callable[[str | None], dict | None]:
    """A new picture -> a smaller one to paint on: only the strokes of it are used."""

    @guard
    def to_paint_on(picture: str | None) -> dict | None:
        if picture is None:
            return None
        return {
            "background": _preview(service.keep(_uploaded(picture), "image")),
            "layers": [],
            "composite": None,
        }

    return to_paint_on


def taker(service: Service, root: Path) -> Callable[[str | None], str]:
    """A name from the list of `offered` -> a copy that the page may show."""

    @guard
    def take(name: str | None) -> str:
        if name is None:
            raise UserError("choose a picture from the list first")
        if name not in offered(root):
            raise UserError(f"{name} is not among the pictures offered")
        content = (root / name).read_bytes()
        return _give_out(service.keep(content, "image").name, content)

    return take


def offered(root: Path) -> list[str]:
    """The pictures below a folder, in order, at most a thousand; links that lead out of it are left out."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in PICTURES and path.is_file() and path.resolve().is_relative_to(root):
            found.append(str(path.relative_to(root)))
        if len(found) == _OFFERED:
            break
    return found


def show_pair(pairs: list, event: gr.SelectData) -> Any:
    """Before and after of the edit that was clicked."""
    return pairs[event.index]


def path_of(payload: Any) -> str | None:
    """The path of the file in a slot."""
    return payload.path if payload else None


def _order(files: dict[str, Any], chosen: dict[str, Any], service: Service, batch_size: int) -> Order:
    seed, number = int(chosen.pop("seed") or 0), int(chosen.pop("num_images"))
    background = chosen.pop("exemplar_background")
    if not 0 <= seed < 2**62:
        raise UserError(f"the seed {seed} must be 0 or more and below 2^62")
    if not 1 <= number <= service.limits.num_images:
        raise UserError(f"{number} edits: the number must be 1 to {service.limits.num_images}")
    settings = build_config(EditSettings, chosen | {"batch_size": batch_size}, "settings")
    return Order(**files, settings=settings, seed=seed, num_images=number, exemplar_background=background)


def _shown(image: Path, made: list[Made]) -> tuple:
    """Gallery, files, notes, the pairs to compare, and the first of them."""
    # Copies: only files in the page's own folder can be requested.
    folder = Path(tempfile.mkdtemp(dir=_page_folder()))
    files = [str(shutil.copy(one.path, folder)) for one in made]
    before = _preview(image)
    pairs = [(before, _preview(one.path)) for one in made]
    captions = [f"seed {one.result.request.seed}" for one in made]
    seconds = sum({id(one.result.seconds): sum(one.result.seconds.values()) for one in made}.values())
    lines = dict.fromkeys(f"- {note}" for one in made for note in one.notes)
    text = "\n".join([f"Painted in {seconds:.1f} s.\n", *lines])
    return list(zip(files, captions, strict=True)), files, text, pairs, pairs[0]


def _uploaded(path: str) -> bytes:
    """The bytes of a file that came through the page; no other file is read."""
    whole = Path(path).resolve()
    if not whole.is_relative_to(_page_folder()):
        raise UserError("that file was not uploaded here")
    return whole.read_bytes()


def _page_folder() -> Path:
    folder = Path(get_upload_folder()).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _preview(path: Path) -> str:
    """A copy of at most 1024 pixels, upright."""
    picture = Image.fromarray(open_picture(path).pixels)
    picture.thumbnail((_PREVIEW, _PREVIEW))
    content = _png(picture)
    return _give_out(f"{sha256_bytes(content)[:24]}.png", content)


def _give_out(name: str, content: bytes) -> str:
    """Put a file where the page may ask for it; one of that name that is being sent is not cut short."""
    target = _page_folder() / name
    atomic_write(target, content)
    return str(target)


def _mask_of_strokes(painted: dict | None, size: tuple[int, int]) -> bytes:
    """The PNG of what was painted, at the picture's size (width, height).

    Raises:
        UserError: if nothing was.
    """
    marked = [layer[..., 3] >= _STROKE for layer in (painted or {}).get("layers", [])]
    if not np.any(marked):
        raise UserError("nothing is marked yet; paint over what is to be repainted, or give a mask file")
    return _png(Image.fromarray(np.any(marked, axis=0)).resize(size, Image.Resampling.NEAREST))


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
