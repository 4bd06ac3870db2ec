"""Edits for visitors: inputs are checked and kept, one edit is made at a time, and few can wait."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from PIL import Image

from dataprep.pictures.reader import TOO_MUCH_BESIDE
from intarsia.errors import UserError
from intarsia.files import atomic_write, sha256_bytes
from sampling.canvas.edits import EditRequest, EditResult
from sampling.denoise.sampler import OnStep
from sampling.inputs import Inputs, read_inputs
from sampling.jobs import COMPUTED_OF, FILES
from sampling.painters.painter import Inverting, Paint
from sampling.pictures import write_png
from sampling.provenance import Provenance, SourceFile, made_from, map_files, source_file
from sampling.settings import EditSettings, ExemplarBackground
from sampling.told import EXEMPLAR_ONLY, PartNames
from sampling.web.keeping import bytes_of, forget
from sampling.web.line import Busy, EditLine, Stopped, Waiting, make_together

# Pillow reads many more; a visitor's file gets only the common decoders.
_SUFFIXES = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "GIF": ".gif",
}
_DECODERS = [name for name in _SUFFIXES if name != "MPO"]  # the JPEG decoder finds out that it is one
_TURNED = (5, 6, 7, 8)  # EXIF orientations whose width is the upright height


class TooLarge(UserError):
    """A picture or request beyond the limits."""


@dataclass(frozen=True)
class Limits:
    """Limits of a visitor's request.

    Attributes:
        megapixels: million pixels of one picture.
        upload_mb: size of one request's body, in 2^20 bytes.
        num_images: number of edits in one request.
        waiting: requests in line, beside the one that is worked on.
        keep_seconds: results and inputs older than this are deleted; None keeps them.
        share_batch: pictures of waiting requests with equal settings that are painted in one batch, at most.
        keep_mb: size of all results and inputs that are not kept forever, in 2^20 bytes; the oldest go first.
    """

    megapixels: float = 50.0
    upload_mb: int = 64
    num_images: int = 8
    waiting: int = 8
    share_batch: int = 1
    keep_seconds: float | None = None
    keep_mb: int = 1024


@dataclass(frozen=True)
class Order:
    """One visitor's request: files from `Service.keep`, also of structure maps, and settings."""

    image: Path
    mask: Path
    settings: EditSettings
    exemplar: Path | None = None
    seed: int = 0
    num_images: int = 1
    invert_mask: bool = False
    exemplar_background: ExemplarBackground = "crop"
    prompt: str = ""
    structure: Mapping[str, Path] = field(default_factory=dict)
    exemplar_mask: Path | None = None


@dataclass(frozen=True)
class Made:
    """An edit and its PNG, which says how it was made."""

    path: Path
    result: EditResult
    notes: tuple[str, ...]


