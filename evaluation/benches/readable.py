"""Cases with files that cannot be used: found before scoring, and left out only where that is asked for."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evaluation.scoring.scoring import WORKERS
from intarsia.errors import UserError
from intarsia.words import first_of
from sampling.pictures import read_mask, read_picture

_NAMED = 10  # cases without a file that a remark names


def broken_cases(cases: Mapping[str, Mapping[str, Path]], one_size: Collection[str]) -> dict[str, str]:
    """Case -> reason, of the cases whose files cannot be decoded or differ in size; each file is decoded.

    Args:
        cases: case -> kind -> file.
        one_size: kinds that must have one size.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        reasons = dict(zip(cases, pool.map(lambda own: _reason(own, one_size), cases.values()), strict=True))
    return {key: reason for key, reason in reasons.items() if reason}


def left_out(broken: Mapping[str, str]) -> tuple[str, ...]:
    """A remark for each broken case."""
    return tuple(f"left out: {key}: {reason}" for key, reason in broken.items())


def lacking(keys: Sequence[str]) -> tuple[str, ...]:
    """One remark about the cases that lack a file, if there are any; it names the first ten."""
    return (f"left out, for lack of a file: {first_of(keys, _NAMED)}",) if keys else ()


def _reason(files: Mapping[str, Path], one_size: Collection[str]) -> str:
    sizes: dict[tuple[int, ...], Path] = {}
    try:
        for kind, path in files.items():
            pixels = read_mask(path) if kind == "mask" else read_picture(path)
            if kind == "mask" and not pixels.any():
                return f"{path} marks nothing"
            if kind in one_size:
                sizes.setdefault(pixels.shape[:2], path)
    except UserError as error:
        return str(error)
    if len(sizes) > 1:
        one, other = list(sizes.values())[:2]
        return f"{one} and {other} differ in size"
    return ""
