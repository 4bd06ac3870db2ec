"""The doctor: each fault is staged, and has to be found and told with its remedy, also to a script."""

import json
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from slurm import checks, cli, doctor
from slurm.checks import Finding
from tests.paths import ROOT

CONTROLLER = """#!/bin/sh
cat <<END
Configuration data as of 2026-01-01T00:00:00
AccountingStorageEnforce = associations,limits
ClusterName             = alpha
JobRequeue              = 0
KillWait                = 5 sec
SLURM_VERSION           = 23.11.4
END
"""
Stage = Callable[..., None]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Makes these programs, given by name and text, all that there is in PATH."""

    def stage(**texts: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, text in texts.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin" if texts else str(folder))

    return stage


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Puts these files, by path and text, into /proc's place."""

    def stage(**texts: str) -> None:
        for name, text in texts.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(checks, "_PROC", tmp_path)
    return stage


def found(what: str) -> list[Finding]:
    return [finding for finding in doctor.examine() if finding.what == what]


def test_every_finding_that_is_not_in_order_names_a_remedy() -> None:
    findings = doctor.examine()
    wanted = {"Python", "Slurm", "shared file system", "host name", "ports", "GPUs", "/dev/shm", "open files"}
    assert wanted | {"W&B"} <= {finding.what for finding in findings}
    assert all(finding.remedy for finding in findings if finding.level != "ok")


