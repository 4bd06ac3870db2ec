"""Identity: how alike the object in the result and the exemplar are, to networks that papers use.

Each number is 100 · cosine of two vectors (DreamSim: a distance). Which part of the result is looked at, and
whether the exemplar is cut out, are options and part of the recipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.measures.measures import Measure
from evaluation.measures.metrics import Picture, cosine
from evaluation.metrics.metric import EditCase, Loading, Metric, Number
from evaluation.scoring.report import ReportColumn
from evaluation.scoring.scoring import Case, Request
from intarsia.errors import UserError

if TYPE_CHECKING:
    from evaluation.measures.vision import IdentityEncoder

_MASKS = {"result_mask": "--result-masks", "exemplar_mask": "--exemplar-masks"}
_ENDINGS = ("{}.png", "{}_ref.png", "{}_mask.png")


def add_identity_options(group: argparse._ArgumentGroup) -> None:
    """Add what identity looks at."""
    group.add_argument(
        "--identity-region",
        choices=("box", "object"),
        default="box",
        help="identity: part of the result, the edit mask's bounding box, or that of the object's own mask "
        "(--result-masks, or of the bench) (default %(default)s)",
    )
    group.add_argument(
        "--identity-background",
        choices=("keep", "blank"),
        default="keep",
        help="identity: what is outside of that mask in its box, kept or black (default %(default)s)",
    )
    group.add_argument(
        "--identity-exemplar",
        choices=("whole", "cut-out"),
        default="whole",
        help="identity: the whole exemplar, or its object's bounding box on black (--exemplar-masks, or of "
        "the bench) (default %(default)s)",
    )


def add_mask_folders(group: argparse._ArgumentGroup) -> None:
    """Add the folders of object masks."""
    group.add_argument(
        "--result-masks",
        type=Path,
        metavar="DIR",
        help="masks of the object in each result, KEY.png (white = object), such as SAM's",
    )
    group.add_argument(
        "--exemplar-masks",
        type=Path,
        metavar="DIR",
        help="masks of the exemplars' objects, KEY.png or KEY_ref.png (white = object)",
    )


def mask_file(case: EditCase, kind: str, options: argparse.Namespace) -> Path:
    """The mask "result_mask" or "exemplar_mask" of a case: of the option's folder, or the bench's own.

    Raises:
        UserError: if there is none.
    """
    folder: Path | None = getattr(options, kind + "s")
    if folder is None:
        if kind in case.files:
            return case.files[kind]
        raise UserError(f"case {case.key} has no {kind.replace('_', ' ')}; give {_MASKS[kind]} DIR")
    for ending in _ENDINGS:
        if (path := folder / ending.format(case.key)).is_file():
            return path
    raise UserError(f"{folder} has no mask of case {case.key}; {_MASKS[kind]} needs {case.key}.png for each")


def _object(picture: Picture, mask: Picture, keep: bool) -> Picture:
    from evaluation.measures.resizing import crop

    return crop(picture, mask[..., 0] > 127, keep)


def _region(options: argparse.Namespace, masked: bool) -> tuple[str, Any]:
    """Name of the result's part, and function from its pictures (and edit mask) to it."""
    from evaluation.measures.resizing import crop

    keep = options.identity_background == "keep"
    ground = "" if keep else "-on-black"
    if options.identity_region == "object":
        given = "given-" if options.result_masks else ""
        return f"{given}object{ground}", partial(_object, keep=keep)
    if not masked:
        return "whole", lambda picture: picture
    return f"mask-box{ground}", partial(crop, keep=keep)


def _exemplar(options: argparse.Namespace) -> tuple[str, Any]:
    if options.identity_exemplar == "whole":
        return "", lambda picture: picture
    return "cut-out-", partial(_object, keep=False)


def _exemplar_files(case: EditCase, options: argparse.Namespace) -> tuple[Path, ...]:
    cut_out = options.identity_exemplar == "cut-out"
    mask = (mask_file(case, "exemplar_mask", options),) if cut_out else ()
    return (case.files["exemplar"], *mask)


def _result_files(case: EditCase, options: argparse.Namespace) -> tuple[Path, ...]:
    of_object = options.identity_region == "object"
    return (case.files["result"], *((mask_file(case, "result_mask", options),) if of_object else ()))


def _edit_mask(case: EditCase, options: argparse.Namespace) -> Any:
    return case.mask if options.identity_region == "box" and case.has_mask else None


