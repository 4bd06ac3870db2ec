"""The start of a W&B run: quiet, where it is wanted, and an error with a way out."""

import sys
from pathlib import Path

import pytest

from intarsia.errors import UserError
from intarsia.tracking_run import OutOfReach, start_tracking_run

WAYS = {"without": "leave --wandb out", "offline": "give --wandb offline"}


@pytest.mark.processes
def test_an_offline_run_is_quiet_and_below_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):  # not the folder of the process's first run
        (tmp_path / name).mkdir()
        monkeypatch.setenv("WANDB_DIR", str(tmp_path / name))
        run = start_tracking_run("p", **WAYS, mode="offline", job_type="test")
        run.log({"a": 1})
        run.finish()
        assert len(list((tmp_path / name / "wandb").glob("offline-run-*"))) == 1
    assert capfd.readouterr() == ("", "")


def test_who_is_not_logged_in_is_shown_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    with pytest.raises(OutOfReach, match=r"^W&B cannot be reached \(.*\); give --wandb offline$"):
        start_tracking_run("p", **WAYS, mode="online")


def test_without_wandb_the_error_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        UserError, match=r"wandb is not installed; install '.\[training\]', or leave --wandb out"
    ):
        start_tracking_run("p", **WAYS)
