"""The training sample, and the names and encodings of its members in a shard."""

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from intarsia.boxes import Box
from intarsia.errors import UserError
from intarsia.png import decode_png, encode_png

SCHEMA_VERSION = 1  # version of a sample's record
FORMAT_VERSION = 1  # version of a shard folder
EXEMPLAR_SIZE = 224  # input size of CLIP ViT-L/14
JPEG_QUALITY = 95
OBJECT_MASK = "object_mask.png"  # an optional member, last
_OPTIONAL = (
    "source_size",
    "draws_per_box",
    "exemplar_background",
    "recipe",
    "captions",
    "frame",
    "exemplar_from",
    "views",
)  # fields that most records omit
NO_PIXELS: np.ndarray = np.empty(0, np.uint8)
VIEW_MEMBER = re.compile(r"view-\d{3}\.(jpg|png)")  # optional, after all others (`view_member`)
MEMBERS = ("image.jpg", "edit_mask.png", "exemplar.jpg", "json")


@dataclass(frozen=True)
class LabelledBox:
    """A box that can be chosen, with its annotation.

    Attributes:
        box: box in pixels of the upright picture.
        label: class name.
        flags: flags of the annotation by name (is_crowd, is_group_of, …): 1 = yes, 0 = no, -1 = unknown.
    """

    box: Box
    label: str
    flags: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ExemplarOrigin:
    """Where the exemplar of a pair comes from: another picture, or another frame, of the same object.

    Attributes:
        file: path of the picture or video, relative to the folder of pictures.
        frame: number of the frame in its video; None for a picture that is not of a video.
        image_size: (width, height) of the upright picture.
        box: box of the object in it.
        source_sha256: sha256 of the file.
    """

    file: str
    frame: int | None
    image_size: tuple[int, int]
    box: Box
    source_sha256: str


@dataclass(frozen=True)
class ViewMeta:
    """A stored view of the object of a sample, from which pairs are drawn afresh.

    Attributes:
        file: path of the picture or video, relative to the folder of pictures.
        frame: number of the frame in its video; None for a picture that is not of a video.
        partners: places among the views of those that may show the exemplar when this one is repainted;
            empty if the object is not repainted in this one.
        source_size: (width, height) of the original picture if a smaller copy is stored; otherwise None.
        source_bytes: size of the file, in bytes.
        source_sha256: sha256 of the file.
        caption: sentence about the picture; empty if there is none.
    """

    file: str
    frame: int | None
    partners: tuple[int, ...]
    source_size: tuple[int, int] | None
    source_bytes: int
    source_sha256: str
    caption: str = ""


