"""Jobs as text: exact #SBATCH lines, mistakes told at once; submitted through a fake Slurm, and run here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from intarsia.errors import UsageError
from slurm import cli
from slurm.job import KINDS, JobSpec, header_options, minutes, parse_array, sweep_runs, valid_options
from tests.cluster.virtual import wait_for
from tests.paths import ROOT
from tests.training.synthetic import make_shards, write_config

FAKE_SBATCH = """#!/bin/sh
echo "$@" >>{folder}/calls
cat "$1" >>{folder}/texts
echo "Submitted batch job $((100 + $(wc -l <{folder}/calls)))"
"""


@pytest.fixture
def train(tmp_path: Path) -> list[str]:
    """`submit train` with a config that is whole."""
    config = write_config(tmp_path)
    return ["submit", "train", str(config), "data.shards=shards", f"run={tmp_path / 'run'}"]


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that keeps what sbatch was called with."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"sbatch": FAKE_SBATCH.format(folder=tmp_path), "srun": ""}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.chdir(ROOT)
    return tmp_path


def sbatch_lines(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 2
    return capsys.readouterr().err


def test_the_exact_lines_of_a_job_on_two_nodes(train: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--nodes", "2", "--gpus-per-node=8", "--time", "4:00:00", "--account=lab", "--exclusive"]
    assert cli.main([*train, *given, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    folder = Path(train[-1].removeprefix("run=")) / "slurm"
    assert sbatch_lines(shown) == [
        "--account=lab",
        "--cpus-per-task=8",
        "--exclusive",
        "--gpus-per-node=8",
        "--job-name=train",
        "--nodes=2",
        "--ntasks-per-node=8",
        "--open-mode=append",
        f"--output={folder}/%j_0_log.out",
        "--requeue",
        "--signal=USR1@120",
        "--time=240",
    ]
    # The job's first process is the script: signals before the time limit reach no other.
    assert f"\nexec {sys.executable} -u -m submitit.core._submit {folder}\n" in shown
    assert shown.endswith(f"# part 0: bash slurm/train.sh {' '.join(train[2:])}\n")
    assert not folder.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_scripts_header_is_the_default_of_every_option(kind: str) -> None:
    header = header_options((ROOT / f"slurm/{kind}.sh").read_text())
    text = JobSpec(kind, (("x",),)).sbatch_text("true", Path("logs"), ROOT)
    header["time"] = str(minutes(str(header["time"])))
    lines = set(sbatch_lines(text)) | {f"--output={header['output']}"}
    assert {f"--{name}" + ("" if value is True else f"={value}") for name, value in header.items()} <= lines


def test_a_misspelt_option_is_refused_with_the_valid_ones(
    train: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = refused(capsys, *train, "--tiem=3")
    assert words.startswith("error: unknown option --tiem; did you mean --time? put options of the")
    assert all(f"--{name}" in words for name in [*valid_options(), "sweep", "chain", "local"])


def test_mistakes_of_the_config_are_told_before_the_queue(
    train: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "did you mean 'max_steps'" in refused(capsys, *train, "max_stps=3", "--dry-run")
    assert "no run folder given" in refused(capsys, *train[:-1], "--dry-run")
    words = refused(capsys, *train, "--sweep", "optimizer.lr=1e-4,-1", "--dry-run")
    assert "optimizer.lr=-1" in words
    assert "--array divides sample and evaluate" in refused(capsys, *train, "--array=0-3", "--dry-run")
    assert "--time=soon is not a time" in refused(capsys, *train, "--time=soon", "--dry-run")
    assert "--gpus-per-node=all is not a number" in refused(
        capsys, *train, "--gpus-per-node=all", "--dry-run"
    )


def test_a_gpu_of_a_named_kind_is_counted(train: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*train, "--gpus-per-node=h100:4", "--dry-run"]) == 0
    assert {"--gpus-per-node=h100:4", "--ntasks-per-node=4"} <= set(sbatch_lines(capsys.readouterr().out))


def test_a_chain_is_jobs_that_wait_for_the_one_before(train: list[str], fake_slurm: Path) -> None:
    assert cli.main([*train, "--chain", "3"]) == 0
    assert (fake_slurm / "calls").read_text().count("\n") == 3
    waiting = [line for line in sbatch_lines((fake_slurm / "texts").read_text()) if "dependency" in line]
    assert waiting == ["--dependency=afterany:101", "--dependency=afterany:102"]


def test_a_sweep_is_one_array_of_runs_with_folders_of_their_own(
    train: list[str], fake_slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--sweep", "optimizer.lr=1e-5,1e-4", "--sweep", "seed=1,2"]
    assert cli.main([*train, *given, "--dry-run"]) == 0
    parts = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# part")]
    run = train[-1]
    names = ["lr=1e-5,seed=1", "lr=1e-5,seed=2", "lr=1e-4,seed=1", "lr=1e-4,seed=2"]
    assert [line.split()[-1] for line in parts] == [f"{run}/{name}" for name in names]
    assert "optimizer.lr=1e-5 seed=2" in parts[1]
    assert cli.main([*train, *given]) == 0
    assert "--array=0-3%4" in sbatch_lines((fake_slurm / "texts").read_text())
    assert capsys.readouterr().out.splitlines()[3].startswith("101_3 ")
    assert len(list((fake_slurm / "run" / "slurm").rglob("101_*_submitted.pkl"))) == 4


def test_an_array_divides_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["submit", "sample", "--array=0-2%2", "--local", "--dry-run", "--", "jobs.csv", "--out", "o"]
    assert cli.main(given) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"# part {part}: python -m sampling batch jobs.csv --out o --shard {part}/3" for part in range(3)
    ]


def test_without_slurm_the_way_out_is_named(
    train: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(ROOT)
    assert cli.main(train) == 1
    assert "add --local" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "expected"),
    [("90", 90), ("30:00", 30), ("4:00:00", 240), ("1-12", 2160), ("1-12:30", 2190), ("0:00:30", 1)],
)
def test_slurms_ways_to_write_a_time(written: str, expected: int) -> None:
    assert minutes(written) == expected


def test_arrays_and_sweeps_of_another_form_are_refused() -> None:
    assert parse_array("0-7%4") == (8, 4)
    assert parse_array("0-7") == (8, 8)
    for array in ("1-7", "7", "0-7%0", "0,3"):
        with pytest.raises(UsageError, match="0-LAST"):
            parse_array(array)
    for axis in ("seed", "seed=", "=1", "run=a,b"):
        with pytest.raises(UsageError, match=r"a\.b=1,2,3"):
            sweep_runs(["c.yaml", "run=r"], [axis])
    with pytest.raises(
        UsageError, match=r"'seed=1,2,1' has the same value twice; two runs would share a folder"
    ):
        sweep_runs(["c.yaml", "run=r"], ["seed=1,2,1"])
    with pytest.raises(UsageError, match="needs run=FOLDER"):
        sweep_runs(["c.yaml"], ["seed=1,2"])
    lists = sweep_runs(["c.yaml", "run=r"], ["optimizer.betas=[0.9, 0.99],[0.8, 0.9]"])
    assert [part[1] for part in lists] == ["optimizer.betas=[0.9, 0.99]", "optimizer.betas=[0.8, 0.9]"]


@pytest.mark.cluster
def test_a_local_job_trains_on_two_ranks_and_outlives_the_command(tmp_path: Path, train: list[str]) -> None:
    make_shards(tmp_path / "shards")
    command = [*train, f"data.shards={tmp_path / 'shards'}", "max_steps=2", "--local", "--ntasks-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-m", "slurm", *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    log = Path(run.stdout.split()[1])
    wait_for((tmp_path / "run" / "finished.json").exists, log.read_text)
    assert json.loads((tmp_path / "run" / "finished.json").read_text())["step"] == 2
    assert "× ranks 2;" in log.read_text()
