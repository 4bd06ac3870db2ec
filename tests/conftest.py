"""Options of the whole suite, and the guard of `make test-quick`."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import Recorder, section_of, write_table

# Programs that take a second or more. A test that starts one is marked `processes`, or it fails.
SLOW_PROGRAMS = re.compile(r"python[\d.]*|torchrun|bash|gcs_server|raylet|wandb-core|chromium\S*|slurm\w*")
SHARED = ("hard_runs", "ray_with_two_workers")  # fixtures of several files, the most expensive first
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # as `make test` does: another number of threads adds up otherwise
SLOW_MARKS = ("processes", "cluster", "web", "whole")
_started: list[str] = []
_HAD_RANKS = pytest.StashKey[bool]()
_ROWS = pytest.StashKey[dict[str, dict[str, str]]]()  # section -> fault -> outcome
# As `make test` and the programs that tests start: other numbers of threads add up in another order.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, help="Markdown file whose fault tables are updated")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = {}
    sys.addaudithook(_note_process)


def _note_process(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        program = Path(os.fsdecode(arguments[0])).name
        if SLOW_PROGRAMS.fullmatch(program):
            _started.append(program)


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks, and before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of fixtures that start processes, and divide all tests among the workers of xdist.

    A file's tests go to one worker, and so do those of all files that share an expensive fixture, which two
    workers would make twice. What takes longest begins first, so that all workers end together.
    """
    _mark_processes(items)
    files: dict[Path, str] = {}
    for item in items:
        shared = [name for name in SHARED if name in getattr(item, "fixturenames", ())]
        if shared or item.path not in files:
            files[item.path] = shared[0] if shared else str(item.path)
    slow = {files[item.path] for item in items if item.get_closest_marker("processes")}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(files[item.path]))

    def turn(item: pytest.Item) -> int:
        group = files[item.path]
        return SHARED.index(group) if group in SHARED else len(SHARED) + (group not in slow)

    items.sort(key=turn)


def _mark_processes(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 - pytest has no public way
        functions = [one.func for definitions in fixtures.values() for one in definitions]
        if any(getattr(function, "starts_processes", False) for function in functions):
            item.add_marker(pytest.mark.processes)


@pytest.hookimpl(tryfirst=True)  # before the fixtures, which may start something as well
def pytest_runtest_setup(item: pytest.Item) -> None:
    _started.clear()
    item.stash[_HAD_RANKS] = _has_ranks()


def _has_ranks() -> bool:
    """Whether this process is a rank of a training, as DeepSpeed's engine makes it."""
    ranks = sys.modules.get("torch.distributed")
    return ranks is not None and ranks.is_available() and ranks.is_initialized()


@pytest.fixture(autouse=True)
def _quick_tests_start_no_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if _has_ranks() and not request.node.stash[_HAD_RANKS]:
        _started.append("ranks")
    if _started and not any(request.node.get_closest_marker(name) for name in SLOW_MARKS):
        started = ", ".join(sorted(set(_started)))
        pytest.fail(f"this test starts {started}: mark it with @pytest.mark.processes")


@pytest.fixture
def record_fault(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    """Record a row; call it last, because only a test that has passed may write its row."""
    rows = request.config.stash[_ROWS].setdefault(section_of(request.path), {})
    yield lambda fault, outcome: rows.update({fault: outcome})


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, rows = session.config.getoption("--fault-table"), session.config.stash[_ROWS]
    for section, own in rows.items():
        if path and own:
            write_table(path, section, own)
