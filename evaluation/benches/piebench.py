"""PIE-Bench (Ju et al. 2024, Direct Inversion): 700 pictures, prompts, masks; its table by its conventions.

The mask is 1 where the edit may change the picture, and its outermost pixels are set to 1. Background errors
are of pictures whose edited part is painted black, averaged over *all* pixels; a mask that covers everything
leaves NaN, which averages leave out. Similarity to the prompt is of the whole result, and of the result whose
background is painted black, both with the whole prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evaluation.measures.measures import Measure, Prepare, in_region, pixel_error
from evaluation.measures.metrics import Features, Mask, Picture, text_similarity
from evaluation.scoring.report import ReportColumn
from evaluation.scoring.scoring import Case, Request
from intarsia.errors import UserError
from intarsia.files import read_json

_SIZE = 512
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
# Column of the table -> what its values are multiplied by.
SCALES = {
    "structure_distance": 1e3,
    "psnr": 1.0,
    "lpips": 1e3,
    "mse": 1e4,
    "ssim": 1e2,
    "clip_whole": 1.0,
    "clip_edited": 1.0,
}
_TITLES: dict[str, tuple[str, Literal["up", "down"]]] = {
    "structure_distance": ("structure ×10³", "down"),
    "psnr": ("PSNR", "up"),
    "lpips": ("LPIPS ×10³", "down"),
    "mse": ("MSE ×10⁴", "down"),
    "ssim": ("SSIM ×10²", "up"),
    "clip_whole": ("CLIP whole", "up"),
    "clip_edited": ("CLIP edited", "up"),
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
    pairs = np.asarray(runs, np.int64)
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
            image_path=_text(record["image_path"]),
            source_prompt=_plain(record["original_prompt"]),
            target_prompt=_plain(record["editing_prompt"]),
            category=category,
            edit_mask=decode_mask(record["mask"]),
            blend_words=_blend_words(record.get("blended_word") or ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}, record {key}: {error!r} is not as PIE-Bench has it") from None


def _blend_words(text: str) -> tuple[str, str] | None:
    """The first two words, which are all that the published code uses."""
    words = text.split()
    if len(words) == 1:
        raise ValueError(f"blended_word {text!r} is not a word of each prompt")
    return (words[0], words[1]) if words else None


def find_results(cases: Sequence[PieCase], results: Path, only_present: bool = False) -> dict[str, Path]:
    """Key -> result: below `results` at the source's path or by the key, as PNG, JPEG or WebP.

    Raises:
        UserError: if any is missing (any at all with `only_present`), saying how many and which is the first.
    """
    found = {}
    for case in cases:
        stems = Path(case.image_path).with_suffix(""), Path(case.key)
        names = dict.fromkeys(results / f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES)
        places = [name for name in names if name.is_file()]
        if len(places) > 1:
            raise UserError(
                f"{results} has {len(places)} results of case {case.key}: {places[0].relative_to(results)} "
                f"and {places[1].relative_to(results)}; keep one"
            )
        if places:
            found[case.key] = places[0]
    missing = [case for case in cases if case.key not in found]
    if missing and not (found and only_present):
        raise UserError(
            f"{results} lacks {len(missing)} of {len(cases)} results (first {missing[0].image_path}); give a "
            "folder with all of them, or --only-present for a table that is not comparable"
        )
    return found


@dataclass(frozen=True)
class Measures:
    """The feature networks of the table: made by `features`; None leaves its numbers out.

    Attributes:
        structure: structure distance of two pictures.
        lpips: LPIPS of two pictures' backgrounds, the rest painted black.
        clip: features of a whole picture.
    """

    structure: Measure | None
    lpips: Measure | None
    clip: Measure | None


def requests(case: PieCase, source: Path, result: Path, measures: Measures) -> Case:
    """The values of one result that the table has."""
    pair, mask = (source, result), case.edit_mask

    def pixels(name: Literal["mse", "psnr", "ssim-rgb"]) -> Request:
        return Request(pair, _of_squares(pixel_error(name, "background", "blank")), mask)

    found = {"psnr": pixels("psnr"), "mse": pixels("mse"), "ssim": pixels("ssim-rgb")}
    if measures.structure:
        found["structure_distance"] = Request(pair, _of_squares(measures.structure))
    if measures.lpips:
        found["lpips"] = Request(pair, _of_squares(measures.lpips), mask)
    if clip := measures.clip:
        what, how, version = clip.recipe.split("/")
        edited = Measure(
            f"{what}/edited-blank-{how}/{version}", in_region(clip.prepare, "edited"), clip.network
        )
        found["clip_whole"] = Request((result,), _of_squares(clip))
        found["clip_edited"] = Request((result,), _of_squares(edited), mask)
    return {name: found[name] for name in SCALES if name in found}


def columns_of(wanted: Case) -> list[ReportColumn]:
    """The table's columns, with the recipes of the requests."""
    return [
        ReportColumn(name, title, better, wanted[name].measure.identity)
        for name, (title, better) in _TITLES.items()
        if name in wanted
    ]


def row_of(values: Mapping[str, Any], prompt: Features | None) -> dict[str, float]:
    """A case's numbers, scaled as the table has them.

    Args:
        values: request name -> value, from `requests`.
        prompt: text features of the target prompt, for the similarities to it.
    """
    row = {
        name: float(text_similarity(value, prompt) if name.startswith("clip") else value)
        for name, value in values.items()
    }
    return {name: SCALES[name] * row[name] for name in SCALES if name in row}


def _of_squares(measure: Measure) -> Measure:
    """The same on the rightmost square of strips that hold several pictures, as published results are."""
    what, how, version = measure.recipe.split("/")

    def prepare(*arguments: Any) -> Any:
        return measure.prepare(*(_square(a) if a.ndim == 3 else a for a in arguments))

    chosen: Prepare = prepare
    return Measure(f"{what}/last{_SIZE}-{how}/{version}", chosen, measure.network, measure.finish)


def _square(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    if height != _SIZE or width < _SIZE:  # a strip of larger squares would be cut to a corner of one
        raise ValueError(
            f"the picture is {width} × {height} pixels; PIE-Bench needs {_SIZE} × {_SIZE}, or --resize"
        )
    return picture[-_SIZE:, -_SIZE:]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _plain(prompt: object) -> str:
    return _text(prompt).replace("[", "").replace("]", "")
