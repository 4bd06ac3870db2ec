"""The training sample, and the one place that knows how a shard names and encodes its members."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import simplejpeg

from intarsia.boxes import Box
from intarsia.errors import UserError
from intarsia.png import decode_png, encode_png

SCHEMA_VERSION = 1  # of a sample's record
FORMAT_VERSION = 1  # of a shard folder
EXEMPLAR_SIZE = 224  # CLIP ViT-L/14's input
JPEG_QUALITY = 95
OBJECT_MASK = "object_mask.png"  # an optional member, last
_OPTIONAL = (
    "source_size",
    "draws_per_box",
    "exemplar_background",
)  # parts of few records
_NOTHING: np.ndarray = np.empty(0, np.uint8)
MEMBERS = ("image.jpg", "edit_mask.png", "exemplar.jpg", "json")


@dataclass(frozen=True)
class LabelledBox:
    """A box that may be chosen, with what its annotation says.

    Attributes:
        box: in pixels of the upright picture.
        label: the class's name.
        flags: the annotation's remarks by name (is_crowd, is_group_of, …): 1 yes, 0 no, -1 unknown.
    """

    box: Box
    label: str
    flags: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleMeta:
    """Where a sample comes from and every choice that made it; JSON of it is a member of the shard.

    Attributes:
        key: the sample's name in its shard, without dots.
        source: "coco", "openimages" or "boxes".
        image_id: the picture's name in its annotations.
        file: the picture's path below the folder of pictures.
        image_size: (width, height) of the upright source picture, pixels.
        source_bytes: size of the source file.
        source_sha256: of the source file.
        boxes: every box that could have been chosen.
        box: the chosen one.
        label: its class.
        extended: the chosen box, extended at random.
        window: the part of the source picture that the image shows.
        squashed: whether that part was not square and was made so.
        mask_kind: "bezier" or "box".
        polygon: the points of a Bezier mask, in pixels of the source picture.
        augmentation: the exemplar's draws by name.
        seed: of the data set.
        draw: which of the independent draws of this picture.
        source_size: (width, height) of the source picture where it was stored smaller and all boxes are in
            pixels of the smaller one; otherwise None, and not in the JSON.
        draws_per_box: how many draws each box has, where each has its own; otherwise 0, and not in the JSON.
        exemplar_background: "grey" or "white" where the exemplar's was removed; otherwise empty, and not in
            the JSON.
        schema_version: of this record.
    """

    key: str
    source: str
    image_id: str
    file: str
    image_size: tuple[int, int]
    source_bytes: int
    source_sha256: str
    boxes: tuple[LabelledBox, ...]
    box: Box
    label: str
    extended: Box
    window: Box
    squashed: bool
    mask_kind: str
    polygon: tuple[tuple[float, float], ...]
    augmentation: Mapping[str, Any]
    seed: int
    draw: int
    source_size: tuple[int, int] | None = None
    draws_per_box: int = 0
    exemplar_background: str = ""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """One line of JSON; equal records give equal bytes."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in _OPTIONAL:
            if not content[name]:
                del content[name]
        content |= {name: content[name].as_list() for name in ("box", "extended", "window")}
        content["boxes"] = [
            {"box": item.box.as_list(), "label": item.label, "flags": dict(item.flags)} for item in self.boxes
        ]
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    @staticmethod
    def from_json(content: bytes) -> "SampleMeta":
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: if `content` is something else.
        """
        record = json.loads(content)
        if record["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {record['schema_version']}, this is version {SCHEMA_VERSION}")
        record |= {name: Box(*record[name]) for name in ("box", "extended", "window")}
        record["boxes"] = tuple(
            LabelledBox(Box(*item["box"]), item["label"], item["flags"]) for item in record["boxes"]
        )
        for name in ("image_size", "source_size"):
            if name in record:
                record[name] = tuple(record[name])
        record["polygon"] = tuple((x, y) for x, y in record["polygon"])
        return SampleMeta(**record)


@dataclass(frozen=True)
class Sample:
    """One training example.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        edit_mask: uint8 [H, W], 255 = repaint, 0 = keep; edges may be soft.
        exemplar: uint8 [224, 224, 3] RGB, augmented.
        meta: origin and draws.
        object_mask: uint8 [H, W] as edit_mask, 255 = the object itself; None where it is not known.
    """

    image: np.ndarray
    edit_mask: np.ndarray
    exemplar: np.ndarray
    meta: SampleMeta
    object_mask: np.ndarray | None = None


def encode_sample(sample: Sample, image_jpeg: bytes | None = None) -> dict[str, bytes]:
    """The members of a sample, suffix to content, in the order of the tar.

    Args:
        sample: what to encode.
        image_jpeg: a JPEG file of `sample.image` to be kept as it is, instead of encoding the pixels again.
    """
    contents = (
        image_jpeg or encode_jpeg(sample.image),
        encode_png(sample.edit_mask),
        encode_jpeg(sample.exemplar),
        sample.meta.to_json(),
    )
    members = dict(zip(MEMBERS, contents, strict=True))
    if sample.object_mask is not None:
        members[OBJECT_MASK] = encode_png(sample.object_mask)
    return members


def check_format(manifest: Mapping[str, Any], folder: object) -> None:
    """Refuse the manifest of a shard folder of another format version.

    Raises:
        UserError: naming both versions.
    """
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder} has format version {version}, this program reads {FORMAT_VERSION}; build it again, or "
            "use the version of Intarsia that made it"
        )


def decode_sample(members: Mapping[str, bytes], key: str = "", whole: bool = True) -> Sample:
    """Read back what `encode_sample` wrote.

    Args:
        members: suffix to content; other entries are ignored.
        key: the sample's name for error messages; otherwise the one in its JSON is used.
        whole: False leaves edit mask and exemplar empty, for one who draws them afresh.

    Raises:
        UserError: naming the sample and the member that is missing or damaged.
    """
    json_name = MEMBERS[3]
    meta: SampleMeta = _decode(members, json_name, SampleMeta.from_json, key)
    object_mask = _decode(members, OBJECT_MASK, decode_png, meta.key) if OBJECT_MASK in members else None
    if not whole:
        image = _decode(members, MEMBERS[0], decode_jpeg, meta.key)
        return Sample(image, _NOTHING, _NOTHING, meta, object_mask)
    image, edit_mask, exemplar = (
        _decode(members, name, decoder, meta.key)
        for name, decoder in zip(MEMBERS[:3], (decode_jpeg, decode_png, decode_jpeg), strict=True)
    )
    for name, mask in ((MEMBERS[1], edit_mask), (OBJECT_MASK, object_mask)):
        if mask is not None and mask.shape != image.shape[:2]:
            raise UserError(f"sample {meta.key}: {name} is {mask.shape}, the image {image.shape[:2]}")
    return Sample(image, edit_mask, exemplar, meta, object_mask)


def _decode(members: Mapping[str, bytes], name: str, decoder: Callable[[bytes], Any], key: str) -> Any:
    if name not in members:
        raise UserError(f"sample {key or '(no key)'} has no member {name}; build the shard again")
    try:
        return decoder(members[name])
    except (ValueError, KeyError, TypeError, OSError, SyntaxError) as error:
        # A codec's own words help nobody; the record's say which field or version is wrong.
        fault = f"cannot be read ({error})" if name == MEMBERS[3] else "is damaged"
        raise UserError(f"sample {key or '(no key)'}: member {name} {fault}") from None


def encode_jpeg(pixels: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """JPEG of uint8 [H, W, 3] RGB, colour at half resolution (4:2:0)."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling="420"
    )


def decode_jpeg(content: bytes) -> np.ndarray:
    """uint8 [H, W, 3] RGB of a JPEG; ValueError for one with any damage."""
    return simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)
