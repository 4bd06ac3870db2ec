"""Seeds. Every random draw is a function of a seed and a key, never of workers, batches or arrival order."""

import hashlib
from collections.abc import Iterable, Sequence

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
        digest.update(_spelled(part))
    return int.from_bytes(digest.digest(), "little") & _MASK_63


def derive_seeds(parts: Sequence[int | str], names: Iterable[str]) -> np.ndarray:
    """`derive_seed(*parts, name)` of each name, int64 [N]; four times as quick for millions of them."""
    start = hashlib.blake2b(b"".join(_spelled(part) for part in parts), digest_size=8)

    def finish(name: str) -> bytes:
        digest = start.copy()
        digest.update(_spelled(name))
        return digest.digest()

    seeds: np.ndarray = np.frombuffer(b"".join(map(finish, names)), "<i8")
    return seeds & _MASK_63


def _spelled(part: int | str) -> bytes:
    text = str(part).encode()
    return f"{type(part).__name__}{len(text)}:".encode() + text


def sample_rng(seed: int, key: str, draw: int) -> np.random.Generator:
    """The generator of one sample's choices: box, mask, crop and exemplar augmentation.

    Args:
        seed: of the data set.
        key: of the source picture.
        draw: which of the independent draws of this picture (an epoch, or a number below --draws-per-image).
    """
    return np.random.Generator(np.random.PCG64(derive_seed(seed, "sample", key, draw)))
