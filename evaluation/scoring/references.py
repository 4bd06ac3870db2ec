"""Reference sets of results: a folder of pictures, statistics, or the bench's pictures."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evaluation.measures.measures import Measure, Value
from evaluation.measures.weights import hash_of
from evaluation.scoring.moments import Moments, Origin, read_moments
from evaluation.scoring.scorer import Score
from evaluation.scoring.scoring import WORKERS, Request
from evaluation.scoring.set_figures import UNKNOWN, Reference, collect, of_moments
from evaluation.scoring.store import ValueStore
from intarsia.errors import UsageError, UserError
from intarsia.files import sha256_bytes
from intarsia.words import counted

FEATURES = ("clip", "inception")
_TEST2017 = 40_670, re.compile(r"\d{12}\.jpg")  # number and names of COCO's test2017
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def parse_references(options: Sequence[str]) -> dict[str, Path]:
    """The `--reference` of a command line: a folder of pictures, or FEATURES=PATH with a folder or an npz.

    Raises:
        UsageError: for features that do not exist, a path that does not, or an npz without features.
    """
    given: dict[str, Path] = {}
    for option in options:
        name, equals, text = option.rpartition("=")
        path = Path(text)
        if equals and name not in FEATURES:
            raise UsageError(
                f"--reference {option}: there are no features {name!r}; valid: {', '.join(FEATURES)}"
            )
        if not path.exists():
            raise UsageError(f"--reference {option}: {path} does not exist")
        if not equals and not path.is_dir():
            raise UsageError(f"--reference {option}: statistics need their features, as in clip={path}")
        given |= {name: path} if equals else dict.fromkeys(FEATURES, path)
    return given


def load_references(
    given: Mapping[str, Path],
    looks: Mapping[str, Measure],
    score: Score,
    store: ValueStore | None = None,
) -> dict[str, Reference]:
    """The references by features, of those that are given.

    Args:
        given: features -> path, from `parse_references`.
        looks: features -> measure of a reference's pictures.
        score: function that computes them.
        store: store that keeps hashes of files; without it all are read.

    Raises:
        UserError: for a folder with fewer than two pictures, a file without statistics, or
            statistics of another network.
    """
    found = {}
    for name, measure in looks.items():
        if name not in given:
            continue
        path = given[name]
        if path.is_dir():
            files = picture_files(path)
            origin = origin_of(path, files, measure, store)
            rows = _rows(files, measure, score, path)
            called = _called(path.resolve().name, origin)
            found[name] = collect(called, measure.identity, rows, len(files), origin.digest)
        else:
            found[name] = _of_statistics(read_moments(path), path, measure)
    return found


def origin_of(
    folder: Path, files: Sequence[Path], measure: Measure, store: ValueStore | None = None
) -> Origin:
    """The source of statistics of a folder's pictures; `store` keeps hashes, without it all are read."""
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    return Origin(measure.identity, pictures_digest(files, store), tuple(names))


def skipped_files(folder: Path) -> str:
    """A sentence about files below a folder whose formats are not read; empty if there are none."""
    others = [path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() not in _PICTURES]
    if not others:
        return ""
    endings = ", ".join(sorted({path.suffix.lower() or "no ending" for path in others}))
    return f"{folder}: {counted(len(others), 'file')} of other formats ({endings}) left out"


def pictures_digest(files: Iterable[Path], store: ValueStore | None = None) -> str:
    """12 hexadecimal digits of the contents of files, whatever their names and order.

    Args:
        files: files.
        store: store that keeps hashes of files; without it all are read.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        hashes = pool.map(lambda file: hash_of(file, store), files)
        return sha256_bytes("".join(sorted(hashes)).encode())[:12]


def kind_of(recipe: str) -> tuple[str, str, bool]:
    """The part of a recipe of features that two sets must share, since else distances are of no meaning.

    Returns:
        Network, fingerprint of its weights, and whether the resizing is clean-fid's.
    """
    how, _, weights = recipe.rpartition("@")
    return recipe.split("/")[0], weights, "clean" in how


def _of_statistics(moments: Moments, path: Path, measure: Measure) -> Reference:
    origin = moments.origin
    if origin is None:
        return of_moments(_called(path.stem, None), UNKNOWN, moments, None, moments.digest)
    if kind_of(origin.recipe) != kind_of(measure.identity):
        raise UserError(
            f"{path} has statistics of {origin.recipe}, and the results have features of {measure.identity}; "
            "give statistics of the same network, weights and resizing, or a folder of pictures"
        )
    return of_moments(_called(path.stem, origin), origin.recipe, moments, None, origin.digest)


def _called(name: str, origin: Origin | None) -> str:
    """The name of a set in recipes: "test2017" only for a set with its number of pictures and their names."""
    count, pattern = _TEST2017
    names = [name.rpartition("/")[2] for name in origin.pictures] if origin else []
    if len(set(names)) == len(names) == count and all(map(pattern.fullmatch, names)):
        return "test2017"
    return "not test2017" if name == "test2017" else name


def picture_files(folder: Path, least: int = 2) -> list[Path]:
    """All pictures below a folder, sorted.

    Raises:
        UserError: if there are fewer than `least`.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
    if len(found) < least:
        what = f"holds {counted(len(found), 'picture')}" if folder.is_dir() else "is not a folder"
        raise UserError(f"{folder} {what}; give a folder with two pictures or more, or an npz")
    return found


def _rows(files: Sequence[Path], measure: Measure, score: Score, folder: Path) -> Iterator[Value]:
    for values in score([{"features": Request((file,), measure)} for file in files], str(folder)):
        yield values["features"][None]
