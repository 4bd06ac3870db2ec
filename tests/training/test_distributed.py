"""Who a process is, under every launcher; and the flag that a signal sets."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from intarsia.errors import UserError
from tests.paths import ROOT
from training.ranks import distributed
from training.ranks.distributed import EXIT_ALONE, StopFlag, set_environment, told_when_alone

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def test_alone_without_a_launcher() -> None:
    environ: dict[str, str] = {}
    set_environment(environ)
    assert [environ[name] for name in NAMES[:4]] == ["0", "1", "0", "127.0.0.1"]
    assert 1024 < int(environ["MASTER_PORT"]) < 65536


def test_torchruns_word_is_left_alone() -> None:
    environ = dict(zip(NAMES, ("3", "8", "1", "node7", "29400"), strict=True))
    before = dict(environ)
    set_environment(environ)
    assert environ == before


def slurm(**more: str) -> dict[str, str]:
    return {
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "5",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_LOCALID": "1",
        **more,
    }


def test_srun_gives_rank_size_host_and_a_port_of_the_jobs_own() -> None:
    one, other = (slurm(SLURM_JOB_ID=job, SLURM_STEP_NODELIST="gpu07") for job in ("123456", "123457"))
    set_environment(one)
    set_environment(other)
    assert [one[name] for name in NAMES[:4]] == ["5", "8", "1", "gpu07"]
    assert one["MASTER_PORT"] != other["MASTER_PORT"]
    assert 20_000 <= int(one["MASTER_PORT"]) < 32_000


def test_a_list_of_hosts_is_read_by_scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$3" = "gpu[07-08]" ] && printf "gpu07\\ngpu08\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    environ = slurm(SLURM_STEP_NODELIST="gpu[07-08]")
    set_environment(environ)
    assert environ["MASTER_ADDR"] == "gpu07"


def test_without_scontrol_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="scontrol is not found; set MASTER_ADDR yourself"):
        set_environment(slurm(SLURM_STEP_NODELIST="gpu[07-08]"))


def test_a_batch_script_without_srun_is_one_process_alone() -> None:
    environ = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}
    set_environment(environ)
    assert environ["WORLD_SIZE"] == "1"


@pytest.fixture
def handlers() -> Iterator[None]:
    """The signals' handlers are put back afterwards."""
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(n) for n in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for n, handler in zip(numbers, before, strict=True):
        signal.signal(n, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_sets_the_flag_and_nothing_else(number: signal.Signals) -> None:
    flag = StopFlag().install()
    assert not flag.raised
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)
    assert flag.raised


@pytest.mark.usefixtures("handlers")
def test_a_second_interrupt_does_not_wait(capfd: pytest.CaptureFixture[str]) -> None:
    flag = StopFlag().install()
    os.kill(os.getpid(), signal.SIGINT)
    assert flag.raised
    assert capfd.readouterr().err == "saving after the running step; Ctrl-C again ends at once\n"
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("handlers")
def test_an_interrupt_that_was_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    flag = StopFlag().install()
    os.kill(os.getpid(), signal.SIGINT)
    assert not flag.raised


@pytest.mark.processes
def test_the_handlers_stand_before_anything_slow_is_imported() -> None:
    probe = "import sys, training.ranks.distributed; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


# The second of two ranks ends; both by gloo, which on CPUs is all there is.
ABANDON = """
import os, sys
import torch.distributed as dist
from intarsia.errors import run_command
from training.ranks import distributed

def work(argv):
    with distributed.told_when_alone():
        dist.barrier()
        if dist.get_rank() == 1:
            os._exit(1)
        dist.barrier()

distributed._SECONDS_FOR_THE_FIRST = 0
os.environ.update(zip(("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), sys.argv[1:]))
dist.init_process_group("gloo")
os._exit(run_command(work))
"""


@pytest.mark.processes
def test_a_rank_that_is_left_alone_says_so_and_has_a_code_of_its_own() -> None:
    port = str(distributed._free_port())
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", ABANDON, rank, "2", "127.0.0.1", port],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [rank.communicate(timeout=400)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [EXIT_ALONE, 1]
    assert re.search(r"^error: another rank has gone \(Connection \w+ by peer.*\); the end", said[0], re.M)


def test_an_error_of_our_own_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), told_when_alone():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
