"""`doctor --gpus` with a driver that reports what is staged, and its work rehearsed by two CPU ranks."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm import cli, gpus
from slurm.checks import Finding

ROWS = """\
0, NVIDIA H200, 0, 1980, 1980, Not Active
1, NVIDIA H200, 3, 1980, 1980, Not Active
2, NVIDIA H200, 0, 345, 1980, Active
3, NVIDIA L4, [N/A], 1500, 2040, Not Active
"""
XIDS = "[1] NVRM: Xid (PCI:0000:17:00): 79, GPU has fallen off the bus.\n" * 2 + "[2] usb 1-1: new device\n"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes programs by name and output; others are not found."""

    def stage(**outputs: str) -> None:
        for name, output in outputs.items():
            path = tmp_path / name.replace("_", "-")
            (tmp_path / f"{name}.txt").write_text(output)
            path.write_text(f"#!/bin/sh\n/bin/cat {tmp_path / name}.txt\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return stage


def test_memory_errors_slow_clocks_and_xids_are_found(programs: Callable[..., None]) -> None:
    programs(nvidia_smi=ROWS, dmesg=XIDS)
    found = list(gpus.driver())
    assert [finding.level for finding in found] == ["ok", "failure", "warning", "ok", "warning"]
    assert found[1].found == "NVIDIA H200, clock 1980 of 1980 MHz, 3 uncorrected memory errors"
    assert "slowed down by its hardware" in found[2].found
    assert found[4].found == "2 × Xid 79 of 0000:17:00"


def test_without_a_driver_or_a_log_it_says_so(programs: Callable[..., None]) -> None:
    programs()
    [finding] = gpus.driver()
    assert (finding.level, finding.found) == ("failure", "nvidia-smi is not found")
    programs(nvidia_smi=ROWS)
    assert list(gpus.driver())[-1] == Finding(
        "Xid events", "ok", "unknown: the kernel's log cannot be read here"
    )


def test_a_slow_gpu_is_named() -> None:
    ranks = [{"node": "a", "gpu": n, "flops": speed} for n, speed in enumerate((7e14, 7.1e14, 5e14))]
    *each, exchange = gpus._judged({"ranks": ranks, "bytes_per_s": 4.1e11})
    assert [finding.level for finding in each] == ["ok", "ok", "warning"]
    assert each[2].what == "a: GPU 2"
    assert each[2].found == "500 TFLOP/s, 70% of the fastest"
    assert exchange.found == "410 GB/s bus bandwidth among 3 ranks"


@pytest.mark.whole
def test_two_ranks_measure_a_product_and_an_all_reduce(capsys: pytest.CaptureFixture[str]) -> None:
    """On CPUs, through gloo: the same program that GPUs run through NCCL."""
    first, second, exchange = gpus.work(nodes=0, gpus=2)
    assert first.what.endswith("CPU")
    assert second.what.endswith("CPU")
    assert exchange.found.endswith("GB/s bus bandwidth among 2 ranks")
    cli.main(["doctor", "--gpus", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found[-1]["what"] == "all-reduce"
