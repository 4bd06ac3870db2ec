"""Seeds. Every random draw is a function of a seed and a key, never of workers, batches or arrival order."""

import hashlib

import numpy as np

_MASK_63 = (1 << 63) - 1


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any number of integers and strings.

    Equal parts give equal seeds on every machine; parts that differ anywhere give unrelated ones. Each part
    is written with its type and length, so that ("a", "bc") and ("ab", "c") or 1 and "1" differ.

    Raises:
        TypeError: for a part that is neither an integer nor a string.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, int | str):
            raise TypeError(f"a seed is made of integers and strings, not {type(part).__name__}")
        text = str(part).encode()
        digest.update(f"{type(part).__name__}{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest(), "little") & _MASK_63


def sample_rng(seed: int, key: str, draw: int) -> np.random.Generator:
    """The generator of one sample's choices: box, mask, crop and exemplar augmentation.

    Args:
        seed: of the data set.
        key: of the source picture.
        draw: which of the independent draws of this picture (an epoch, or a number below --draws-per-image).
    """
    return np.random.Generator(np.random.PCG64(derive_seed(seed, "sample", key, draw)))
