"""Fixtures that start other programs: `make test-quick` leaves out the tests that ask for one."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def starts_processes(fixture: Function) -> Function:
    """Decorates a fixture's function, below @pytest.fixture: its tests are marked `processes`."""
    fixture.starts_processes = True  # type: ignore[attr-defined]
    return fixture
