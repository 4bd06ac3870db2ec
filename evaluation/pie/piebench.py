"""PIE-Bench (Ju et al. 2024, Direct Inversion): 700 pictures, prompts, masks.

The mask is 1 where the edit may change the picture, and its outermost pixels are set to 1.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.measures.metrics import Mask
from intarsia.errors import UserError
from intarsia.files import read_json

_SIZE = 512
_BRACKETS = str.maketrans("", "", "[]")  # around the word that changes
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CATEGORIES = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change colour",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}


@dataclass(frozen=True, eq=False)
class PieCase:
    """One record of the bench.

    Attributes:
        key: its number.
        image_path: path of the source picture below `annotation_images`.
        source_prompt: description of the source, without the brackets around the changed word.
        target_prompt: description of the edit.
        category: key of `CATEGORIES`.
        edit_mask: bool [512, 512], the outermost pixels True.
        blend_words: words of the source and of the target prompt that Prompt-to-Prompt keeps its change to;
            None if the record has none.
    """

    key: str
    image_path: str
    source_prompt: str
    target_prompt: str
    category: str
    edit_mask: Mask
    blend_words: tuple[str, str] | None = None


def decode_mask(runs: Sequence[int], size: int = _SIZE) -> Mask:
    """Run-length pairs (start, length) over the rows one after the other -> bool [size, size].

    A run is cut off at the picture's end. The outermost pixels are set, as the published evaluator sets them.

    Raises:
        ValueError: for an odd number of entries, or a run that starts outside or is negative.
    """
    try:
        pairs = np.asarray(runs, np.int64)
    except OverflowError:
        raise ValueError(f"a run is outside of {size} × {size} pixels") from None
    if pairs.size % 2:
        raise ValueError(f"{pairs.size} entries are no pairs of start and length")
    starts, lengths = pairs[::2], pairs[1::2]
    if (starts < 0).any() or (starts >= size**2).any() or (lengths < 0).any():
        raise ValueError(f"a run is outside of {size} × {size} pixels")
    flat: Mask = np.zeros(size**2, bool)
    for start, length in zip(starts, lengths, strict=True):
        flat[start : start + length] = True
    mask = flat.reshape(size, size)
    mask[[0, -1]] = mask[:, [0, -1]] = True
    return mask


def read_bench(folder: Path | str) -> list[PieCase]:
    """The records of `mapping_file.json`, in its order.

    Raises:
        UserError: if it is missing, damaged, or a record lacks something or names an unknown category.
    """
    path = Path(folder) / "mapping_file.json"
    content = read_json(path, unique=True)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} has no records; give the mapping_file.json of PIE-Bench")
    return [_case(path, key, record) for key, record in content.items()]


def _case(path: Path, key: str, record: Any) -> PieCase:
    try:
        category = str(record["editing_type_id"])
        CATEGORIES[category]
        return PieCase(
            key=key,
            image_path=_inner_path(record),
            source_prompt=_text(record, "original_prompt").translate(_BRACKETS),
            target_prompt=_text(record, "editing_prompt").translate(_BRACKETS),
            category=category,
            edit_mask=decode_mask(record["mask"]),
            blend_words=_blend_words(record.get("blended_word") or ""),
        )
    except UserError as error:
        raise UserError(f"{path}, record {key}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}, record {key}: {error!r} is not as PIE-Bench has it") from None


def _blend_words(text: str) -> tuple[str, str] | None:
    """The first two words, which are all that the published code uses."""
    words = text.split()
    if len(words) == 1:
        raise ValueError(f"blended_word {text!r} is not a word of each prompt")
    return (words[0], words[1]) if words else None


def find_results(sources: Mapping[str, str], results: Path, only_present: bool = False) -> dict[str, Path]:
    """Key -> result: below `results` at the source's path or by the key, as PNG, JPEG or WebP.

    Args:
        sources: key -> path of the source below `annotation_images`.
        results: folder of results.
        only_present: leave out the others, instead of refusing.

    Raises:
        UserError: if any is missing (any at all with `only_present`), saying how many and which is the first.
    """
    found = {}
    for key, source in sources.items():
        stems = Path(source).with_suffix(""), Path(key)
        names = dict.fromkeys(results / f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES)
        places = [name for name in names if name.is_file()]
        if len(places) > 1:
            raise UserError(
                f"{results} has {len(places)} results of case {key}: {places[0].relative_to(results)} "
                f"and {places[1].relative_to(results)}; keep one"
            )
        if places:
            found[key] = places[0]
    missing = [source for key, source in sources.items() if key not in found]
    if missing and not (found and only_present):
        raise UserError(
            f"{results} lacks {len(missing)} of {len(sources)} results (first {missing[0]}); give a "
            "folder with all of them, or --only-present for a table that is not comparable"
        )
    return found


def _text(record: Mapping[str, Any], name: str) -> str:
    if not isinstance(record[name], str):
        raise UserError(f"{name} is {json.dumps(record[name])}; it must be a text, as PIE-Bench has it")
    return record[name]


def _inner_path(record: Mapping[str, Any]) -> str:
    """The path of the source, which is also that of its result: one that leaves the folder is refused."""
    path = _text(record, "image_path")
    if Path(path).is_absolute() or ".." in Path(path).parts or not Path(path).name:
        raise UserError(f"image_path is {json.dumps(path)}; it must be a path below annotation_images")
    return path
