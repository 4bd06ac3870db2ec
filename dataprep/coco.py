"""COCO instance annotations to columns; no pixels are read."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.pictures import refuse_lfs_pointer
from dataprep.records import Annotations
from intarsia.errors import UserError

_BAD_BOUNDS = (float("nan"),) * 4


def read_coco(path: Path | str) -> Annotations:
    """Read an instances file through pycocotools.

    A record whose box is not four numbers is kept with bounds that are no numbers, so that it is counted as a
    bad box; one of a picture that the file does not list is kept as an unknown picture's.

    Args:
        path: a COCO json with `images`, `annotations` and `categories`.

    Raises:
        UserError: if the file is missing, a git-LFS pointer, not JSON, or not COCO's.
    """
    images, records, names = _load(Path(path))
    order = {image_id: place for place, image_id in enumerate(images)}
    labels = sorted(set(names.values()))
    label_codes = {name: code for code, name in enumerate(labels)}
    unknown = [r["category_id"] for r in records if r.get("category_id") not in names]
    if unknown:
        raise UserError(f"{path}: category_id {unknown[0]!r} of an annotation is not among its categories")
    return Annotations(
        source="coco",
        fractions=False,
        image_ids=[str(image_id) for image_id in images],
        files=[str(image.get("file_name", "")) for image in images.values()],
        sizes=np.array(
            [(int(i.get("width") or 0), int(i.get("height") or 0)) for i in images.values()], np.int32
        ).reshape(-1, 2),
        picture=np.array([order.get(r.get("image_id"), -1) for r in records], np.int64),
        box_ids=np.array([r["id"] for r in records], np.int64),
        bounds=np.array([_bounds(r.get("bbox")) for r in records], np.float64).reshape(-1, 4),
        label=np.array([label_codes[names[r["category_id"]]] for r in records], np.int32),
        labels=labels,
        flags={"is_crowd": np.array([int(bool(r.get("iscrowd", 0))) for r in records], np.int8)},
    )


def _load(path: Path) -> tuple[dict[Any, dict], list[dict], dict[Any, str]]:
    from pycocotools.coco import COCO

    refuse_lfs_pointer(path)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
        return coco.imgs, list(coco.anns.values()), {i: str(c["name"]) for i, c in coco.cats.items()}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None
    except (AssertionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a COCO instances file: lists `images`, `annotations` and `categories` are needed "
            f"({type(error).__name__}: {error})"
        ) from None


def _bounds(bbox: Any) -> tuple[float, float, float, float]:
    """COCO's (x, y, width, height) to corners; not-a-numbers for anything else."""
    try:
        x, y, width, height = (float(value) for value in bbox)
    except (TypeError, ValueError):
        return _BAD_BOUNDS
    return x, y, x + width, y + height


def coco_key(image_id: str) -> str:
    """The picture's part of a sample key: COCO pads its numbers to twelve digits."""
    return image_id.zfill(12) if re.fullmatch(r"\d+", image_id) else image_id
