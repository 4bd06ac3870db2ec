"""Maps of the picture's structure as input channels of the UNet, computed from pixels or taken from files.

A map is grey or coloured and blank outside the hole, where the UNet sees the picture itself. A map that is
blank everywhere is no map: so samples without one are trained, and so edits without one are made.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from PIL import Image

from intarsia.architecture import MAPS, ModelConfig
from intarsia.errors import UserError

# A map, uint8 [H, W] or [H, W, 3]; or what it is computed from: the picture under the hole, or the exemplar.
MapSource = np.ndarray | Literal["picture", "exemplar"]

_FINEST = 4  # a latent cell of a map is made of up to so many pixels along each axis: of 512 pixels, 256
_LEAST_EDGE = 50  # AnyDoor's threshold


def edges(image: np.ndarray) -> np.ndarray:
    """AnyDoor's high-frequency map without its colours: uint8 [H, W, 3] RGB -> uint8 [H, W].

    The mean of the absolute 3 x 3 Sobel derivatives along both axes, each at most 255, the largest of the
    three colours, and 0 below 50 (`sobel` in its datasets/data_utils.py, which multiplies by the picture).
    Its second step, to erode the object's mask, removes the outline of a cut-out object; here nothing is cut
    out.
    """
    padded = np.pad(image.astype(np.int16), ((1, 1), (1, 1), (0, 0)), mode="reflect")
    down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    x = np.minimum(np.abs(down[:, 2:] - down[:, :-2]), 255)
    y = np.minimum(np.abs(across[2:] - across[:-2]), 255)
    both = x + y
    strength = ((both + (both >> 1 & 1)) >> 1).max(axis=-1)  # halves go to the even number, as in OpenCV
    return np.where(strength < _LEAST_EDGE, 0, strength).astype(np.uint8)


# Maps that are computed from a picture: functions from uint8 [H, W, 3] RGB to uint8 [H, W] or [H, W, 3].
COMPUTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {"edges": edges}


def trained_sources(names: tuple[str, ...], stored: Mapping[str, np.ndarray]) -> dict[str, MapSource]:
    """What the maps of a training sample are made of: its picture, or the member of its shard."""
    return {name: "picture" if name in COMPUTED else stored[name] for name in names}


def check_sources(config: ModelConfig, sources: Mapping[str, MapSource]) -> None:
    """Refuse maps that the model does not have, or that cannot be computed.

    Raises:
        UserError: with the map and what to do.
    """
    own = config.structure.maps
    for name, source in sources.items():
        if not own:
            raise UserError(
                "the model has no structure maps; leave out --structure, or train a model with "
                f"model.structure.maps=[{name}]"
            )
        if name not in own:
            raise UserError(f"the model has the structure maps {', '.join(own)}, not {name}")
        if isinstance(source, str) and name not in COMPUTED:
            raise UserError(f"{name} is not computed from pixels; give a file, --structure {name}=FILE")


def structure_channels(
    config: ModelConfig,
    sources: Mapping[str, MapSource],
    image: np.ndarray,
    edit_mask: np.ndarray,
    exemplar: np.ndarray | None = None,
) -> np.ndarray:
    """All maps of a picture on the grid of latents, uint8 [K, h, w]; maps without a source are blank.

    Args:
        config: config of the model.
        sources: source of each map that is wanted; arrays have the picture's size and geometry.
        image: picture on the model's square, uint8 [S, S, 3] RGB.
        edit_mask: mask, uint8 [S, S], 255 = repaint.
        exemplar: exemplar, uint8 [h, w, 3] RGB, any size, for the source "exemplar".

    Raises:
        UserError: for the source "exemplar" without an exemplar.
    """
    cells = config.latent_size
    side = cells * min(_FINEST, config.vae.downsampling)
    hole = _reduced(edit_mask, side) >= 128
    channels: list[np.ndarray] = []
    for name in config.structure.maps:
        source = sources.get(name)
        if source is None:
            channels.append(np.zeros((MAPS[name], cells, cells), np.uint8))
            continue
        if not isinstance(source, str):
            pixels = _reduced(source, side)
        else:
            of_exemplar = source == "exemplar"
            shown = exemplar if of_exemplar else _reduced(image, side)
            if shown is None:
                raise UserError(f"--structure {name}=exemplar needs an exemplar; give --exemplar")
            pixels = _computed(COMPUTED[name], shown, hole, squash=of_exemplar)
        pixels = _with_channels(pixels, MAPS[name])
        pixels[~hole] = 0
        channels.append(_reduced(pixels, cells).reshape(cells, cells, -1).transpose(2, 0, 1))
    return np.concatenate(channels)


def _computed(
    compute: Callable[[np.ndarray], np.ndarray], shown: np.ndarray, hole: np.ndarray, squash: bool
) -> np.ndarray:
    """The map of a picture in the hole's box; `squash` fits all of the picture into the box."""
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    if not len(rows):
        return np.zeros(hole.shape, np.uint8)
    top, left, bottom, right = (int(edge) for edge in (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
    if not squash:  # with a pixel of its surroundings, for derivatives
        top, left, bottom, right = max(top - 1, 0), max(left - 1, 0), bottom + 1, right + 1
        part = compute(shown[top:bottom, left:right])
    else:
        size = (right - left, bottom - top)
        part = compute(np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.BILINEAR)))
    whole: np.ndarray = np.zeros((*hole.shape, *part.shape[2:]), np.uint8)
    whole[top:bottom, left:right] = part
    return whole


def _with_channels(pixels: np.ndarray, number: int) -> np.ndarray:
    """A copy of [H, W] or [H, W, 3] with one channel, [H, W], or with three, [H, W, 3]."""
    return np.array(Image.fromarray(pixels).convert("L" if number == 1 else "RGB"))


def _reduced(pixels: np.ndarray, side: int) -> np.ndarray:
    """Square pixels, uint8 [S, S] or [S, S, 3], as means of their blocks: [side, side] or [side, side, 3]."""
    factor = pixels.shape[0] // side
    return pixels if factor == 1 else np.asarray(Image.fromarray(pixels).reduce(factor))