def test_json_holds_the_same_findings(programs: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    programs()
    code = cli.main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert [finding["what"] for finding in findings] == [finding.what for finding in doctor.examine()]
    assert code == int(any(finding["level"] == "failure" for finding in findings))


def test_a_failure_is_exit_code_1_a_warning_is_not(
    programs: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs()  # Slurm as it happens to be here is not the matter
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("COLUMNS", "400")
    assert cli.main(["doctor", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"ok      shared file system: {tmp_path} is on " in said
    assert "warning W&B: WANDB_MODE=offline\n        -> unset it" in said
    assert cli.main(["doctor", str(tmp_path / "none")]) == 1
    assert f"FAILURE folder: {tmp_path}/none does not exist\n        -> make it" in capsys.readouterr().out


def test_long_lines_are_wrapped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    folder = tmp_path / ("long " * 12)
    folder.mkdir()
    cli.main(["doctor", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line and "/" not in line) <= 60
    assert any(line.startswith("        ") for line in lines)


def test_a_foreign_package_of_our_name_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert any(str(tmp_path) in finding.found for finding in found("package names"))


@pytest.mark.processes
def test_a_foreign_package_that_wins_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "dataprep").mkdir()
    (tmp_path / "dataprep" / "__init__.py").touch()
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.path.insert(0, {str(tmp_path)!r})\n"
    code += "from slurm.cli import main; sys.exit(main(['doctor']))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "not this checkout's" in " ".join(run.stdout.split())


def test_a_missing_library_comes_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks._LIBRARIES, "training", ("deepspeed", "no-such-library"))
    assert found("libraries of training") == [
        Finding(
            "libraries of training",
            "warning",
            "missing: no-such-library",
            "pip install -c constraints.txt -e '.[training]'",
        )
    ]


def test_a_machine_without_slurm_is_in_order_unless_nodes_are_asked_for(
    programs: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    programs()
    [finding] = found("Slurm")
    assert finding.level == "ok"
    assert finding.found.startswith("none on this machine")
    assert {f.level for f in found("shared file system")} == {"ok"}
    assert cli.main(["doctor", "--nodes", "2"]) == 1
    assert "error: --nodes needs a cluster, but Slurm here is: none" in capsys.readouterr().err
    assert cli.main(["doctor", "--nodes", "0"]) == 2


def test_commands_of_slurm_without_a_cluster_are_no_failure(programs: Stage) -> None:
    programs(
        sbatch="", scontrol="#!/bin/sh\necho 'fatal: Could not establish a configuration source' >&2; exit 1"
    )
    [finding] = found("Slurm")
    assert (finding.level, finding.found.endswith("belongs to no cluster")) == ("ok", True)


def test_a_controller_that_does_not_answer_is_a_failure(programs: Stage) -> None:
    programs(sbatch="", scontrol="#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1")
    [finding] = found("Slurm")
    assert (finding.level, finding.found.endswith("its controller does not answer")) == ("failure", True)


def test_settings_of_the_cluster_that_restarts_depend_on(programs: Stage, proc: Stage) -> None:
    programs(sbatch="", scontrol=CONTROLLER)
    proc(self__mounts="disk / ext4 rw 0 0\n", sys__net__ipv4__ip_local_port_range="32768 60999\n")
    assert found("Slurm") == [Finding("Slurm", "ok", "23.11.4, cluster alpha")]
    assert "slurm submit --chain N" in found("requeue")[0].remedy
    assert found("time to save at scancel")[0].found == "5 s (KillWait)"
    assert found("time to save at scancel")[0].level == "warning"
    assert "--account" in found("account")[0].found
    [finding] = found("shared file system")
    assert (finding.level, finding.found.endswith("a local disk")) == ("warning", True)


def test_a_shared_file_system_is_known_by_the_mount_that_is_nearest(programs: Stage, proc: Stage) -> None:
    programs(sbatch="", scontrol=CONTROLLER)
    mounts = f"disk / ext4 rw 0 0\nserver:/home {ROOT.parent} nfs4 rw 0 0\n"
    proc(self__mounts=mounts, sys__net__ipv4__ip_local_port_range="32768 60999\n")
    [finding] = found("shared file system")
    assert finding.level == "ok"
    assert f"{ROOT} is on nfs4" in finding.found


def test_a_host_name_that_only_this_host_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu7")
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    assert found("host name")[0].found == "gpu7 is 127.0.1.1, which only this host sees"
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.7")
    assert found("host name") == [Finding("host name", "ok", "gpu7 is 10.0.0.7")]

    def unknown(name: str) -> str:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    assert found("host name")[0].found == "gpu7 has no address"


def test_a_port_that_is_taken_and_ports_that_the_kernel_hands_out(proc: Stage) -> None:
    mounts = "disk / ext4 rw 0 0\n"
    proc(self__mounts=mounts, sys__net__ipv4__ip_local_port_range="16384 60999\n")
    [finding] = found("ports")
    assert finding.found == "the kernel gives ports from 16384 on to programs"
    assert finding.remedy.startswith("set net.ipv4.ip_local_port_range above 31999")
    with socket.socket() as other:
        other.bind(("", 31_999))
        assert found("ports")[0].found.startswith("31999 cannot be used (Address already in use")


def test_gpus_that_cannot_be_used_are_a_failure(monkeypatch: pytest.MonkeyPatch, proc: Stage) -> None:
    one = {"driver__nvidia__gpus__0000:01:00.0__information": "Model: a GPU"}
    proc(self__mounts="disk / ext4 rw 0 0\n", sys__net__ipv4__ip_local_port_range="32768 60999\n", **one)
    monkeypatch.setattr(checks, "_version", lambda name: "2.13.0+cpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert found("GPUs")[0][1:3] == ("failure", "1, but torch 2.13.0+cpu is without CUDA")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert found("GPUs")[0][1:3] == ("failure", "1, but CUDA_VISIBLE_DEVICES hides them all")
    monkeypatch.setattr(checks, "_version", lambda name: "2.13.0+cu130")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert found("GPUs")[0][1:3] == ("ok", "1, CUDA_VISIBLE_DEVICES=0")


def test_shared_memory_that_is_small_or_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20))
    assert found("/dev/shm")[0][1:3] == ("warning", "0.1 GiB free")
    monkeypatch.setattr(checks, "_SHM", tmp_path / "none")
    assert found("/dev/shm")[0][1:3] == ("failure", "absent")


def test_low_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kinds = {
        resource.RLIMIT_NOFILE: (1024, 524_288),
        resource.RLIMIT_NPROC: (100, 100),
        resource.RLIMIT_MEMLOCK: (65_536, 65_536),
    }
    monkeypatch.setattr(resource, "getrlimit", kinds.__getitem__)
    assert found("open files") == [Finding("open files", "warning", "limit 1024", "ulimit -n 65536")]
    assert found("processes")[0].found == "limit 100"
    assert not found("locked memory")  # matters to InfiniBand only
    (tmp_path / "class" / "infiniband").mkdir(parents=True)
    monkeypatch.setattr(checks, "_SYS", tmp_path)
    assert found("locked memory")[0].found == "limit 64 KiB"


def test_weights_and_biases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert found("W&B")[0][1:3] == ("warning", "not logged in: runs are written offline")
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    assert found("W&B") == [Finding("W&B", "ok", "logged in")]


def test_an_unknown_command_exits_with_2() -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["doktor"])
    assert end.value.code == 2
