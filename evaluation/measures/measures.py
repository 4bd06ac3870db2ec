"""Measures of pictures: a measure has a recipe and perhaps a network; and the errors of pixels.

A recipe reads `what/how the pictures got there/version`, such as `clip-b32/bicubic224/v1`. Two numbers are
comparable only if their recipes and their weights' fingerprints are equal; a change of arithmetic gets a new
version. Measures with networks are made in `features`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.measures import metrics
from evaluation.measures.metrics import Mask, Picture

Value: TypeAlias = NDArray[np.floating]
Prepare: TypeAlias = Callable[..., NDArray[Any]]
Region = Literal["whole", "background", "edited"]
How = Literal["only", "blank", "inside"]
Feed = Literal["published", "right"]  # of DINO, in the structure distance


class NothingLeft(ValueError):
    """The region has no pixel; the value is NaN, and averages leave it out."""


@dataclass(frozen=True)
class Network:
    """A network that takes arrays.

    Attributes:
        name: key of `weights.WEIGHT_SOURCES`.
        weights: fingerprint of its weights.
        run: float32 [B, ...] -> float32 [B, ...].
    """

    name: str
    weights: str
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Measure:
    """A value of one picture or of several.

    Attributes:
        recipe: all that decides the value, except the weights.
        prepare: decoded pictures, and the mask if there is one -> the network's input without batch axis, or,
            without a network, the value. Raises ValueError for pictures that do
            not fit, NothingLeft for an empty region.
        network: feature network; None = `prepare` gives the value.
        finish: the network's output for one case -> the value.
    """

    recipe: str
    prepare: Prepare
    network: Network | None = None
    finish: Callable[[NDArray[np.float32]], Value] | None = None

    @property
    def identity(self) -> str:
        """Recipe and weights: with the pictures' bytes, all that the value depends on."""
        return f"{self.recipe}@{self.network.weights}" if self.network else self.recipe


def pixel_error(
    name: Literal["mse", "psnr", "ssim", "ssim-rgb"], region: Region = "whole", how: How = "only"
) -> Measure:
    """An error of two pictures' pixels, a single float64.

    Args:
        name: name of the function in `metrics`; `ssim` uses grey, `ssim-rgb` the three channels.
        region: part of the picture; `background` and `edited` need a mask.
        how: `only` = mean over the region's pixels; `blank` = the rest painted black and the mean over
            everything, as in published tables; `inside` = mean over the pixels whose whole window is in the
            region, for SSIM.
    """
    function: Callable[..., float] = {
        "mse": metrics.mse,
        "psnr": metrics.psnr,
        "ssim": metrics.ssim,
        "ssim-rgb": lambda a, b, where=None: metrics.ssim(a, b, where, "rgb"),
    }[name]

    def value(a: Picture, b: Picture, where: Mask | None = None) -> NDArray[np.float64]:
        return np.asarray(function(a, b, where))

    def chosen(a: Picture, b: Picture, mask: Mask) -> NDArray[np.float64]:
        return value(a, b, region_of(mask, region))

    def within(a: Picture, b: Picture, mask: Mask) -> NDArray[np.float64]:
        metrics.check_sizes(mask, a)
        where = metrics.inside(region_of(mask, region))
        if not where.any():
            raise NothingLeft(f"no window is {region} as a whole")
        return value(a, b, where)

    recipe = metrics.SSIM_RECIPE if name.startswith("ssim") else name
    recipe = recipe.format(channels="rgb" if name == "ssim-rgb" else "grey")
    if region == "whole":
        return Measure(f"{recipe}/whole/v1", value)
    prepare: Prepare = {"only": chosen, "inside": within, "blank": in_region(value, region)}[how]
    return Measure(f"{recipe}/{region}-{how}/v1", prepare)


def in_region(prepare: Prepare, region: Region) -> Prepare:
    """The same on pictures whose rest is painted black; takes a mask after the pictures unless `whole`."""
    if region == "whole":
        return prepare

    def blanked(*arguments: Any) -> NDArray[Any]:
        *pictures, mask = arguments
        for picture in pictures:
            metrics.check_sizes(mask, picture)
        rest = ~region_of(mask, region)
        return prepare(*(metrics.blank(picture, rest) for picture in pictures))

    return blanked


def region_of(mask: Mask, region: Region) -> Mask:
    """The pixels of a region; `edited` is the mask, `background` its complement.

    Raises:
        NothingLeft: if there are none.
    """
    chosen = mask if region == "edited" else ~mask
    if not chosen.any():
        raise NothingLeft(f"no pixel is {region}")
    return chosen
