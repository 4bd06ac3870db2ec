"""The first line of a CSV, and which of its lines is wrong, and how."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from intarsia.errors import UserError
from intarsia.files import refuse_lfs_pointer


def csv_header(path: Path, needed: Sequence[str]) -> list[str]:
    """The names in the first line of a CSV.

    Raises:
        UserError: if the file is missing, a git-LFS pointer, lacks a needed column or has it twice, or has no
            other line.
    """
    refuse_lfs_pointer(path)
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        header = [name.strip() for name in next(csv.reader([file.readline()]), [])]
        more = file.read(1)
    missing = [name for name in needed if name not in header]
    if missing:
        raise UserError(
            f"{path}, line 1: the column {missing[0]} is missing; the line names "
            f"{', '.join(header[:8]) or 'nothing'}"
        )
    twice = [name for name in needed if header.count(name) > 1]
    if twice:
        raise UserError(f"{path}, line 1: the column {twice[0]} appears twice; rename one")
    if not more:
        raise UserError(f"{path} has no line after its first, so it has no box; is the file whole?")
    return header


def find_fault(
    path: Path, header: Sequence[str], numbers: Sequence[str], flags: Sequence[str] = ()
) -> str | None:
    """The first line that does not match the header, in words; None if all do.

    Slow, so it is for a file that a quick reader has refused. Lines without any text are skipped.

    Args:
        path: CSV file.
        header: names of its columns.
        numbers: columns that hold a number or nothing.
        flags: columns that hold a whole number or nothing.
    """
    checks: list[tuple[int, str, Callable[[str], float], str]]
    checks = [(header.index(name), name, float, "a number") for name in numbers if name in header]
    checks += [(header.index(name), name, int, "a whole number") for name in flags if name in header]
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.reader(file)
        next(reader, None)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if any("\ufffd" in text for text in row):
                return f"{where}: it is not UTF-8; save the file in that encoding"
            if row and len(row) != len(header):
                return f"{where}: {len(row)} columns, the first line has {len(header)}; is the file whole?"
            for place, name, kind, what in checks if row else ():
                try:
                    kind(row[place] or "0")
                except ValueError:
                    return f"{where}: {name} is {row[place]!r}, not {what}"
    return None
