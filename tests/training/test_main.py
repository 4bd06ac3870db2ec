"""The words after `python -m training`: a config, or the name of something else to do."""

import re
import time
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from tests.training.synthetic import write_config
from training.__main__ import main


def test_help_names_each_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "usage: python -m training [-h] [--dry-run] config [a.b=c ...]" in text
    for name in ("cache-latents", "ema", "estimate", "report"):
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        assert f"usage: python -m training {name} " in capsys.readouterr().out
        assert re.search(rf" {name} \w+ \w+ \w+", text)


def test_options_may_stand_between_the_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write_config(tmp_path))
    assert main([config, "micro_batch_size=2", "--dry-run", "seed=7"]) == 0
    mixed = capsys.readouterr().out
    assert main(["--dry-run", config, "micro_batch_size=2", "seed=7"]) == 0
    assert capsys.readouterr().out == mixed
    assert re.search(r"micro\w*\W+2\b", mixed)
    assert main(["estimate", config, "micro_batch_size=2", "--world-size", "3", "global_batch_size=8"]) == 2
    assert (
        "global_batch_size=8 is not micro_batch_size=2 × grad_accum_steps=1 × 3 ranks"
        in capsys.readouterr().err
    )


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


def test_an_override_in_the_place_of_the_config_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data.shards=shards", "run=runs/first"]) == 2
    words = "the first argument is the config file, such as configs/train/demo.yaml; 'data.shards=shards' is"
    assert words in capsys.readouterr().err
