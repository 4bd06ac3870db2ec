"""The doctor: finds what it says it finds, and says it in a way that a script can read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slurm import cli, doctor
from tests.paths import ROOT


def test_every_finding_that_is_not_in_order_names_a_remedy() -> None:
    findings = doctor.examine()
    assert {"Python", "Slurm", "GPUs", "/dev/shm", "W&B"} <= {finding.what for finding in findings}
    assert all(finding.remedy for finding in findings if finding.level != "ok")


def test_json_holds_the_same_findings(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert [finding["what"] for finding in findings] == [finding.what for finding in doctor.examine()]
    assert code == int(any(finding["level"] == "failure" for finding in findings))


def test_a_foreign_package_of_our_name_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    reported = [finding for finding in doctor.examine() if finding.what == "package names"]
    assert any(str(tmp_path) in finding.found for finding in reported)


def test_a_foreign_package_that_wins_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "dataprep").mkdir()
    (tmp_path / "dataprep" / "__init__.py").touch()
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.path.insert(0, {str(tmp_path)!r})\n"
    code += "from slurm.cli import main; sys.exit(main(['doctor']))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "not this checkout's" in run.stdout


def test_hidden_gpus_are_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpus = tmp_path / "gpus"
    (gpus / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setattr(doctor, "Path", lambda path: gpus if "nvidia" in str(path) else Path(path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    [finding] = [finding for finding in doctor.examine() if finding.what == "GPUs"]
    assert finding.level == "failure"


def test_an_unknown_command_exits_with_2() -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["doktor"])
    assert end.value.code == 2
