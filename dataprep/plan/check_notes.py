"""What a reader of annotations gives, against what it promises: lengths, unit, names that are unique."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataprep.records import Annotations
from dataprep.sources.source import Source
from intarsia.errors import UserError


def check_inputs(source: Source, inputs: Mapping[str, Path]) -> None:
    """Refuse files and folders that are not there, or are the other of the two.

    Raises:
        UserError: with the option, and what is there.
    """
    for item in source.inputs:
        path = inputs.get(item.role)
        if path is None:
            continue
        name = item.role.upper() if item.positional else f"--{item.role}"
        if not path.exists():
            raise UserError(f"{name} {path} does not exist{_what_is_there(path)}")
        if path.is_dir() and item.is_file:
            raise UserError(f"{name} {path} is a folder; give the file{_what_is_there(path / 'x')}")


def _what_is_there(path: Path) -> str:
    """`; PARENT has 'a', 'b'`, for a path that is missing."""
    parent = path.parent
    if not parent.is_dir():
        return f"; nor does {parent}"
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    some = ", ".join(map(repr, names[:3])) or "nothing"
    return f"; {parent} has {some}{', …' if len(names) > 3 else ''}"


def check_notes(name: str, source: Source, notes: Annotations) -> None:
    """Refuse annotations of which two pictures would have one sample key, and columns of other lengths.

    Args:
        name: name of the source.
        source: its value.
        notes: what its reader gave.

    Raises:
        UserError: for two pictures with one key, with both.
        ValueError: for a mistake of the reader.
    """
    if notes.unit != source.unit:
        raise ValueError(f"the reader of {name} gives {notes.unit}, its row says {source.unit}")
    pictures, boxes = len(notes.image_ids), len(notes.picture)
    columns = {"files": (len(notes.files), pictures), "sizes": (len(notes.sizes), pictures)}
    columns |= {
        what: (len(values), boxes)
        for what, values in {
            "box_ids": notes.box_ids,
            "bounds": notes.bounds,
            "label": notes.label,
            **notes.flags,
        }.items()
    }
    for what, (given, wanted) in columns.items():
        if given != wanted:
            of = "pictures" if what in ("files", "sizes") else "boxes"
            raise ValueError(f"the reader of {name} gives {given} {what} for {wanted} {of}")
    if boxes and not (np.issubdtype(notes.label.dtype, np.integer) and notes.label.max() < len(notes.labels)):
        raise ValueError(f"the reader of {name} gives a label that is not a place in `labels`")
    keys = pa.array((source.sample_key(image_id) for image_id in notes.image_ids), pa.string())
    if pc.count_distinct(keys).as_py() < pictures:
        key = next(key for key, number in Counter(keys.to_pylist()).items() if number > 1)
        places = pc.indices_nonzero(pc.equal(keys, key)).to_pylist()[:2]
        one, other = (notes.files[place] or notes.image_ids[place] for place in places)
        raise UserError(
            f"the pictures {one!r} and {other!r} would have the same sample key {key!r}; give each picture "
            "one name, and one file of annotations"
        )
