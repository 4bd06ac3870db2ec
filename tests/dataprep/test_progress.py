"""Progress counts every picture once, whatever workers' notes look like, and reads well."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataprep import progress
from dataprep.check.verify import verify_folder
from dataprep.plan.plan_file import PLAN_FILE, read_plan_header
from dataprep.progress import PROGRESS_NOTES, BuildProgress, Meter, Reporter, metered, noted, progress_line
from dataprep.shards.build_shard import build_shard
from dataprep.shards.manifest import write_manifest
from dataprep.shards.tally import ShardTally
from tests.dataprep.test_shards import jobs_of, plan_of
from tests.dataprep.toy import toy_request


def finished(name: str, kept: int, rejected: int) -> dict[str, Any]:
    return {
        "shard": f"{name}.tar",
        "samples": 2 * kept,
        "kept": {"pictures": kept},
        "rejected": {"pictures": {"damaged": rejected}},
    }


def note(folder: Path, name: str, text: str) -> None:
    (folder / PROGRESS_NOTES).mkdir(exist_ok=True)
    (folder / PROGRESS_NOTES / name).write_text(text)


def test_pictures_of_shards_in_work_and_of_finished_ones_are_summed_once(tmp_path: Path) -> None:
    reports: list[BuildProgress] = []
    meter = Meter(tmp_path, BuildProgress(1, 4, 0, 30), reports.append)
    meter.poll()
    note(tmp_path, "a", "4 1 6\n")
    note(tmp_path, "b", "2 0 4\n")
    meter.poll()
    note(tmp_path, "b", "")  # is being written: the last known counts
    note(tmp_path, "a", "9 2 14\n")
    meter.poll()
    meter.finish(finished("a", 8, 2))
    note(tmp_path, "a", "9 2 14\n")  # a late one of the finished shard
    meter.poll()
    expected = [(1, 0, 0, 0), (1, 6, 1, 10), (1, 11, 2, 18), (2, 12, 2, 20), (2, 12, 2, 20)]
    assert [(r.shards_done, r.built, r.rejected, r.samples) for r in reports] == expected


def test_a_worker_leaves_its_counts_and_the_records_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "NOTE_SECONDS", 0.0)
    tally, seen = ShardTally(), []
    for record in noted(range(5), tmp_path, "a", tally):
        tally.kept.update(pictures=1, samples=3)
        tally.rejected["pictures"] = Counter(damaged=record)
        seen.append((tmp_path / PROGRESS_NOTES / "a").read_text() if record else "")
    assert seen == ["", "1 0 3\n", "3 1 6\n", "5 2 9\n", "7 3 12\n"]


def test_progress_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "NOTE_SECONDS", 0.0)
    (tmp_path / PROGRESS_NOTES).write_text("a file where the folder should be")
    assert list(noted(range(3), tmp_path, "a", ShardTally())) == [0, 1, 2]
    Meter(tmp_path, BuildProgress(0, 1, 0, 3), lambda _: None).poll()


def test_notes_have_no_part_in_the_shards_and_go_with_the_build(
    tmp_path: Path, toy_coco: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for seconds in (0.0, 1e9):
        monkeypatch.setattr(progress, "NOTE_SECONDS", seconds)
        request = toy_request(tmp_path, tmp_path / str(seconds), inputs=toy_coco, images_per_shard=100)
        job = jobs_of(request, plan_of(request))[0]
        with metered(request.out, BuildProgress(0, 1, 0, 15), lambda _: None) as meter:
            stats = build_shard(job)
            assert (request.out / PROGRESS_NOTES).is_dir() == (seconds == 0.0)
            meter.finish(stats)
        assert not (request.out / PROGRESS_NOTES).exists()
        results.append(stats)
        write_manifest(request.out, read_plan_header(request.out / PLAN_FILE), "")
        note(request.out, "a", "1 0 1\n")  # of a worker that outlived its driver
        assert verify_folder(request.out) == []
    assert results[0] == results[1]


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0, 1e4))
def test_a_line_can_be_made_of_any_state(built: int, more: int, seconds: float) -> None:
    line = progress_line(BuildProgress(0, 3, built, built + more), seconds)
    assert f"{built}/{built + more} pictures" in line
    assert ("left" in line) == (built > 0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_reporter(stream: io.StringIO) -> str:
    now = [100.0]
    reporter = Reporter(stream, lambda: now[0])
    for second in range(31):  # five seconds of start, then four pictures a second, one in four rejected
        now[0] = 100.0 + second
        built = max(second - 5, 0) * 4
        for _ in range(2):  # the second of the last one is of the thread that polls
            reporter(BuildProgress(second // 15, 2, built, 100, built // 4))
    reporter.close()
    return stream.getvalue()


def test_elsewhere_lines_are_few_and_plain() -> None:
    lines = run_reporter(io.StringIO()).splitlines()
    assert lines[0] == "0/2 shards  0/100 pictures  workers are starting"
    assert lines[1] == "0/2 shards  20/100 pictures  4.0/s  5 rejected  20 s left"
    assert lines[-1] == "2/2 shards  100/100 pictures  4.0/s  25 rejected"
    assert len(lines) == 4
    assert not any("\r" in line or "\033" in line for line in lines)


def test_on_a_terminal_one_line_is_written_over() -> None:
    text = run_reporter(Terminal())
    assert text.count("\r\033[K") == 61
    assert text.count("\n") == 1
    assert text.endswith("25 rejected\n")
