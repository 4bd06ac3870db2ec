"""Helpers of the fault tests: hashes of folders, and the table that `pytest --fault-table FILE` writes."""

import hashlib
import itertools
from pathlib import Path
from typing import Protocol

HEADER = "| fault | outcome |\n|---|---|\n"
SECTIONS = {  # words in the folder and name of a test file -> heading
    "dataprep": "Data prep",
    "training ": "Training, on one machine",
    "train": "Training",
    "sampling": "Sampling and evaluation",
}


class Recorder(Protocol):
    """Record a staged fault and its outcome; call it last in a test."""

    def __call__(self, fault: str, outcome: str) -> None: ...


def content(out: Path) -> dict[str, str]:
    """sha256 of all files that must not depend on faults during a build: tars, sidecars, rejects."""
    names = [*out.glob("*-*.tar"), *out.glob("*-*.json"), *out.glob("rejects.jsonl")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(names)}


def stamps(out: Path) -> dict[str, int]:
    """Time when each complete shard was written, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*-*.json")}


def rebuilt(out: Path, before: dict[str, int]) -> set[str]:
    """The shards that were complete `before` and were built again."""
    now = stamps(out)
    return {name for name, time in before.items() if now.get(name) != time}


def section_of(test: Path) -> str:
    """The heading of the table with a test file's faults."""
    return next(title for word, title in SECTIONS.items() if word in f"{test.parent.name} {test.name}")


def write_table(path: Path, section: str, rows: dict[str, str]) -> None:
    """Update the table of a section of a Markdown file with rows (fault -> outcome); the rest is kept."""
    before, title, text = path.read_text(encoding="utf-8").partition(f"## {section}\n")
    between, header, after = text.partition(HEADER)
    assert header, f"{path} has no table of faults below {section!r}"
    lines = after.splitlines(keepends=True)
    old = list(itertools.takewhile(lambda line: line.startswith("|"), lines))
    table = dict(line.strip("| \n").split(" | ") for line in old) | rows
    body = "".join(f"| {fault} | {outcome} |\n" for fault, outcome in table.items())
    rest = "".join(lines[len(old) :])
    path.write_text(before + title + between + header + body + rest, encoding="utf-8")