@dataclass(frozen=True)
class SampleMeta:
    """The origin of a sample and all choices that made it; the shard stores it as JSON.

    Attributes:
        key: name of the sample in its shard, without dots.
        source: "coco", "openimages" or "boxes".
        image_id: name of the picture in its annotations.
        file: path of the picture, relative to the folder of pictures.
        image_size: (width, height) of the upright source picture, in pixels.
        source_bytes: size of the source file, in bytes.
        source_sha256: sha256 of the source file.
        boxes: all boxes that could have been chosen.
        box: chosen box.
        label: class of the chosen box.
        extended: chosen box, extended at random.
        window: part of the source picture that the image shows.
        squashed: whether this part was not square and was resized to a square.
        mask_kind: kind of the edit mask: "bezier", "box", or another of the recipe.
        polygon: points of a Bezier mask, in pixels of the source picture.
        augmentation: random values of the exemplar's augmentation, by name.
        seed: seed of the data set.
        draw: index of the draw of this picture.
        source_size: (width, height) of the original picture if a smaller copy is stored; all boxes are then
            in pixels of the copy. Otherwise None, and not in the JSON.
        draws_per_box: number of draws per box if each box has its own; otherwise 0, and not in the JSON.
        exemplar_background: "black", "grey" or "white" if the exemplar's background was removed; otherwise
            empty, and not in the JSON.
        recipe: name of the recipe that it was drawn by; empty for Paint by Example's, and not in the JSON.
        captions: sentences about the picture; empty, and not in the JSON, if there are none.
        frame: number of the picture in its video; None, and not in the JSON, if it is not of a video.
        exemplar_from: origin of the exemplar if that is another picture or frame; otherwise None, and not in
            the JSON.
        views: the stored views of the object, one for each of `boxes`; empty, and not in the JSON, if all
            boxes are in the picture itself.
        schema_version: version of this record.
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
    recipe: str = ""
    captions: tuple[str, ...] = ()
    frame: int | None = None
    exemplar_from: ExemplarOrigin | None = None
    views: tuple[ViewMeta, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """One line of JSON; equal records give equal bytes."""
        content = {
            name: value
            for name, value in vars(self).items()
            if name not in _OPTIONAL or value != _DEFAULTS[name]
        }
        content |= {name: content[name].as_list() for name in ("box", "extended", "window")}
        if self.exemplar_from:
            content["exemplar_from"] = vars(self.exemplar_from) | {"box": self.exemplar_from.box.as_list()}
        if self.views:
            content["views"] = [vars(view) for view in self.views]
        content["boxes"] = [
            {"box": item.box.as_list(), "label": item.label, "flags": dict(item.flags)} for item in self.boxes
        ]
        return _ENCODER.encode(content).encode()

    @staticmethod
    def from_json(content: bytes) -> "SampleMeta":
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: if `content` is something else.
        """
        record = json.loads(content)
        if record["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {record['schema_version']}, expected {SCHEMA_VERSION}")
        record |= {name: Box(*record[name]) for name in ("box", "extended", "window")}
        record["boxes"] = tuple(
            LabelledBox(Box(*item["box"]), item["label"], item["flags"]) for item in record["boxes"]
        )
        for name in ("image_size", "source_size"):
            if name in record:
                record[name] = tuple(record[name])
        record["captions"] = tuple(record.get("captions", ()))
        record["polygon"] = tuple((x, y) for x, y in record["polygon"])
        if "exemplar_from" in record:
            origin = record["exemplar_from"]
            origin |= {"box": Box(*origin["box"]), "image_size": tuple(origin["image_size"])}
            record["exemplar_from"] = ExemplarOrigin(**origin)
        if "views" in record:
            record["views"] = tuple(ViewMeta(**view | _tuples(view)) for view in record["views"])
        return SampleMeta(**record)


_DEFAULTS = {item.name: item.default for item in fields(SampleMeta)}
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) for name, value in record.items() if isinstance(value, list)}


@dataclass(frozen=True)
class StoredView:
    """A view of a sample's object as its shard stores it: a JPEG, and the object's mask as a PNG if known."""

    jpeg: bytes
    mask_png: bytes | None = None


@dataclass(frozen=True)
class Sample:
    """One training example.

    Attributes:
        image: picture, uint8 [H, W, 3] RGB.
        edit_mask: mask, uint8 [H, W], 255 = repaint, 0 = keep; edges may be soft.
        exemplar: augmented exemplar, uint8 [224, 224, 3] RGB.
        meta: origin and random choices.
        object_mask: mask of the object, uint8 [H, W], 255 = object; None if unknown.
        views: stored views, one for each of `meta.views`; not decoded, since a draw needs two of them.
        given: which of edit_mask and exemplar are not drawn, but another program's: every draw keeps them.
        maps: maps of the picture's structure by name, uint8 [H, W] or [H, W, 3] (`decode_map`).
    """

    image: np.ndarray
    edit_mask: np.ndarray
    exemplar: np.ndarray
    meta: SampleMeta
    object_mask: np.ndarray | None = None
    views: tuple[StoredView, ...] = ()
    given: tuple[str, ...] = ()
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)


def encode_sample(sample: Sample, image_jpeg: bytes | None = None) -> dict[str, bytes]:
    """The members of a sample, content by suffix, in the order of the tar.

    Args:
        sample: sample to encode.
        image_jpeg: JPEG file of `sample.image` to store unchanged, instead of encoding the pixels again.
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
    for place, view in enumerate(sample.views):
        members[view_member(place)] = view.jpeg
        if view.mask_png is not None:
            members[view_member(place, mask=True)] = view.mask_png
    return members


def view_member(place: int, mask: bool = False) -> str:
    """The member of a sample that holds its view number `place`, or that view's object mask."""
    return f"view-{place:03d}.{'png' if mask else 'jpg'}"


