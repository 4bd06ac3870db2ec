"""The interface of painters, which turn requests into edits for batch, page, endpoint and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import numpy as np
from PIL import Image, ImageFilter

from intarsia.errors import UsageError
from sampling.told import EXEMPLAR_ONLY, PartNames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from intarsia.boxes import Box
    from sampling.canvas.edits import EditRequest, EditResult
    from sampling.denoise.sampler import OnStep
    from sampling.methods.request import InversionRequest
    from sampling.methods.run_inversion import InversionResult
    from sampling.pictures import Picture
    from sampling.settings import EditSettings, InversionSettings, MachineSettings

# Painters by name: the module with each one's PAINTER.
PAINTERS = {
    "own": "sampling.painters.own",
    "cv2": "sampling.painters.opencv",
    "lama": "sampling.painters.lama",
    "manga": "sampling.painters.manga",
    "sd1.5": "sampling.painters.sd15",
    "sd2": "sampling.painters.sd2",
    "instruct_pix2pix": "sampling.painters.instruct_pix2pix",
    "iopaint": "sampling.painters.iopaint",
}


class Paint(Protocol):
    """A function that makes edits of requests, in order; each result depends only on its own request."""

    def __call__(
        self, requests: Sequence[EditRequest], settings: EditSettings, on_step: OnStep | None = None
    ) -> list[EditResult]:
        """Make the edits.

        Args:
            requests: requests, any number, with pictures of any size.
            settings: settings of all requests; a painter ignores those that do not apply to it.
            on_step: function called as `on_step(done, total)` for progress.

        Raises:
            UserError: for a request that cannot be painted.
        """
        ...


@runtime_checkable
class Inverting(Protocol):
    """What a painter also is if it can edit by inversion."""

    def invert(
        self,
        request: InversionRequest,
        settings: InversionSettings,
        canvas_settings: EditSettings,
        on_step: OnStep | None = None,
    ) -> InversionResult:
        """Invert and edit one picture; see `sampling.methods.run_inversion.invert_edit`."""
        ...


def _torch_versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "diffusers")}


@dataclass(frozen=True)
class Painter:
    """One kind of painter.

    Attributes:
        check: function that refuses a wrong `--model` before any library is loaded; its argument is None if
            the option is missing.
        open: function (model, machine) -> `Paint`, which loads the weights.
        fingerprint: function from a model folder to the hash of everything that affects the results, except
            request and settings.
        parts: function from a model folder to what a request tells: exemplar, text (`ModelConfig.parts`);
            none for a painter that only erases.
        uses: function from a model folder to the settings that have an effect, with "seed" if the noise has
            one; None = all. The page does not show the others, and a note reports those that are set.
        weights: names of its files or folders below `--model-dir`, the first that is there counts.
        named: whether `--model` is a name, not a file or folder.
        libraries: function that gives the versions of the libraries that affect the numbers.
        machine: fields of `MachineSettings` that it follows beside `device`; None = all.
        torch: whether it computes with PyTorch; one that does not computes on the CPU, or elsewhere.
    """

    check: Callable[[Path | None], None]
    open: Callable[[Path | None, MachineSettings], Paint]
    fingerprint: Callable[[Path | None], str]
    parts: Callable[[Path | None], PartNames] = lambda model: EXEMPLAR_ONLY
    uses: Callable[[Path | None], tuple[str, ...] | None] = lambda model: None
    weights: tuple[str, ...] = ()
    named: bool = False
    libraries: Callable[[], Mapping[str, str]] = _torch_versions
    machine: tuple[str, ...] | None = None
    torch: bool = True

    @property
    def float32(self) -> bool:
        """Whether it computes in float32 only."""
        return self.machine is not None and "dtype" not in self.machine


def painter_of(name: str) -> Painter:
    """The painter called `name` in PAINTERS."""
    return cast(Painter, import_module(PAINTERS[name]).PAINTER)


def open_painter(name: str, model: Path | None, machine: MachineSettings) -> Paint:
    """Load the painter called `name`.

    Raises:
        UsageError: for an option of the machine that it cannot follow.
        UserError: for weights that cannot be loaded.
    """
    row = painter_of(name)
    if not row.torch and machine.device not in ("auto", "cpu"):
        raise UsageError(f"{name} does not compute on --device {machine.device}; leave it out")
    if row.float32 and machine.dtype not in ("auto", "float32"):
        raise UsageError(f"{name} computes in float32; leave --dtype {machine.dtype} out")
    for field in ("compile", "low_vram", "noised_clip", "style_tower"):
        if row.machine is not None and getattr(machine, field) and field not in row.machine:
            raise UsageError(f"{name} has no use for --{field.replace('_', '-')}; leave it out")
    return row.open(model, machine)


def finished(
    request: EditRequest,
    painted: Picture,
    settings: EditSettings,
    remarks: Sequence[str] = (),
    window: Box | None = None,
    seconds: Mapping[str, float] | None = None,
) -> EditResult:
    """The result of a painter that returns a whole picture, or a part of it.

    Args:
        request: request to which the result belongs.
        painted: painted picture, uint8 [H, W, 3] RGB, same size as the request's or as `window`.
        settings: settings of the edit; `composite` keeps the picture's own pixels outside the mask, `blend`
            and `match_colour` treat the seam.
        remarks: reasons why the result may disappoint, one sentence each, with what to do.
        window: part of the picture that was painted; None = all of it.
        seconds: time in seconds, by part.

    Raises:
        UserError: for a mask that does not fit its picture or marks nothing.
    """
    from intarsia.boxes import Box
    from sampling.canvas.canvas import Canvas, check_mask
    from sampling.canvas.edits import EditResult
    from sampling.canvas.seam import colour_shift, match_ring

    mask = check_mask(request.edit_mask, request.image)
    height, width = mask.shape
    window = window or Box(0, 0, width, height)
    inside, known = window.cut(mask), window.cut(request.image)
    near = Image.fromarray(inside.astype(np.uint8)).filter(ImageFilter.MaxFilter(7))
    ring = (np.asarray(near) > 0) & ~inside
    shift = colour_shift(painted, known, ring)
    matched = match_ring(painted, known, ring, settings.match_colour)
    canvas = Canvas(window, Box(0, 0, window.width, window.height), max(window.width, window.height))
    image = canvas.paste_back(matched, request.image, mask if settings.composite else None, settings.blend)
    return EditResult(image, request, settings, tuple(remarks), window, shift, seconds or {})
