"""Metrics of one picture or one pair as pure functions of arrays.

Distances between sets of pictures are in `distributions`, confidence in `confidence`. Every function is in
float64 inside, for any input.

**Masks.** `where` restricts a mean to some pixels: the edit mask for the edited region, its complement for
the background, None for the whole picture. Published tables often do something else: they paint the rest
black and average over all pixels. `blank` does that, so that both can be had and neither is mistaken for the
other.
"""

import math
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sampling.pictures import Mask, Picture

Features: TypeAlias = NDArray[np.floating]  # [..., D]
Float: TypeAlias = NDArray[np.float64]

SSIM_RECIPE = "ssim-gauss11-valid-{channels}"
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # for values in [0, 1]
_GREY = (0.2989360213, 0.5870430745, 0.1140209043)  # MATLAB's rgb2gray


def check_sizes(mask: Mask, picture: Picture) -> None:
    """Check that a mask [H, W] has the size of its picture [H, W, 3].

    Raises:
        ValueError: for another size.
    """
    (height, width), (rows, columns) = mask.shape, picture.shape[:2]
    if (height, width) != (rows, columns):
        raise ValueError(f"the mask is {width} x {height} pixels and a picture {columns} x {rows}, not alike")


def mse(result: Picture, truth: Picture, where: Mask | None = None) -> float:
    """The mean squared error of pixel values in [0, 1].

    Args:
        result: uint8 [H, W, 3].
        truth: uint8 [H, W, 3].
        where: bool [H, W], the pixels of the mean; None = all. For the edited region this is the edit mask,
            for the background its complement.

    Raises:
        ValueError: for different shapes, or an empty region.
    """
    _check(result, truth, where)
    a, b = (result, truth) if where is None else (result[where], truth[where])
    difference = a.astype(np.int32) - b  # whole numbers: exact, and faster
    return int((difference * difference).sum(dtype=np.int64)) / (difference.size * 255**2)


def psnr(result: Picture, truth: Picture, where: Mask | None = None) -> float:
    """The peak signal-to-noise ratio in dB, peak 1: -10 log10 of `mse`; infinite for equal pixels."""
    error = mse(result, truth, where)
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(
    result: Picture,
    truth: Picture,
    where: Mask | None = None,
    channels: Literal["grey", "rgb"] = "grey",
) -> float:
    """The mean structural similarity: Gaussian window 11 × 11 of sigma 1.5, population covariance, K .01 and
    .03, no downsampling, mean over the pixels whose window is inside the picture.

    One definition, since others differ by more than methods do: `grey` (rounded to whole levels) is Wang et
    al. 2004 as MATLAB's authors publish it; `rgb` (each channel, then the mean) is what torchmetrics computed
    until 1.4 and PIE-Bench's table therefore holds; later versions mirror the picture at its edges.

    Args:
        result: uint8 [H, W, 3], 11 pixels or more a side.
        truth: same shape.
        where: bool [H, W], the centres of the windows; None = all.
        channels: grey or rgb, see above.

    Raises:
        ValueError: for different shapes, pictures smaller than the window, or an empty region.
    """
    _check(result, truth, where)
    if min(truth.shape[:2]) < _WINDOW:
        raise ValueError(
            f"a picture of {truth.shape[1]} × {truth.shape[0]} has no window of {_WINDOW} pixels"
        )
    a, b = (_planes(picture, channels) for picture in (result, truth))
    mean_a, mean_b = _smooth(a), _smooth(b)
    product = mean_a * mean_b
    squares = mean_a**2 + mean_b**2
    covariance = _smooth(a * b) - product
    variances = _smooth(a * a + b * b) - squares
    similarity = ((2 * product + _C1) * (2 * covariance + _C2)) / ((squares + _C1) * (variances + _C2))
    if where is None:
        return float(similarity.mean())
    edge = _WINDOW // 2
    centres = where[edge:-edge, edge:-edge]
    if not centres.any():
        raise ValueError("no window's centre to compare")
    return float(similarity[:, centres].mean())


