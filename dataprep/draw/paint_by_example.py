"""Paint by Example's augmentation as transforms of albumentations, for pipelines in recipes.

They draw and compute as data prep does since its beginning: whole numbers, the same bytes on every processor,
reflection at the borders. `note` is what a sample's record keeps of a draw. Whoever imports this module loads
albumentations; only `dataprep.draw.pipeline` does.
"""

from typing import Any, ClassVar

import cv2
import numpy as np
from pydantic import Field

from dataprep.draw.exemplar import draw_shifts, elastic_map, rotation_map, warp
from dataprep.draw.library import import_albumentations

import_albumentations()

from albumentations.core.transforms_interface import (  # noqa: E402 - it must be imported without torch
    BaseTransformInitSchema,
    DualTransform,
    ImageOnlyTransform,
)
from albumentations.core.type_definitions import ALL_TARGETS  # noqa: E402

Params = dict[str, Any]  # what one call drew; empty if the transform was left out


class Mirror(DualTransform):
    """Left to right."""

    _targets: ClassVar = ALL_TARGETS

    def apply(self, img: np.ndarray, **_: Any) -> np.ndarray:
        """Mirror picture or mask."""
        return cv2.flip(img, 1)

    @staticmethod
    def note(params: Params) -> Params:
        """Whether it was mirrored."""
        return {"flip": bool(params)}


class ReflectedRotate(DualTransform):
    """Rotation about the middle, counter-clockwise; corners show the reflected picture, never black."""

    _targets: ClassVar = ALL_TARGETS

    class InitSchema(BaseTransformInitSchema):
        """Its numbers."""

        limit: float = Field(ge=0, le=180)

    def __init__(self, limit: float = 20.0, p: float = 0.5) -> None:
        """Uniform from -limit to limit, degrees."""
        super().__init__(p=p)
        self.limit = limit

    def get_params(self) -> Params:
        """Draw the angle."""
        return {"angle": float(self.random_generator.uniform(-self.limit, self.limit))}

    def apply(self, img: np.ndarray, angle: float, **_: Any) -> np.ndarray:
        """Rotate picture or mask."""
        return warp(img, rotation_map(angle))

    @staticmethod
    def note(params: Params) -> Params:
        """The angle in degrees; 0 for none."""
        return {"angle": params.get("angle", 0.0)}


class BoxBlur(ImageOnlyTransform):
    """The mean of a square round each pixel."""

    class InitSchema(BaseTransformInitSchema):
        """Its numbers."""

        sizes: tuple[int, ...] = Field(min_length=1)

    def __init__(self, sizes: tuple[int, ...] = (3, 5, 7), p: float = 0.3) -> None:
        """The square's side in pixels is one of `sizes`, each as likely."""
        super().__init__(p=p)
        self.sizes = sizes

    def get_params(self) -> Params:
        """Draw the side."""
        return {"blur": int(self.random_generator.choice(self.sizes))}

    def apply(self, img: np.ndarray, blur: int, **_: Any) -> np.ndarray:
        """Blur the picture."""
        return cv2.blur(img, (blur, blur))

    @staticmethod
    def note(params: Params) -> Params:
        """The side in pixels; 0 for none."""
        return {"blur": params.get("blur", 0)}


class ThreePointShift(DualTransform):
    """The affine map of three points that move at random, as the original's `ElasticTransform` did."""

    _targets: ClassVar = ALL_TARGETS

    class InitSchema(BaseTransformInitSchema):
        """Its numbers."""

        shift: float = Field(ge=0, le=100)

    def __init__(self, shift: float = 50.0, p: float = 0.3) -> None:
        """Each point moves uniformly by up to `shift` pixels in x and y."""
        super().__init__(p=p)
        self.shift = shift

    def get_params(self) -> Params:
        """Draw the three shifts."""
        return {"shifts": draw_shifts(self.random_generator, self.shift)}

    def apply(self, img: np.ndarray, shifts: tuple[tuple[float, float], ...], **_: Any) -> np.ndarray:
        """Displace picture or mask."""
        return warp(img, elastic_map(shifts))

    @staticmethod
    def note(params: Params) -> Params:
        """(dx, dy) of the points in pixels; empty for none."""
        return {"shifts": params.get("shifts", ())}