def check_format(manifest: Mapping[str, Any], folder: object) -> None:
    """Refuse the manifest of a shard folder with another format version.

    Raises:
        UserError: with both versions.
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
        members: content by suffix; other entries are ignored.
        key: name of the sample for error messages; by default the name in its JSON.
        whole: whether to decode edit mask and exemplar; False leaves them empty, for callers that draw new
            ones.

    Raises:
        UserError: if a member is missing or damaged; the message has the sample and the member.
    """
    meta = decode_meta(members, key)
    object_mask = _decode(members, OBJECT_MASK, decode_png, meta.key) if OBJECT_MASK in members else None
    views = tuple(
        StoredView(
            _decode(members, view_member(place), bytes, meta.key), members.get(view_member(place, mask=True))
        )
        for place in range(len(meta.views))
    )
    if not whole:
        # Of a sample with views each draw decodes its own two.
        image = NO_PIXELS if views else _decode(members, MEMBERS[0], decode_jpeg, meta.key)
        return Sample(image, NO_PIXELS, NO_PIXELS, meta, object_mask, views)
    image, edit_mask, exemplar = (
        _decode(members, name, decoder, meta.key)
        for name, decoder in zip(MEMBERS[:3], (decode_jpeg, decode_png, decode_jpeg), strict=True)
    )
    for name, mask in ((MEMBERS[1], edit_mask), (OBJECT_MASK, object_mask)):
        if mask is not None and mask.shape != image.shape[:2]:
            raise UserError(f"sample {meta.key}: {name} has shape {mask.shape}, the image {image.shape[:2]}")
    return Sample(image, edit_mask, exemplar, meta, object_mask, views)


def decode_meta(members: Mapping[str, bytes], key: str = "") -> SampleMeta:
    """The record of a sample; arguments and errors are those of `decode_sample`."""
    meta: SampleMeta = _decode(members, MEMBERS[3], SampleMeta.from_json, key)
    return meta


def decode_view(sample: Sample, place: int) -> tuple[np.ndarray, np.ndarray | None]:
    """A stored view's picture, uint8 [H, W, 3] RGB, and its object mask, uint8 [H, W], if it is known.

    Raises:
        UserError: if it is damaged; the message has the sample and the member.
    """
    view, key, name = sample.views[place], sample.meta.key, view_member(place, mask=True)
    pixels = _decode({view_member(place): view.jpeg}, view_member(place), decode_jpeg, key)
    if view.mask_png is None:
        return pixels, None
    mask = _decode({name: view.mask_png}, name, decode_png, key)
    if mask.shape != pixels.shape[:2]:
        raise UserError(f"sample {key}: {name} has shape {mask.shape}, its picture {pixels.shape[:2]}")
    return pixels, mask


def map_member(name: str) -> str:
    """The member of a sample with the structure map `name`, a PNG of the picture's size."""
    return f"{name}.png"


def decode_map(members: Mapping[str, bytes], name: str, sample: Sample) -> np.ndarray:
    """The structure map `name` of a sample, uint8 [H, W] for a grey PNG, else [H, W, 3] RGB.

    Raises:
        UserError: if it is missing, damaged or of another size; the message has the sample and the member.
    """
    member, key = map_member(name), sample.meta.key
    if member not in members:
        raise UserError(f"sample {key} has no member {member}")
    pixels: np.ndarray = _decode(members, member, _decode_map, key)
    if pixels.shape[:2] != sample.image.shape[:2]:
        raise UserError(
            f"sample {key}: {member} has shape {pixels.shape[:2]}, the image {sample.image.shape[:2]}"
        )
    return pixels


def _decode_map(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        return np.array(picture if picture.mode == "L" else picture.convert("RGB"))


def _decode(members: Mapping[str, bytes], name: str, decoder: Callable[[bytes], Any], key: str) -> Any:
    if name not in members:
        raise UserError(f"sample {key or '(no key)'} has no member {name}; build the shard again")
    try:
        return decoder(members[name])
    except (ValueError, KeyError, TypeError, OSError, SyntaxError) as error:
        # A codec's message is of no use to users; the record's error shows which field or version is wrong.
        fault = f"cannot be read ({error})" if name == MEMBERS[3] else "is damaged"
        raise UserError(f"sample {key or '(no key)'}: member {name} {fault}") from None


def encode_jpeg(pixels: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """Encode uint8 [H, W, 3] RGB as JPEG, colour at half resolution (4:2:0)."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling="420"
    )


def decode_jpeg(content: bytes) -> np.ndarray:
    """Decode a JPEG to uint8 [H, W, 3] RGB; ValueError for any damage."""
    return simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)