def inside(where: Mask) -> Mask:
    """The pixels [H, W] whose whole SSIM window is in `where`, so that nothing beyond it is looked at."""
    kept, edge = where, _WINDOW // 2
    for axis in (0, 1):
        length = kept.shape[axis] - _WINDOW + 1
        if length < 1:
            return np.zeros_like(where)
        moved = (kept.take(range(start, start + length), axis) for start in range(_WINDOW))
        kept = np.logical_and.reduce(list(moved))
    return np.pad(kept, edge)


def blank(picture: Picture, region: Mask) -> Picture:
    """The picture with `region` (bool [H, W]) painted black: how published tables leave a region out."""
    return picture * ~region[..., None]


def cosine(a: Features, b: Features) -> Float:
    """The cosine of the angle between vectors along the last axis; NaN for a vector of zeros."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(-1) / lengths)


def clip_score(result: Features, exemplar: Features) -> Float:
    """Paint by Example's CLIP score: 100 cos of the image features of the repainted part and of the exemplar.

    Args:
        result: [..., D]; of which part, and how it was resized, is in the features' recipe.
        exemplar: [..., D].
    """
    return 100 * cosine(result, exemplar)


def text_similarity(image: Features, text: Features) -> Float:
    """CLIP similarity of pictures and their descriptions as PIE-Bench has it: max(100 cos, 0)."""
    return np.maximum(100 * cosine(image, text), 0)


def directional_similarity(
    source: Features, result: Features, source_text: Features, target_text: Features
) -> Float:
    """Directional similarity of picture and words: cos(result - source, target_text - source_text), all of
    unit length first (Gal et al. 2022, StyleGAN-NADA, eq. 2). NaN without a change.

    Args:
        source: image features [..., D] of the picture before the edit.
        result: image features [..., D] of the picture after the edit.
        source_text: text features of the description before.
        target_text: text features of the description after.
    """
    return cosine(_unit(result) - _unit(source), _unit(target_text) - _unit(source_text))


def structure_distance(keys_a: Features, keys_b: Features) -> float:
    """How far two pictures' layouts are: the mean squared difference of the self-similarities of their keys
    (Tumanyan et al. 2022, Splicing ViT features, section 3.2).

    Args:
        keys_a: [T, D], the keys of a vision transformer's last block, all heads side by side, class token
            included.
        keys_b: [T, D].
    """
    a, b = _unit(keys_a), _unit(keys_b)
    return float(np.mean((a @ a.T - b @ b.T) ** 2))


def _check(result: Picture, truth: Picture, where: Mask | None) -> None:
    if result.shape != truth.shape or (where is not None and where.shape != truth.shape[:2]):
        raise ValueError(
            f"shapes differ: {result.shape}, {truth.shape}, {None if where is None else where.shape}"
        )
    if not truth.size or (where is not None and not where.any()):
        raise ValueError("no pixel to compare")


def _planes(picture: Picture, channels: str) -> Float:
    """[C, H, W] in [0, 1]."""
    if channels == "rgb":
        return picture.transpose(2, 0, 1) / 255
    return np.round(picture.astype(np.float64) @ _GREY)[None] / 255


def _smooth(planes: Float) -> Float:
    """[C, H, W] -> Gaussian means [C, H - 10, W - 10] of the windows inside the picture."""
    offsets: Float = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (1, 2):
        length = planes.shape[axis] - _WINDOW + 1
        pieces = (_slice(planes, axis, start, start + length) for start in range(_WINDOW))
        smooth = next(pieces) * weights[0]
        for weight, piece in zip(weights[1:], pieces, strict=True):
            smooth += weight * piece
        planes = smooth
    return planes


def _slice(planes: Float, axis: int, start: int, stop: int) -> Float:
    return planes[:, start:stop] if axis == 1 else planes[:, :, start:stop]


def _unit(vectors: Features) -> Float:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
