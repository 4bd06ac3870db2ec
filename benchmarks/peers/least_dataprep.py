"""The least work that makes a shard's tar: all choices are known beforehand, and only pixels are computed.

The tar has the bytes of the build's own, so that nothing that a sample needs is left out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers.fixed_exemplar import Augmentation, augment_exemplar, cut_exemplar
from dataprep.pictures.decode import squash
from dataprep.pictures.reader import turn_upright
from dataprep.tars import write_tar
from intarsia.masks import box_mask, polygon_mask
from intarsia.png import encode_png
from intarsia.sample import MEMBERS, SampleMeta, decode_jpeg, encode_jpeg


@dataclass(frozen=True)
class Known:
    """What is known of a sample before its pixels.

    Attributes:
        path: picture file.
        orientation: EXIF orientation of the file, 1 … 8.
        meta: all choices.
        record: the same as the tar stores them.
        edit_mask: uint8 [H, W], in the picture's size.
    """

    path: Path
    orientation: int
    meta: SampleMeta
    record: bytes
    edit_mask: np.ndarray


def mask_as_recorded(meta: SampleMeta) -> np.ndarray:
    """The edit mask, uint8 [H, W], in the picture's size, of a record of Paint by Example's recipe."""
    if meta.mask_kind == "bezier":
        return polygon_mask(meta.polygon, meta.box, meta.image_size)
    return box_mask(meta.extended, meta.image_size)


def write_least(path: Path, samples: Iterable[Known], side: int) -> str:
    """Read and decode, two resizes, the exemplar's cut and warp, three encodes, tar; sha256 of the tar.

    Args:
        path: tar to write.
        samples: samples of profile `tuple` by Paint by Example's recipe.
        side: side of the square crop, pixels.
    """
    return write_tar(path, _members(samples, side))


def _members(samples: Iterable[Known], side: int) -> Iterator[tuple[str, bytes]]:
    for known in samples:
        meta = known.meta
        pixels = turn_upright(decode_jpeg(known.path.read_bytes()), known.orientation)
        image = squash(meta.window.cut(pixels), side)
        edit_mask = squash(meta.window.cut(known.edit_mask), side)
        exemplar = augment_exemplar(cut_exemplar(pixels, meta.box), Augmentation(**meta.augmentation))
        contents = encode_jpeg(image), encode_png(edit_mask), encode_jpeg(exemplar), known.record
        yield from ((f"{meta.key}.{name}", content) for name, content in zip(MEMBERS, contents, strict=True))
