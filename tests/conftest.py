"""Options of the whole suite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import Recorder, section_of, write_table

_ROWS = pytest.StashKey[dict[str, dict[str, str]]]()  # section -> fault -> outcome


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, help="Markdown file whose table of faults is to be written")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = {}


@pytest.fixture
def record_fault(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    """Notes a row; it counts only if the test passes up to here, so call it last."""
    rows = request.config.stash[_ROWS].setdefault(section_of(request.path), {})
    yield lambda fault, outcome: rows.update({fault: outcome})


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, rows = session.config.getoption("--fault-table"), session.config.stash[_ROWS]
    for section, own in rows.items():
        if path and own:
            write_table(path, section, own)
