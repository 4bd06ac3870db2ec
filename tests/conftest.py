"""Options of the whole suite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import Recorder, write_table

_ROWS = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, help="Markdown file whose table of faults is to be written")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = {}


@pytest.fixture
def record_fault(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    """Notes a row; it counts only if the test passes up to here, so call it last."""
    rows = request.config.stash[_ROWS]
    yield lambda fault, outcome: rows.update({fault: outcome})


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, rows = session.config.getoption("--fault-table"), session.config.stash[_ROWS]
    if path and rows:
        write_table(path, rows)
