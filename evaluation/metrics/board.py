"""Foreground numbers of bcmi's board of image composition, as its repository computes them.

They need SAM's masks of the results and of the exemplars, as folders: --result-masks, --exemplar-masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from evaluation.measures.measures import Measure, Network
from evaluation.measures.metrics import Mask, Picture, check_sizes, cosine
from evaluation.metrics.clip_score import clip_b32
from evaluation.metrics.identity import add_mask_folders, load_encoder, mask_file
from evaluation.metrics.metric import EditCase, Loading, Metric, Number, SetAnswers, SetNumber
from evaluation.scoring.report import ReportColumn, SetFigure
from evaluation.scoring.scoring import Case, Request
from evaluation.scoring.set_figures import frechet_figure, of_features

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 224
_GROUND = "GT-crops"


def foregrounds(
    result: Picture, result_mask: Picture, exemplar: Picture, exemplar_mask: Picture, edit_mask: Mask
) -> tuple[Picture, Picture]:
    """The two pictures that the board compares: the object in the result, and the exemplar's, on black.

    The result is cut to the edit mask's box; the exemplar and its mask are resized to that cut's size by
    Pillow's bicubic. A mask is what is above 127.

    Args:
        result: uint8 [H, W, 3].
        result_mask: mask of its object as a picture of the same size.
        exemplar: uint8 of any size.
        exemplar_mask: mask of its object as a picture of the same size.
        edit_mask: bool [H, W].

    Raises:
        ValueError: for masks of other sizes, or an empty edit mask.
    """
    from sampling.canvas.canvas import mask_box

    check_sizes(edit_mask, result)
    check_sizes(result_mask[..., 0], result)
    check_sizes(exemplar_mask[..., 0], exemplar)
    if not edit_mask.any():
        raise ValueError("the mask marks nothing")
    box = mask_box(edit_mask)
    size = box.width, box.height
    own = box.cut(result) * (box.cut(result_mask)[..., :1] > 127)
    theirs = np.asarray(Image.fromarray(exemplar).resize(size))
    shape = np.asarray(Image.fromarray(exemplar_mask[..., 0]).resize(size)) > 127
    return np.ascontiguousarray(own), theirs * shape[..., None]


def small_crop(picture: Picture, edit_mask: Mask) -> Picture:
    """The result as FID_fg looks at it: squashed to 224 × 224, cut to the box there, squashed again."""
    from sampling.canvas.canvas import mask_box

    check_sizes(edit_mask, picture)
    small = Image.fromarray(picture).resize((_SIDE, _SIDE))
    mask = np.asarray(Image.fromarray(edit_mask.astype(np.uint8) * 255).resize((_SIDE, _SIDE))) > 0
    if not mask.any():
        raise ValueError("the mask marks nothing at 224 × 224 pixels")
    box = mask_box(mask)
    return np.asarray(small.crop((box.x0, box.y0, box.x1, box.y1)).resize((_SIDE, _SIDE)))


def _number(
    column: tuple[str, str],
    network: Network,
    square: Callable[[Picture], NDArray[np.float32]],
    how: str,
    loading: Loading,
) -> Number:
    """100 · cosine of the two foregrounds."""

    def side(place: int) -> Measure:
        return Measure(
            f"{network.name}/{('result', 'exemplar')[place]}-fg-{how}/v1",
            lambda *arguments: square(foregrounds(*arguments)[place]),
            network,
        )

    ours, theirs = side(0), side(1)
    for case in loading.cases:  # looked for before anything is computed
        _files(case, loading)

    def wanted(case: EditCase) -> Case:
        files = _files(case, loading)
        return {"result": Request(files, ours, case.mask), "exemplar": Request(files, theirs, case.mask)}

    given = "given masks" if loading.options.result_masks else "the bench's masks"
    return Number(
        ReportColumn(*column, "up", f"board-fg/{ours.identity} and {theirs.identity} with {given}"),
        wanted,
        lambda case, values: 100 * float(cosine(values["result"], values["exemplar"])),
    )


def _files(case: EditCase, loading: Loading) -> tuple:
    masks = {kind: mask_file(case, kind, loading.options) for kind in ("result_mask", "exemplar_mask")}
    return case.files["result"], masks["result_mask"], case.files["exemplar"], masks["exemplar_mask"]


def _clip(loading: Loading) -> Sequence[Number]:
    from evaluation.measures.resizing import clip_square

    network = clip_b32(loading).of_squares
    return [_number(("clip_fg", "CLIP_fg"), network, clip_square, "square224", loading)]


def _dino(loading: Loading) -> Sequence[Number]:
    """The folder's own pooler, as the board asks for; the class token where the folder has none.

    The board's pooler output of facebook/dino-vits16, which has no pooler, is that of random weights.
    """
    from evaluation.measures.resizing import imagenet_bilinear

    found = load_encoder(loading, "dino-s16")
    network = found.pooler or found.network
    if not found.pooler:
        loading.remarks.append(
            "DINO_fg is of the class token: these weights have no pooler, and the board's numbers, of a "
            "pooler with random weights, cannot be computed from the file"
        )
    return [_number(("dino_fg", "DINO_fg"), network, imagenet_bilinear, "bilinear-square224", loading)]


def _fid(loading: Loading) -> Sequence[SetNumber]:
    from evaluation.measures.features import of_crop
    from evaluation.measures.resizing import clip_square

    network = clip_b32(loading).of_squares
    ours = Measure(
        f"{network.name}/square224-box-square224/v1",
        lambda picture, mask: clip_square(small_crop(picture, mask)),
        network,
    )
    theirs = of_crop(Measure(f"{network.name}/square224/v1", clip_square, network))

    def wanted(case: EditCase) -> Case:
        return {
            "result": Request((case.files["result"],), ours, case.mask),
            "own": Request((case.files["image"],), theirs, case.mask),
        }

    def figures(answers: SetAnswers) -> tuple[list[SetFigure], Sequence[str]]:
        from evaluation.scoring.references import pictures_digest

        own = answers.values["own"]
        digest = pictures_digest([case.files["image"] for case in answers.cases], loading.store)
        against = of_features(_GROUND, theirs.identity, own, digest, loading.store)
        recipe = f"frechet/{ours.identity} to {against.described}"
        column = ReportColumn("fid_fg", "FID_fg", "down", recipe)
        figure, notes = frechet_figure(answers.values["result"], against, column, store=loading.store)
        return [figure], notes

    return [SetNumber(figures, wanted, least=2)]


BOARD_CLIP = Metric(
    help="CLIP_fg of bcmi's board, with SAM's masks of results and exemplars",
    load=_clip,
    weights=lambda options: ["clip-b32"],
    needs=("mask", "exemplar"),
    add_options=(add_mask_folders,),
)
BOARD_DINO = Metric(
    help="DINO_fg of bcmi's board, with SAM's masks of results and exemplars",
    load=_dino,
    weights=lambda options: ["dino-s16"],
    needs=("mask", "exemplar"),
    add_options=(add_mask_folders,),
)
BOARD_FID = Metric(
    help="FID_fg of bcmi's board: Fréchet distance of CLIP features in the mask's box",
    load=_fid,
    weights=lambda options: ["clip-b32"],
    needs=("image", "mask"),
)
