"""A recipe's augmentation as a function of picture, mask and the sample's generator."""

import random
from functools import lru_cache
from typing import Any

import numpy as np

from dataprep.draw.library import import_albumentations
from dataprep.draw.recipe import Recipe
from dataprep.draw.transforms import build_transforms, leaves_of, one_line, refusal
from intarsia.errors import UserError
from intarsia.sample import EXEMPLAR_SIZE

_CONSTANT = ("shape", "interpolation", "fill", "fill_mask")  # not drawn, and in no record
_MOST = 9  # numbers of one drawn value that a record keeps: those of a map


class SampleRandom(random.Random):
    """Python's generator on top of numpy's, so that all chance comes from the sample's generator."""

    source: np.random.Generator

    def seed(self, *_: Any, **__: Any) -> None:
        """The source has its own seed."""

    def random(self) -> float:
        """Uniform from 0 to below 1."""
        return self.source.random()

    def getrandbits(self, k: int, /) -> int:
        """A whole number below 2 ** k."""
        return int.from_bytes(self.source.bytes((k + 7) // 8), "little") >> (-k % 8)


class Pipeline:
    """An augmentation that can be called.

    Args:
        recipe: recipe that it belongs to.
        compose: albumentations' Compose.
    """

    def __init__(self, recipe: Recipe, compose: Any) -> None:
        self.recipe = recipe
        self.compose = compose
        self.leaves = leaves_of(compose)
        self._random = SampleRandom()

    def __call__(
        self, pixels: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
        """Augment a picture, and the object's mask with it.

        Args:
            pixels: uint8 [H, W, 3] RGB.
            mask: uint8 [H, W], 255 = object, or None.
            rng: generator of the sample.

        Returns:
            Picture and mask, and what was drawn: name -> value.

        Raises:
            UsageError: for a result that is not a picture of bytes, or has another size than is needed.
        """
        self._random.source = rng
        self.compose.set_random_state(rng, self._random)
        for leaf in self.leaves:
            leaf.params = {}  # of the call before, if it is not called now
        given = {"image": pixels} if mask is None else {"image": pixels, "mask": mask}
        # A pipeline that is always applied draws nothing to decide so.
        made = self.compose(force_apply=self.compose.p >= 1, **given)
        self._check(made["image"], pixels)
        return made["image"], made.get("mask"), self._drawn()

    def _check(self, image: Any, pixels: np.ndarray) -> None:
        same_size = self.recipe.exemplar.resize == "before"
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
            if image.shape == pixels.shape or (not same_size and image.ndim == 3 and image.shape[2] == 3):
                return
            found = f"uint8 {list(image.shape)}"
        else:
            found = str(getattr(image, "dtype", type(image).__name__))
        wanted = f"uint8 {list(pixels.shape)}" if same_size else "uint8 [H, W, 3]"
        names = ", ".join(type(leaf).__name__ for leaf in self.leaves)
        raise refusal(self.recipe, f"{names} gives {found}, and {wanted} is needed; remove what changes it")

    def _drawn(self) -> dict[str, Any]:
        """What the last call drew, by name; of a transform that was left out nothing, or what it notes."""
        drawn: dict[str, Any] = {}
        for leaf in self.leaves:
            if note := getattr(leaf, "note", None):
                drawn |= note(leaf.params)
            elif leaf.params:
                name, number = type(leaf).__name__, 1
                while name in drawn:
                    number += 1
                    name = f"{type(leaf).__name__} {number}"
                values = {key: _plain(value) for key, value in leaf.params.items() if key not in _CONSTANT}
                drawn[name] = {key: value for key, value in values.items() if value is not None}
        return drawn


@lru_cache(maxsize=8)
def open_pipeline(recipe: Recipe) -> Pipeline:
    """The recipe's pipeline; a process builds it once.

    Raises:
        UsageError: as `build_transforms`.
    """
    return Pipeline(recipe, build_transforms(recipe))


def check_pipeline(recipe: Recipe) -> None:
    """Call each transform of the recipe on a made-up picture, before a build or run depends on it.

    Raises:
        UsageError: for a transform that cannot be built, fails, changes the picture's type or size, or gives
            two results for one seed.
    """
    compose, side = import_albumentations().Compose, EXEMPLAR_SIZE
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), axis=2)
    mask: np.ndarray = np.zeros((side, side), np.uint8)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 255
    for leaf in leaves_of(build_transforms(recipe)):  # each by itself: chance may leave it out for long
        leaf.p = 1.0
        one = Pipeline(recipe, compose([leaf]))
        try:
            made = [one(pixels.copy(), mask.copy(), np.random.default_rng(0))[:2] for _ in range(2)]
        except UserError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {one_line(error)}"
            raise refusal(recipe, f"{type(leaf).__name__} fails ({what})") from error
        if not all(np.array_equal(a, b) for a, b in zip(*made, strict=True)):  # type: ignore[arg-type]
            raise refusal(recipe, f"{type(leaf).__name__} gives two results for the same seed")


def _plain(value: Any) -> Any:
    """A number, text or short list of them, as JSON has it; None for maps and other large things."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist() if value.size <= _MOST else None
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and len(value) <= _MOST:
        parts = [_plain(item) for item in value]
        return None if None in parts else parts
    return None
