"""CONTAINER=IMAGE for all job scripts, with an srun and an apptainer that note their words and run the rest.

No container runtime is needed: every command of a job is seen handed to one, with the folders.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.training.synthetic import write_config

SRUN = """
[[ $1 == --help ]] && { echo "$PYXIS"; exit; }
printf -v call '%s\\x1f' srun "$@"
printf '%s\\x1e' "$call" >>"$NOTES"    # one write: two programs note at the same time
while [[ $1 == --* ]]; do shift; done
exec env SLURM_NODEID=0 "$@"
"""
APPTAINER = """
printf -v call '%s\\x1f' apptainer "$@"
printf '%s\\x1e' "$call" >>"$NOTES"
shift
while [[ $1 == --* ]]; do [[ $1 == --nv ]] || shift; shift; done
shift
exec "$@"
"""
PYTHON = """
case "$*" in
  *"scripts start"*) touch "$NOTES.ray"; exec sleep 60 ;;
  *health-check*) until [[ -e $NOTES.ray ]]; do sleep .02; done ;;
  "-m training"*--dry-run | "-c "*) exec "$REAL" "$@" ;;
  *) echo "ran: $*" ;;
esac
"""
JOBS = {  # script -> its arguments, and how the commands of its job begin
    "train": (["{config}", "data.shards={shards}", "run={run}"], ["-m training", "-c ", "-m training"]),
    "sample": (["jobs.csv", "--model", "m", "--out", "o"], ["-m sampling batch"]),
    "evaluate": (["fid", "one", "other"], ["-m evaluation fid"]),
    "dataprep": (
        ["build", "coco"],
        ["slurm/ray.sh", "-m ray.scripts.scripts health-check", "-m dataprep build"],
    ),
}


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


def job(folder: Path, kind: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """One job; what its programs were called with is in folder/notes."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    program(tools / "srun", SRUN)
    program(tools / "apptainer", APPTAINER)
    program(tools / "scontrol", "echo localhost")
    program(tools / "squeue", "echo NONE")
    places = {"config": write_config(folder), "shards": folder / "shards", "run": folder / "run"}
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHON": str(program(tools / "python", PYTHON)),
        "PYXIS": "--container-image=IMAGE",
        "NOTES": str(folder / "notes"),
        "REAL": sys.executable,
        "SLURM_CPUS_PER_TASK": "3",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_MEM_PER_NODE": "4096",
        "SLURM_SUBMIT_DIR": str(ROOT),
    }
    words = [word.format(**places) for word in JOBS[kind][0]]
    return subprocess.run(
        ["bash", str(ROOT / f"slurm/{kind}.sh"), *words],
        env=environment | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def notes(folder: Path, name: str) -> list[list[str]]:
    """Each call of a program, as its arguments."""
    calls = [call.split("\x1f")[:-1] for call in (folder / "notes").read_text().split("\x1e")]
    return [words for called, *words in filter(None, calls) if called == name]


def commands(calls: Sequence[Sequence[str]]) -> list[str]:
    """What each call runs after the interpreter or bash."""
    return sorted(" ".join(call).partition("/python ")[2] or call[-1] for call in calls)


def assert_begin(found: Sequence[str], wanted: Sequence[str]) -> None:
    assert len(found) == len(wanted)
    assert all(line.startswith(start) for line, start in zip(found, sorted(wanted), strict=True)), found


@pytest.mark.processes
@pytest.mark.parametrize("kind", JOBS)
def test_pyxis_gets_every_command_of_a_job(kind: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    run = job(
        tmp_path, kind, CONTAINER="lab#intarsia:cuda", CONTAINER_MOUNTS=f"{tmp_path},{tmp_path}/data:/data"
    )
    assert run.returncode == 0, run.stdout + run.stderr
    calls = notes(tmp_path, "srun")
    mounts = f"--container-mounts={ROOT}:{ROOT},{tmp_path}:{tmp_path},{tmp_path}/data:/data"
    for call in calls:
        assert {"--container-image=lab#intarsia:cuda", mounts, f"--container-workdir={ROOT}"} <= set(call)
    assert_begin(commands(calls), JOBS[kind][1])
    assert "intarsia:cuda with pyxis" in run.stdout


@pytest.mark.processes
@pytest.mark.parametrize("kind", JOBS)
def test_apptainer_gets_every_command_of_a_job(kind: str, tmp_path: Path) -> None:
    run = job(tmp_path, kind, CONTAINER="intarsia.sif", CONTAINER_MOUNTS=str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    calls = notes(tmp_path, "apptainer")
    start = ["exec", "--bind", f"{ROOT}:{ROOT},{tmp_path}:{tmp_path}", "--pwd", str(ROOT)]
    for call in calls:
        assert call[:5] == start and "intarsia.sif" in call[5:7]
    assert_begin(commands(calls), JOBS[kind][1])
    outer = [call for call in notes(tmp_path, "srun") if "apptainer" in call]
    assert len(outer) == (kind in ("train", "dataprep")), "ranks and Ray's nodes start through srun"


@pytest.mark.processes
@pytest.mark.parametrize("kind", JOBS)
def test_without_an_image_no_runtime_is_called(kind: str, tmp_path: Path) -> None:
    run = job(tmp_path, kind)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "--container" not in ((tmp_path / "notes").read_text() if (tmp_path / "notes").exists() else "")
    assert "container:" not in run.stdout


@pytest.mark.processes
def test_what_cannot_run_is_refused_before_the_job_begins(tmp_path: Path) -> None:
    refused = {
        "srun has no --container-image here (pyxis is not installed)": {"CONTAINER": "lab#x", "PYXIS": ""},
        "/no/such: the folder": {"CONTAINER": "lab#x", "CONTAINER_MOUNTS": "/no/such"},
        "CONTAINER_RUNTIME=docker is not pyxis or apptainer": {
            "CONTAINER": "x",
            "CONTAINER_RUNTIME": "docker",
        },
    }
    for sentence, variables in refused.items():
        run = job(tmp_path, "sample", **variables)
        assert (run.returncode, sentence in run.stderr) == (2, True), run.stderr
