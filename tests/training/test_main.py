"""The words after `python -m training`: a config, or the name of something else to do."""

import importlib
import sys
import time
import types
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

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


def test_torchrun_learns_what_was_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert main([str(tmp_path / "none.yaml")]) == 2
    failure = ProcessFailure(0, 1, 2, str(tmp_path / "error.json"))
    assert failure.message == f"config file {tmp_path / 'none.yaml'} does not exist"
    assert abs(failure.timestamp - time.time()) < 60


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ([], ["c.yaml", "--dry"]),
        (["cache-latents"], ["shards", "c.yaml", "--work=2"]),
        (["ema"], ["run", "--sigma-rel=0.1", "--valid"]),
        (["estimate"], ["c.yaml", "--world=2"]),
        (["report"], ["run", "--ou=x"]),
    ],
)
def test_options_are_written_in_full(
    command: list[str], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A short form would mean something else as soon as another option begins like it."""
    with pytest.raises(SystemExit):
        main([*command, *options])
    assert f"unrecognized arguments: {options[-1]}" in capsys.readouterr().err