def _check_masks(loading: Loading) -> bool:
    """Whether the cases have edit masks; all files that the options need are looked for."""
    for case in loading.cases:
        for path in (*_result_files(case, loading.options), *_exemplar_files(case, loading.options)):
            if not path.is_file():
                raise UserError(f"{path} does not exist; case {case.key} needs it for its identity")
    return loading.cases[0].has_mask


def similarity(encoder: IdentityEncoder, column: tuple[str, str], loading: Loading) -> Number:
    """100 · cosine of the vectors of the result's part and of the exemplar.

    Args:
        encoder: network.
        column: name and title.
        loading: options and cases.
    """
    options, masked = loading.options, _check_masks(loading)
    (region, part), (cut, whole) = _region(options, masked), _exemplar(options)
    name = encoder.network.name
    ours = Measure(f"{name}/{region}-square224/v1", lambda *a: encoder.square(part(*a)), encoder.network)
    theirs = Measure(f"{name}/{cut}square224/v1", lambda *a: encoder.square(whole(*a)), encoder.network)

    def wanted(case: EditCase) -> Case:
        return {
            "result": Request(_result_files(case, options), ours, _edit_mask(case, options)),
            "exemplar": Request(_exemplar_files(case, options), theirs),
        }

    recipe = f"identity/{ours.identity} and {theirs.identity}"
    return Number(
        ReportColumn(*column, "up", recipe),
        wanted,
        lambda case, values: 100 * float(cosine(values["result"], values["exemplar"])),
    )


def load_encoder(loading: Loading, name: str) -> IdentityEncoder:
    """An encoder that several metrics share."""
    from evaluation.measures import features, resizing, vision

    if name.startswith("clip"):
        return vision.IdentityEncoder(loading.once(features.clip, name).of_squares, resizing.clip_square)
    return loading.once(vision.identity_encoder, name)


def _metric(name: str, weights: str, column: str, title: str) -> Metric:
    def load(loading: Loading) -> Sequence[Number]:
        return [similarity(load_encoder(loading, weights), (column, title), loading)]

    return Metric(
        help=f"{title}: 100 · cosine of the object in the result and the exemplar",
        load=load,
        weights=lambda options: [weights],
        needs=("exemplar",),
        without=name,
        add_options=(add_identity_options, add_mask_folders),
    )


def _dreamsim(loading: Loading) -> Sequence[Number]:
    from evaluation.measures import vision
    from evaluation.measures.resizing import unit_square

    options, masked = loading.options, _check_masks(loading)
    (region, part), (cut, whole) = _region(options, masked), _exemplar(options)
    network = loading.once(vision.dreamsim)
    count = 2 if options.identity_region == "object" else 1

    def prepare(*arguments: Any) -> np.ndarray:
        mask = arguments[-1:] if arguments[-1].ndim == 2 else ()
        pictures = arguments[: len(arguments) - len(mask)]
        pair = part(*pictures[:count], *mask), whole(*pictures[count:])
        return np.stack([unit_square(picture).transpose(2, 0, 1) for picture in pair])

    measure = Measure(f"dreamsim/{region}-and-{cut}square224/v1", prepare, network)

    def wanted(case: EditCase) -> Case:
        files = *_result_files(case, options), *_exemplar_files(case, options)
        return {"pair": Request(files, measure, _edit_mask(case, options))}

    column = ReportColumn("dreamsim", "DreamSim ×10²", "down", measure.identity)
    return [Number(column, wanted, lambda case, values: 100 * float(values["pair"]))]


CLIP_I_B32 = _metric("clip-i-b32", "clip-b32", "clip_i_b32", "CLIP-I B/32")
CLIP_I_L14 = _metric("clip-i-l14", "clip-l14", "clip_i_l14", "CLIP-I L/14")
DINO_S16 = _metric("dino-s16", "dino-s16", "dino_s16", "DINO S/16")
DINOV2_B14 = _metric("dinov2-b14", "dinov2-b14", "dinov2_b14", "DINOv2 B/14")
DINOV2_L14 = _metric("dinov2-l14", "dinov2-l14", "dinov2_l14", "DINOv2 L/14")
DREAMSIM = Metric(
    help="DreamSim distance of the object in the result and the exemplar",
    load=_dreamsim,
    weights=lambda options: ["dreamsim"],
    needs=("exemplar",),
    without="dreamsim",
    add_options=(add_identity_options, add_mask_folders),
)
