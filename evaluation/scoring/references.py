"""Reference sets of results: a folder of pictures, statistics, or the bench's pictures."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from evaluation.measures.measures import Measure, Value
from evaluation.scoring.distributions import read_moments
from evaluation.scoring.scorer import Score
from evaluation.scoring.scoring import Request
from evaluation.scoring.set_figures import Reference, collect
from intarsia.errors import UsageError, UserError
from intarsia.words import counted

TEST2017 = 40_670  # pictures
FEATURES = ("clip", "inception")
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
    given: Mapping[str, Path], looks: Mapping[str, Measure], score: Score
) -> dict[str, Reference]:
    """The references by features, of those that are given.

    Args:
        given: features -> path, from `parse_references`.
        looks: features -> measure of a reference's pictures.
        score: function that computes them.

    Raises:
        UserError: for a folder with fewer than two pictures, or a file without statistics.
    """
    found = {}
    for name, measure in looks.items():
        if name not in given:
            continue
        path = given[name]
        if path.is_dir():
            files = picture_files(path)
            rows = _rows(files, measure, score, path)
            called = "test2017" if len(files) == TEST2017 else path.resolve().name
            found[name] = collect(called, measure.identity, rows, len(files))
        else:
            moments = read_moments(path)
            called = "test2017" if moments.count == TEST2017 else path.stem
            found[name] = Reference(called, measure.identity, moments, None)
    return found


def picture_files(folder: Path) -> list[Path]:
    """All pictures below a folder, sorted.

    Raises:
        UserError: if there are fewer than two.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
    if len(found) < 2:
        what = f"holds {counted(len(found), 'picture')}" if folder.is_dir() else "is not a folder"
        raise UserError(f"{folder} {what}; give a folder with two pictures or more, or an npz")
    return found


def _rows(files: Sequence[Path], measure: Measure, score: Score, folder: Path) -> Iterator[Value]:
    for values in score([{"features": Request((file,), measure)} for file in files], str(folder)):
        yield values["features"][None]
