"""What tests of faults share: hashes of folders, and the table that `pytest --fault-table FILE` writes."""

import hashlib
from pathlib import Path
from typing import Protocol

HEADER = "| fault | outcome |\n|---|---|\n"


class Recorder(Protocol):
    """Notes a fault that was staged, and what came of it; called last in a test."""

    def __call__(self, fault: str, outcome: str) -> None: ...


def content(out: Path) -> dict[str, str]:
    """sha256 of whatever must not depend on how a build went: tars, sidecars, rejects."""
    names = [*out.glob("*-*.tar"), *out.glob("*-*.json"), *out.glob("rejects.jsonl")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(names)}


def stamps(out: Path) -> dict[str, int]:
    """When each committed shard was committed, nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*-*.json")}


def rebuilt(out: Path, before: dict[str, int]) -> set[str]:
    """Which of the shards that were committed `before` were built again."""
    now = stamps(out)
    return {name for name, time in before.items() if now.get(name) != time}


def write_table(path: Path, rows: dict[str, str]) -> None:
    """Put rows (fault -> outcome) into the table of a Markdown file; other rows and the text stay."""
    text = path.read_text(encoding="utf-8")
    start = text.index(HEADER) + len(HEADER)
    end = next((i for i in range(start, len(text)) if text.startswith("\n\n", i)), len(text) - 1) + 1
    lines = [line.strip("| ").split(" | ") for line in text[start:end].splitlines() if line.strip()]
    table = {line[0]: line[1] for line in lines} | rows
    body = "".join(f"| {fault} | {outcome} |\n" for fault, outcome in table.items())
    path.write_text(text[:start] + body + text[end:], encoding="utf-8")
