"""Captions of pictures: COCO's captions file, and Open Images' Localized Narratives; no pixels are read."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataprep.formats.json_stream import stream_object
from dataprep.records import Annotations
from intarsia.errors import UserError
from intarsia.files import refuse_lfs_pointer
from intarsia.words import counted


def with_captions(
    notes: Annotations, captions: Iterator[tuple[str, str]], source: Path, key: Callable[[str], str] = str
) -> Annotations:
    """The annotations with the captions of their pictures; a remark counts those of other pictures.

    Args:
        notes: annotations of the pictures.
        captions: (image id, caption) in any order.
        source: file of the captions, for the remark.
        key: image id -> what is the same for all spellings of it.
    """
    places = {key(image_id): place for place, image_id in enumerate(notes.image_ids)}
    found: dict[int, dict[str, None]] = {}
    others = 0
    for image_id, caption in captions:
        place = places.get(key(image_id))
        if place is None:
            others += 1
        elif words := tidy_caption(caption):
            found.setdefault(place, {})[words] = None
    remarks = notes.remarks
    if others:
        remarks += (f"{source}: {counted(others, 'caption')} of pictures that are not annotated",)
    return replace(notes, captions={place: tuple(texts) for place, texts in found.items()}, remarks=remarks)


def tidy_caption(text: str) -> str:
    """A caption without line breaks and further spaces."""
    return " ".join(text.split())


def read_coco_captions(path: Path) -> Iterator[tuple[str, str]]:
    """(image id, caption) of a captions_*.json.

    Raises:
        UserError: if it is missing, not JSON, or an annotation has no caption.
    """
    refuse_lfs_pointer(path)
    number = 0
    for name, element in stream_object(path):
        if name != "annotations":
            continue
        if not isinstance(element, dict):
            continue
        number += 1
        yield _pair(element, f"{path}: element {number} of `annotations`")
    if not number:
        raise UserError(f"{path} holds no caption: it has no list `annotations` with elements")


def read_narratives(path: Path) -> Iterator[tuple[str, str]]:
    """(image id, caption) of Localized Narratives: a .jsonl file, or a folder of them.

    Raises:
        UserError: if there is none, or a line is not a record with image_id and caption; the line is named.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no .jsonl file; give Localized Narratives' files of captions")
    for file in files:
        refuse_lfs_pointer(file)
        with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _narrative(line, f"{file}, line {number}")


def _narrative(line: str, where: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        raise UserError(f"{where}: it is not a record in JSON; is the file whole?") from None
    return _pair(record, where)


def _pair(record: Any, where: str) -> tuple[str, str]:
    image_id = record.get("image_id") if isinstance(record, dict) else None
    caption = record.get("caption") if isinstance(record, dict) else None
    if not isinstance(image_id, str | int) or not isinstance(caption, str):
        raise UserError(f"{where} is not a caption: it needs image_id and caption, a text")
    return str(image_id), caption
