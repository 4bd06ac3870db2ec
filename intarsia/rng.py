"""Seeds: each random draw depends on a seed and a key, not on workers, batches or arrival order."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

_MASK_63 = (1 << 63) - 1


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any number of integers and strings.

    Equal parts give equal seeds on every machine; different parts give unrelated seeds. Each part is hashed
    with its type and length, so that ("a", "bc") and ("ab", "c") or 1 and "1" differ.

    Raises:
        TypeError: for a part that is neither an integer nor a string.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, int | str):
            raise TypeError(f"a seed needs integers and strings, not {type(part).__name__}")
        digest.update(_spelled(part))
    return int.from_bytes(digest.digest(), "little") & _MASK_63


def derive_seeds(parts: Sequence[int | str], names: Iterable[str]) -> np.ndarray:
    """`derive_seed(*parts, name)` for each name, int64 [N]; four times as fast for millions of names."""
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
    """The random generator of one sample's box, mask, crop and exemplar augmentation.

    Args:
        seed: seed of the data set.
        key: key of the source picture.
        draw: index of the draw of this picture (an epoch, or a number below --draws-per-image).
    """
    return np.random.Generator(np.random.PCG64(derive_seed(seed, "sample", key, draw)))
