"""The words after `python -m training`: a config, or the name of something else to do."""

import importlib
import sys
import types

import pytest

from training.__main__ import SUBCOMMANDS, main


def test_a_subcommand_gets_the_arguments_after_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    module = types.ModuleType("training.greet")
    module.command = lambda argv: seen.append(list(argv)) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(SUBCOMMANDS, "greet", module.__name__)
    assert main(["greet", "config.yaml", "a.b=c"]) == 7
    assert seen == [["config.yaml", "a.b=c"]]


def test_every_subcommand_can_be_called() -> None:
    assert all(callable(importlib.import_module(module).command) for module in SUBCOMMANDS.values())
