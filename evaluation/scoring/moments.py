"""Mean and covariance of the features of a set of pictures, in memory and as a file with its recipe.

Statistics stream: `moments_of` takes features in pieces of any size and keeps a mean and a matrix, D × D of
float64 (2 MB at 512, 34 MB at 2048), for any number of pictures.
"""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.measures.metrics import Features, Float
from intarsia.errors import UserError
from intarsia.files import atomic_path, sha256_bytes

_BLOCK = 256  # pictures summed at once; fixed, so that sums do not depend on how features arrive
_TOLERANCE = 1e-4  # of symmetry and of negative eigenvalues, relative; float32 files stay far below


@dataclass(frozen=True)
class Origin:
    """The source of statistics.

    Attributes:
        recipe: recipe of the features with the weights' fingerprint, as `Measure.identity`.
        digest: 12 hexadecimal digits of the pictures' contents, whatever their names and order.
        pictures: names of the pictures, sorted.
    """

    recipe: str
    digest: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Moments:
    """How many feature vectors there were, and their first two moments.

    Attributes:
        count: number of pictures; 0 = unknown, as in the usual statistics files.
        mean: float64 [D].
        covariance: float64 [D, D], unbiased.
        origin: source; None = unknown, as in files of other programs.
    """

    count: int
    mean: Float
    covariance: Float
    origin: Origin | None = None

    @property
    def digest(self) -> str:
        """12 hexadecimal digits of the numbers themselves."""
        return sha256_bytes(self.mean.tobytes() + self.covariance.tobytes())[:12]

    def save(self, path: Path | str) -> None:
        """Write an npz with `mu` and `sigma`, as pytorch-fid reads and writes them, and `count`; with an
        origin also `recipe`, `digest`, `pictures`, and `numbers`, a digest of all these."""
        more: dict[str, NDArray] = {}
        if self.origin:
            more = {name: np.array(getattr(self.origin, name)) for name in ("recipe", "digest", "pictures")}
            more["numbers"] = np.array(_signed(self, self.origin))
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, mu=self.mean, sigma=self.covariance, count=self.count, **more)  # type: ignore[arg-type]


def read_moments(path: Path | str) -> Moments:
    """Read statistics as `Moments.save`, pytorch-fid or Paint by Example's tools leave them.

    Raises:
        UserError: if the file is missing, lacks `mu` or `sigma`, or they are not a mean and a covariance.
    """
    arrays = read_npz(path, ("mu", "sigma"))
    mean, covariance = arrays["mu"], arrays["sigma"]
    if mean.ndim != 1 or not mean.size or covariance.shape != mean.shape * 2:
        shapes = f"mu of shape {list(mean.shape)} and sigma of {list(covariance.shape)}"
        raise UserError(f"{path}: {shapes} are not statistics; [D] and [D, D] are needed")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path} holds NaN or infinity; compute the statistics again")
    _check_covariance(covariance, path)
    moments = Moments(_count(arrays.get("count"), path), mean, covariance)
    return replace(moments, origin=_origin(arrays, moments, path))


def moments_of(features: Iterable[Features]) -> Moments:
    """The moments of features that arrive in pieces [n, D]; the pieces' sizes change nothing.

    Blocks of 256 are joined by the pairwise update (Chan et al. 1979), which loses no digits where a plain
    sum of squares would.

    Raises:
        ValueError: for fewer than two vectors, or ones that are not finite.
    """
    count, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for block in _blocks(features):
        if not np.isfinite(block).all():
            raise ValueError("features hold NaN or infinity")
        middle = block.mean(0)
        centred = block - middle
        if not count:
            count, mean, scatter = len(block), middle, centred.T @ centred
            continue
        total = count + len(block)
        step = middle - mean
        scatter += centred.T @ centred + np.outer(step, step) * (count * len(block) / total)
        mean = mean + step * (len(block) / total)
        count = total
    if count < 2:
        raise ValueError(f"statistics need two pictures at least, not {count}")
    return Moments(count, mean, scatter / (count - 1))


def read_npz(path: Path | str, names: tuple[str, ...]) -> dict[str, NDArray]:
    """The arrays of an npz; nothing in it is unpickled.

    Args:
        path: file.
        names: arrays that it must have, of real numbers; they become float64.

    Raises:
        UserError: if the file is missing, is not an npz, or lacks one of `names`.
    """
    wanted = " and ".join(names)
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give an npz with {wanted}") from None
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        raise UserError(
            f"{path} is not an npz of plain arrays (pickles are never read); give one with {wanted}"
        ) from None
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; it must hold {wanted}")
    for name in names:
        if arrays[name].dtype.kind not in "fiu":
            raise UserError(
                f"{path}: {name} has values of type {arrays[name].dtype}; real numbers are needed"
            )
        arrays[name] = arrays[name].astype(float)
    return arrays


def _check_covariance(covariance: Float, path: Path | str) -> None:
    largest = np.abs(covariance).max()
    unequal = np.abs(covariance - covariance.T).max()
    if unequal > _TOLERANCE * largest:
        raise UserError(
            f"{path}: sigma is not symmetric (entries differ from their mirror images by up to "
            f"{unequal:.3g}), "
            "so it is not a covariance; compute the statistics again"
        )
    lowest = float(np.linalg.eigvalsh(covariance)[0])
    if lowest < -_TOLERANCE * largest:
        raise UserError(
            f"{path}: sigma has the negative eigenvalue {lowest:.3g}, so it is not a covariance; compute the "
            "statistics again"
        )


def _count(value: NDArray | None, path: Path | str) -> int:
    if value is None:
        return 0
    if value.size != 1 or value.dtype.kind not in "fiu" or value.item() < 0 or value.item() % 1:
        raise UserError(f"{path}: count must be a whole number of pictures, 0 for unknown")
    return int(value.item())


def _origin(arrays: dict[str, NDArray], moments: Moments, path: Path | str) -> Origin | None:
    parts = [arrays.get(name) for name in ("recipe", "digest", "pictures")]
    if all(part is None for part in parts):
        return None
    recipe, digest, pictures = (np.array(()) if part is None else part for part in parts)
    texts = all(part.dtype.kind == "U" for part in (recipe, digest, pictures))
    if not texts or recipe.ndim or digest.ndim or pictures.shape != (moments.count,):
        raise UserError(
            f"{path}: recipe, digest and pictures do not fit {moments.count:,} pictures; compute the "
            "statistics again with `fid --save`"
        )
    origin = Origin(str(recipe), str(digest), tuple(str(name) for name in pictures))
    if "numbers" in arrays and str(arrays["numbers"]) != _signed(moments, origin):
        raise UserError(
            f"{path} was changed after it was written: its numbers, recipe or pictures are not those that "
            "`fid --save` wrote; compute the statistics again"
        )
    return origin


def _signed(moments: Moments, origin: Origin) -> str:
    """12 hexadecimal digits of everything that a file of statistics says."""
    parts = (moments.digest, str(moments.count), origin.recipe, origin.digest, *origin.pictures)
    return sha256_bytes("\n".join(parts).encode())[:12]


def _blocks(pieces: Iterable[Features]) -> Iterator[Float]:
    """The same rows in blocks of `_BLOCK`, float64; the last may be shorter."""
    waiting: list[Float] = []
    for piece in pieces:
        waiting.append(np.asarray(piece, np.float64))
        while sum(map(len, waiting)) >= _BLOCK:
            rows = np.concatenate(waiting)
            yield rows[:_BLOCK]
            waiting = [rows[_BLOCK:]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)