class Service:
    """A painter that makes the edits of all visitors, one after another."""

    def __init__(
        self,
        paint: Paint,
        pattern: Provenance,
        folder: Path,
        limits: Limits,
        parts: PartNames = EXEMPLAR_ONLY,
    ) -> None:
        """`pattern`: provenance of all edits; `folder`: for the results, and the inputs below inputs/."""
        self.folder, self.limits, self.parts, self.pattern = folder, limits, parts, pattern
        self.paint = paint
        self.line = EditLine(limits.waiting)
        self._keeping, self._counting = threading.Lock(), threading.Lock()
        self._needed: Counter[Path] = Counter()  # files of edits that wait or are made

    @property
    def inverting(self) -> Inverting | None:
        """The painter, if it can edit by inversion."""
        return self.paint if isinstance(self.paint, Inverting) else None

    def with_model(self, paint: Paint, pattern: Provenance, parts: PartNames) -> Service:
        """A service of another model with the same line, files and limits; arguments as for a new one."""
        other = copy(self)
        other.paint, other.pattern, other.parts = paint, pattern, parts
        return other

    def check(self, content: bytes, kind: str) -> str:
        """The file name ending of a picture; only its header is read.

        Args:
            content: the bytes of a PNG, JPEG, WebP, BMP, TIFF or GIF.
            kind: name for errors, such as "image" or "exemplar mask".

        Raises:
            TooLarge: for more pixels than the limit.
            UserError: if it is not such a picture.
        """
        try:
            with Image.open(io.BytesIO(content), formats=_DECODERS) as image:
                (width, height), suffix = image.size, _SUFFIXES[str(image.format)]
        except Image.DecompressionBombError:
            raise TooLarge(f"the {kind} has more than {self.limits.megapixels:g} million pixels") from None
        except (OSError, SyntaxError, ValueError) as error:
            if "MAX_TEXT" in str(error):
                raise UserError(f"the {kind} cannot be read: {TOO_MUCH_BESIDE}") from None
            raise UserError(
                f"the {kind} is not a picture that can be read; give a PNG, JPEG, WebP, BMP, TIFF or GIF"
            ) from None
        if width * height > self.limits.megapixels * 1e6:
            raise TooLarge(
                f"the {kind} is {width} x {height} pixels; at most {self.limits.megapixels:g} million are "
                "allowed, so scale it down first"
            )
        return suffix

    def keep(self, content: bytes, kind: str) -> Path:
        """Store an input under the hash of its bytes.

        Args:
            content: as `check`.
            kind: as `check`.

        Raises:
            Busy: if there is no room for it beside files that are younger than a minute, or needed.
            UserError: as `check`.
        """
        suffix = self.check(content, kind)
        path = self.folder / "inputs" / f"{sha256_bytes(content)[:24]}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._keeping:
            if path.exists():
                path.touch()  # new again: an order for it follows
            else:
                self._make_room(len(content))
                atomic_write(path, content)
        return path

    def _make_room(self, size: int) -> None:
        """Refuse a file beyond the limit of bytes; old files go first."""
        if self.limits.keep_seconds is None:
            return
        self.forget(size)
        if bytes_of([self.folder]) + size > self.limits.keep_mb << 20:
            raise Busy("this server's room for files is full; try again in a minute")

    def edit(
        self, order: Order, on_step: OnStep | None = None, stop: threading.Event | None = None
    ) -> list[Made]:
        """Make an order's edits, when it is its turn.

        Args:
            order: its files are our own.
            on_step: called as `on_step(done, total)` after every step.
            stop: event that stops the edits while they wait, or at the next step.

        Returns:
            One for each seed, in order.

        Raises:
            Stopped: if `stop` or the end of the server stops them.
            UserError: for what cannot be edited; files are called image, mask and exemplar.
        """
        files = {name: path for name in FILES if (path := getattr(order, name)) is not None}
        maps = {f"map {name}": path for name, path in order.structure.items() if path.name not in COMPUTED_OF}
        called = files | maps
        read: list[Inputs] = []

        def requests() -> list[EditRequest]:
            read.append(read_inputs(files, order.invert_mask, order.exemplar_background, order.structure))
            return _requests(order, read[0])

        # Other painters paint one picture after another: the first would wait for the last.
        kind = (self.paint, order.settings) if self.pattern.painter == "own" else None
        waiting = Waiting(stop or threading.Event(), kind, order.num_images, requests, on_step)
        with self.working_on(called, waiting) as together:
            make_together(self.line, together, partial(self._paint, order.settings))
            results = waiting.results()
            self.line.check(waiting.stop)
            return self._written(order, called, read[0], results, waiting.others)

    def _paint(
        self, settings: EditSettings, requests: list[EditRequest], on_step: OnStep
    ) -> list[EditResult]:
        room = max(settings.batch_size, self.limits.share_batch)
        return self.paint(requests, settings.model_copy(update={"batch_size": room}), on_step)

    def _written(
        self,
        order: Order,
        called: Mapping[str, Path],
        inputs: Inputs,
        results: Sequence[EditResult],
        others: int,
    ) -> list[Made]:
        changed = inputs.edit_mask if order.settings.composite else None
        kept = {name: source_file(path) for name, path in called.items() if name in FILES}
        made = []
        for result in results:
            own = self._provenance(order, kept, result, others)
            path = self.folder / f"edit-{own.work()[:16]}.png"
            write_png(result.image, path, inputs.source, changed, own.to_text())
            notes = (*inputs.remarks, *result.remarks)
            made.append(Made(path, result, tuple(named(text, called) for text in notes)))
        return made

    @contextmanager
    def working_on(self, files: Mapping[str, Path], waiting: Waiting) -> Iterator[list[Waiting]]:
        """Wait for a turn and hold it; the files, by the names that errors use, are not deleted meanwhile.

        Yields:
            The edits that share the turn; none if another's turn answered this one.

        Raises:
            Stopped: if the edit is stopped before, or the server ends.
        """
        turn = self.line.turn(waiting, self.limits.share_batch)
        with self._needing(list(files.values())), turn as together, called_by_name(files):
            self.forget()
            yield together

    @contextmanager
    def _needing(self, paths: list[Path]) -> Iterator[None]:
        with self._counting:
            self._needed.update(paths)
        try:
            yield
        finally:
            with self._counting:
                self._needed.subtract(paths)
                self._needed += Counter()  # in place, since others share it: without what is zero

    def forget(self, coming: int = 0) -> None:
        """Delete results and inputs that are too old, and the oldest while there are too many bytes.

        Args:
            coming: bytes that will be added.
        """
        if self.limits.keep_seconds is not None:
            room = max(0, (self.limits.keep_mb << 20) - coming)
            with self._counting:
                needed = set(self._needed)
            forget([self.folder], self.limits.keep_seconds, room, needed)

    def _provenance(
        self, order: Order, kept: Mapping[str, SourceFile], result: EditResult, others: int
    ) -> Provenance:
        shared = replace(
            self.pattern,
            invert_mask=order.invert_mask,
            exemplar_background=order.exemplar_background,
            painted_with=others,
        )
        settings, maps = result.settings.plain(), map_files(order.structure)
        return made_from(shared, kept, result.request.seed, settings, result.request.prompt, maps)


def _requests(order: Order, inputs: Inputs) -> list[EditRequest]:
    """One for each seed of an order."""
    told = inputs.source.pixels, inputs.edit_mask, inputs.exemplar
    seeds = range(order.seed, order.seed + order.num_images)
    return [EditRequest(*told, seed, prompt=order.prompt, structure=inputs.structure) for seed in seeds]


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of a kept picture as it is seen; only its header is read."""
    with Image.open(path) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112) in _TURNED
    return (height, width) if turned else (width, height)


@contextmanager
def called_by_name(files: Mapping[str, Path]) -> Iterator[None]:
    """Errors name the image, mask and exemplar: visitors do not see our paths."""
    try:
        yield
    except Stopped:
        raise
    except UserError as error:
        raise UserError(named(str(error), files)) from None


def named(text: str, files: Mapping[str, Path]) -> str:
    """A sentence that calls files by their names, not by their paths."""
    names: dict[str, str] = {}
    for name, path in files.items():
        called = name.replace("_", " ")
        for words in (f"picture {path}", f"{called} {path}", str(path)):
            names.setdefault(words, f"the {called}")
    # "exemplar mask FILE" before "mask FILE": both may be the same file.
    for words in sorted(names, key=len, reverse=True):
        text = text.replace(words, names[words])
    return text
