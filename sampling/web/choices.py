"""What the page offers: fields of the model, settings with their defaults, presets, pictures, examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from intarsia.errors import UserError
from intarsia.files import ROOT
from sampling.jobs import PICTURES
from sampling.painters.painter import painter_of
from sampling.samplers import SAMPLERS
from sampling.settings import (
    COUPLINGS,
    PROMPT_METHODS,
    EditSettings,
    ExemplarBackground,
    Fit,
    InversionMethod,
    InversionSettings,
    LearnedMethod,
    MatchColour,
)
from sampling.told import EXEMPLAR_ONLY, PartNames
from sampling.web.service import Limits

_OFFERED = 1000  # files of a folder, at most
_CHOICES = {
    "scheduler": tuple(SAMPLERS),
    "fit": get_args(Fit),
    "match_colour": get_args(MatchColour),
    "exemplar_background": get_args(ExemplarBackground),
}
_INVERSION = ("method", "guidance_scale", "num_inference_steps")  # fields of the second tab with a default
# The settings of a preset; a preset leaves the others alone.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"scheduler": "dpm++", "num_inference_steps": SAMPLERS["dpm++"].steps},
    "usual": {"scheduler": "plms", "num_inference_steps": SAMPLERS["plms"].steps},
    "best": {"scheduler": "plms", "num_inference_steps": 100},
}
_EXAMPLES = ROOT / "examples"
_BUNDLED = {  # picture, mask and exemplar by name; absent from an installed copy
    "another dog": ("coco-mini/images/000000017029.jpg", "edits/dog.mask.png", "edits/dog.exemplar.jpg"),
    "a hydrant": (
        "coco-mini/images/000000015746.jpg",
        "edits/hydrant.mask.png",
        "edits/hydrant.exemplar.jpg",
    ),
    "a hydrant for a dog": (
        "coco-mini/images/000000017029.jpg",
        "edits/dog.mask.png",
        "edits/hydrant.exemplar.jpg",
    ),
}


@dataclass(frozen=True)
class ModelFields:
    """What the page shows of a model.

    Attributes:
        parts: what the model is told (`ModelConfig.parts`).
        maps: structure maps that it takes.
        size: side of its square in pixels; None if it sees the whole picture.
        uses: settings that have an effect (`Painter.uses`); None = all.
    """

    parts: PartNames = EXEMPLAR_ONLY
    maps: tuple[str, ...] = ()
    size: int | None = None
    uses: tuple[str, ...] | None = None

    @property
    def idle(self) -> list[str]:
        """The page's fields that have no effect."""
        if self.uses is None:
            return []
        used = set(self.uses)
        idle = [name for name in (*EditSettings.model_fields, "seed") if name not in used]
        idle += [] if "seed" in used else ["num_images"]
        return idle + ([] if {"guidance_scale", "text_guidance_scale"} & used else ["sweep"])


def fields_of(painter: str, model: Path | None, parts: PartNames) -> ModelFields:
    """What the page shows of the model of a painter; other painters than `own` see the whole picture.

    Args:
        painter: painter name.
        model: model folder.
        parts: what the painter is told.
    """
    if painter != "own" or model is None:
        return ModelFields(parts, uses=painter_of(painter).uses(model))
    from intarsia.weights import read_model_config

    config = read_model_config(model)
    return ModelFields(parts, config.structure.maps, config.image_size)


class Folder:
    """Pictures that the page offers, from one folder; the names are read once."""

    def __init__(self, root: Path) -> None:
        """`root`: the folder, whose pictures may lie at any depth, or one picture to start with."""
        self.start = root.name if root.is_file() else ""
        self.root = root.parent.resolve() if self.start else root.resolve()
        self.names = [self.start] if self.start else offered(self.root)

    def read(self, name: str) -> bytes:
        """The bytes of one of the pictures.

        Raises:
            UserError: for any other name, and for a picture that is gone or became a link that leads out.
        """
        path = self.root / name
        if name not in self.names or not path.resolve().is_relative_to(self.root):
            raise UserError(f"{name[:200]} is not among the pictures offered")
        try:
            return path.read_bytes()
        except OSError:
            raise UserError(f"{name} cannot be read any more") from None


def offered(root: Path) -> list[str]:
    """The pictures below a folder, in order, at most a thousand; links that lead out of it are left out."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in PICTURES and path.is_file() and path.resolve().is_relative_to(root):
            found.append(str(path.relative_to(root)))
        if len(found) == _OFFERED:
            break
    return found


def examples() -> dict[str, dict[str, Path]]:
    """The bundled examples by name: the files image, mask and exemplar; those that are all there."""
    named = {
        name: dict(zip(("image", "mask", "exemplar"), (_EXAMPLES / file for file in files), strict=True))
        for name, files in _BUNDLED.items()
    }
    return {name: files for name, files in named.items() if all(path.is_file() for path in files.values())}


def page_choices(
    fields: ModelFields, limits: Limits, folder: Folder | None, inverts: bool = False, tower: bool = False
) -> Mapping[str, Any]:
    """Everything that the page's scripts have to know, as JSON values.

    Args:
        fields: what is shown of the model.
        limits: limits of a request.
        folder: pictures that are offered.
        inverts: whether the painter can start from the picture.
        tower: whether the server has a style tower, with which the method style is offered.
    """
    defaults = EditSettings().model_dump(mode="json", exclude={"batch_size", "guidance_interval"})
    inversion = InversionSettings().model_dump(mode="json", include=set(_INVERSION))
    methods = (*get_args(InversionMethod), *(PROMPT_METHODS if "text" in fields.parts else ()))
    methods += get_args(LearnedMethod) if tower else ()
    return {
        "parts": fields.parts,
        "maps": fields.maps,
        "size": fields.size,
        "limits": {"num_images": limits.num_images, "upload_mb": limits.upload_mb},
        "defaults": defaults
        | {"seed": 0, "num_images": 1, "exemplar_background": "crop"}
        | {f"invert.{name}": value for name, value in inversion.items()},
        "idle": fields.idle,
        "choices": _CHOICES | {"invert.method": methods},
        "invert": {"couplings": list(COUPLINGS)} if inverts else None,
        "presets": PRESETS,
        "folder": folder.root.name if folder else "",
        "offered": folder.names if folder else [],
        "start": folder.start if folder else "",
        "examples": list(examples()),
    }
