"""How a picture becomes the input of a feature network; every step of it is in the recipe's name.

All functions take uint8 [H, W, 3] RGB and give float32 [3, H', W'].
"""

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from evaluation.measures.metrics import Mask, Picture, check_sizes
from intarsia.errors import UserError
from sampling.canvas.canvas import mask_box

Input: TypeAlias = NDArray[np.float32]  # [3, H, W]

CLIP_SIZE = 224
_CLIP_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
_CLIP_STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)
_IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
_IMAGENET_STD = np.array((0.229, 0.224, 0.225), np.float32)


def check_side(name: str, side: int) -> None:
    """Check that a network takes the pictures that most functions here make.

    Args:
        name: its name in `weights.WEIGHT_SOURCES`.
        side: side of its pictures in pixels.

    Raises:
        UserError: if it is not 224.
    """
    if side != CLIP_SIZE:
        raise UserError(
            f"the network given for {name} takes pictures of {side} × {side} pixels, and this number is of "
            f"{CLIP_SIZE} × {CLIP_SIZE}; give --weights {name}=PATH the network that docs/evaluation.md names"
        )


def clip_bicubic(picture: Picture, size: int = CLIP_SIZE) -> Input:
    """`bicubic{size}`: CLIP's own. Short side to `size` by Pillow's bicubic (8 bit), the middle square;
    CLIP's mean and deviation."""
    return _normalised(_middle(picture, size, Image.Resampling.BICUBIC))


def clip_square(picture: Picture) -> Input:
    """`square224`: squashed to 224 × 224 by Pillow's bicubic (8 bit), CLIP's mean and deviation. Paint by
    Example's exemplars."""
    size = (CLIP_SIZE, CLIP_SIZE)
    return _normalised(np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)))


def imagenet_square(picture: Picture) -> Input:
    """`square224` with ImageNet's mean and deviation: the input of DINO and DINOv2."""
    return _channels((unit_square(picture) - _IMAGENET_MEAN) / _IMAGENET_STD)


def imagenet_bilinear(picture: Picture) -> Input:
    """`bilinear-square224`: squashed by Pillow's bilinear (8 bit), as the processor of DINO's folders."""
    small = Image.fromarray(picture).resize((CLIP_SIZE, CLIP_SIZE), Image.Resampling.BILINEAR)
    return _channels((np.asarray(small).astype(np.float32) / 255 - _IMAGENET_MEAN) / _IMAGENET_STD)


def unit_square(picture: Picture) -> Input:
    """Squashed to 224 × 224 by Pillow's bicubic (8 bit): [224, 224, 3] in [0, 1]."""
    size = (CLIP_SIZE, CLIP_SIZE)
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    return small.astype(np.float32) / 255


def crop(picture: Picture, mask: Mask, keep: bool = True) -> Picture:
    """The mask's bounding box of a picture; without `keep`, black outside the mask.

    Raises:
        ValueError: for a mask of another size, or an empty one.
    """
    _check(picture, mask)
    shown = picture if keep else picture * mask[..., None]
    return np.ascontiguousarray(mask_box(mask).cut(shown))


def clip_box(picture: Picture, mask: Mask) -> Input:
    """`box224`: the mask's bounding box, then as `square224`.

    Raises:
        ValueError: for a mask of another size, or an empty one.
    """
    return clip_square(crop(picture, mask))


def clip_pbe_region(picture: Picture, mask: Mask) -> Input:
    """`pbe-region224`: the region of Paint by Example's CLIP score, with its quirks. From the mask's first to
    its last pixel in reading order, the last row and column left out; bilinear to 224 × 224 in float, without
    antialiasing; CLIP's mean and deviation.

    Raises:
        ValueError: for a mask of another size or an empty one, or where this way of cropping leaves nothing.
    """
    _check(picture, mask)
    marked = np.flatnonzero(mask)
    (top, left), (bottom, right) = (divmod(int(marked[end]), mask.shape[1]) for end in (0, -1))
    if bottom <= top or right <= left:
        raise ValueError(
            "the published crop of this mask is empty: COCOEE's masks are rectangles of two rows and columns "
            "or more; `evaluation bench` scores others"
        )
    part = picture[top:bottom, left:right].astype(np.float32) / 255
    return _channels(_bilinear((part - _CLIP_MEAN) / _CLIP_STD, CLIP_SIZE))


def inception_bilinear(picture: Picture) -> Input:
    """`bilinear299`: pytorch-fid's. To 299 × 299, bilinear in float without antialiasing, [-1, 1]."""
    return _channels(2 * _bilinear(picture.astype(np.float32) / 255, 299) - 1)


def inception_clean(picture: Picture) -> Input:
    """`clean299`: clean-fid's. Each channel as a Pillow image of mode F, to 299 × 299 by bicubic with
    antialiasing, clipped to 0 ... 255 and not rounded; (x - 128) / 128, as its network wants it."""
    size = (299, 299)
    planes = (Image.fromarray(plane) for plane in picture.transpose(2, 0, 1).astype(np.float32))
    small = [np.asarray(plane.resize(size, Image.Resampling.BICUBIC)) for plane in planes]
    return np.ascontiguousarray((np.stack(small).clip(0, 255) - 128) / np.float32(128), dtype=np.float32)


def dino_published(picture: Picture) -> Input:
    """`bilinear224-0to255`: as PIE-Bench's table was made. To 224 × 224, bilinear in float without
    antialiasing; ImageNet's mean and deviation, meant for [0, 1], on values of 0 to 255."""
    return _channels((_bilinear(picture.astype(np.float32), 224) - _IMAGENET_MEAN) / _IMAGENET_STD)


def dino_right(picture: Picture) -> Input:
    """`antialias224`: to 224 × 224, bilinear in float with antialiasing; ImageNet's mean and deviation on
    values of 0 to 1."""
    small = _bilinear(picture.astype(np.float32) / 255, 224, antialias=True)
    return _channels((small - _IMAGENET_MEAN) / _IMAGENET_STD)


def signed(picture: Picture) -> Input:
    """The picture without resizing, [-1, 1]: LPIPS' input."""
    return _channels(picture.astype(np.float32) / 127.5 - 1)


def middle_square(picture: Picture, size: int) -> Picture:
    """Short side to `size` by Pillow's bilinear (antialiased), the middle square. With 512: Paint by
    Example's view of test2017."""
    return _middle(picture, size, Image.Resampling.BILINEAR)


def _middle(picture: Picture, size: int, filter: Image.Resampling) -> Picture:
    """Short side to `size`, the middle square. The long side is cut off to a whole number, the crop's start
    rounded half to even, as torchvision does both."""
    height, width = picture.shape[:2]
    short = min(height, width)
    wide, high = size * width // short, size * height // short
    left, top = round((wide - size) / 2), round((high - size) / 2)
    image = Image.fromarray(picture).resize((wide, high), filter)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _check(picture: Picture, mask: Mask) -> None:
    check_sizes(mask, picture)
    if not mask.any():
        raise ValueError("the mask marks nothing")


def _bilinear(pixels: Input, size: int, antialias: bool = False) -> Input:
    """[H, W, 3] -> [size, size, 3]."""
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    small = F.interpolate(planes, (size, size), mode="bilinear", align_corners=False, antialias=antialias)
    return small[0].permute(1, 2, 0).numpy()


def _normalised(pixels: NDArray[np.uint8]) -> Input:
    return _channels((pixels.astype(np.float32) / 255 - _CLIP_MEAN) / _CLIP_STD)


def _channels(pixels: NDArray[np.float32]) -> Input:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
