"""Builds that are killed, starved and robbed, as real processes; the same command then completes them."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dataprep.check.verify import verify_folder
from tests.cluster.virtual import wait_for
from tests.dataprep.test_build import command_line
from tests.faults import Recorder, content, rebuilt, stamps
from tests.paths import ROOT

pytestmark = pytest.mark.cluster
Inputs = tuple[Path, Path]
OPTIONS = ("--images-per-shard", "2", "--draws-per-image", "600")
SHARDS = 8
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
KILLED_BY_A_PICTURE = """
import os, simplejpeg
decode = simplejpeg.decode_jpeg
def decode_or_die(data, *arguments, **options):
    if b"kills its decoder" in data[:200]:
        os.kill(os.getpid(), 11)
    return decode(data, *arguments, **options)
simplejpeg.decode_jpeg = decode_or_die
"""

DEAD_AT_THE_START = """
import importlib.abc, os, sys
class Killer(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "simplejpeg" and any("default_worker.py" in word for word in sys.orig_argv):
            os._exit(132)  # as an instruction that this processor does not have would
sys.meta_path.insert(0, Killer())
"""


class Build:
    """`python -m dataprep build` as a process of its own, with what it says."""

    def __init__(
        self, inputs: Inputs, out: Path, *more: str, environment: dict[str, str] = ENVIRONMENT
    ) -> None:
        self.out, self.said = out, out.parents[1] / f"said-{time.monotonic_ns()}"  # not on a full disk
        command = [sys.executable, "-m", "dataprep", *command_line(inputs, out, *OPTIONS, *more)]
        with self.said.open("w") as file:
            self.process = psutil.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)

    def reaches(self, shards: int) -> dict[str, int]:
        """Wait until so many shards are whole; their times."""

        def reached() -> bool:
            assert self.process.poll() is None, self.said.read_text()
            return len(list(self.out.glob("toy-*.json"))) >= shards

        wait_for(reached, self.said.read_text)
        return stamps(self.out)

    def processes(self, name: str) -> list[psutil.Process]:
        """Those below the build whose command starts so."""
        found = []
        for process in self.process.children(recursive=True):
            try:
                of_a_worker = process.parent().cmdline()[0].startswith("ray::")  # where a picture is tried
                if name in process.cmdline()[0] and not of_a_worker:
                    found.append(process)
            except (psutil.Error, IndexError, AttributeError):
                continue
        return found

    def ends(self, code: int = 0) -> str:
        assert self.process.wait(400) == code, self.said.read_text()
        return self.said.read_text()

    def ends_with_one_sentence(self) -> str:
        said = self.ends(1)
        # Of the toy's pictures one is missing and one has another size than annotated.
        words = [line for line in said.splitlines() if not line.startswith("warning: ")]
        assert [line for line in words if "shards  " not in line] == [words[-1]], said
        assert words[-1].startswith("error: ")
        return words[-1]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, toy_coco: Inputs) -> dict[str, str]:
    """What an undisturbed build gives."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    Build(toy_coco, out).ends()
    return content(out)


def assert_completes(inputs: Inputs, out: Path, reference: dict[str, str], before: dict[str, int]) -> None:
    """The same command again: the same bytes, and no shard twice that was whole before."""
    Build(inputs, out).ends()
    assert content(out) == reference
    assert verify_folder(out) == []
    assert not rebuilt(out, before)


def test_the_driver_is_killed_at_any_moment(
    tmp_path: Path, toy_coco: Inputs, reference: dict[str, str], record_fault: Recorder
) -> None:
    rng = random.Random(0)
    before: dict[str, int] = {}
    for seconds in (rng.uniform(0.2, 4), rng.uniform(4, 9), rng.uniform(7, 12)):
        build = Build(toy_coco, tmp_path / "out")
        try:
            build.process.wait(seconds)
        except psutil.TimeoutExpired:
            build.process.kill()
        build.process.wait()  # and at once again, while what it started is still dying
        if (tmp_path / "out").is_dir():
            assert not rebuilt(tmp_path / "out", before)
            before = stamps(tmp_path / "out")
    assert_completes(toy_coco, tmp_path / "out", reference, before)
    record_fault(
        "the driver is killed, at random moments", "the same command continues; complete shards are kept"
    )


def test_workers_are_killed_at_any_moment(
    tmp_path: Path, toy_coco: Inputs, reference: dict[str, str], record_fault: Recorder
) -> None:
    rng = random.Random(1)
    build = Build(toy_coco, tmp_path / "out")
    wait_for(lambda: build.processes("ray::Map"), build.said.read_text)
    killed = 0
    while build.process.poll() is None and killed < 6:
        time.sleep(rng.uniform(0.1, 1.0))
        for worker in rng.sample(build.processes("ray::Map"), 1) if build.processes("ray::Map") else []:
            worker.kill()
            killed += 1
    assert killed >= 3
    said = build.ends()
    assert "quarantined" not in said
    assert content(tmp_path / "out") == reference
    assert verify_folder(tmp_path / "out") == []
    record_fault(
        "workers are killed, at random moments", "the build continues automatically; no picture is rejected"
    )


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_process_of_rays_is_killed(
    tmp_path: Path, toy_coco: Inputs, reference: dict[str, str], record_fault: Recorder, name: str
) -> None:
    build = Build(toy_coco, tmp_path / "out")
    build.reaches(1)
    time.sleep(random.Random(name).uniform(0, 1))
    build.processes(f"/{name}")[0].kill()
    if name == "raylet" or build.process.wait(400) != 0:
        assert "run the same command again" in build.ends_with_one_sentence()
    assert_completes(toy_coco, tmp_path / "out", reference, stamps(tmp_path / "out"))
    record_fault(f"Ray's {name} is killed", "one error sentence; the same command continues")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("size", ["16k", "4m"], ids=["at the plan", "at a shard"])
def test_the_disk_is_full(
    small_disk: Path, toy_coco: Inputs, reference: dict[str, str], record_fault: Recorder, size: str
) -> None:
    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)

    resize(size)
    out = small_disk / "out"
    build = Build(toy_coco, out)
    assert "No space left on device" in build.ends_with_one_sentence()
    before = stamps(out) if out.exists() else {}
    resize("500m")
    assert_completes(toy_coco, out, reference, before)
    record_fault("the disk is full", "one error sentence; with free space the same command continues")


def test_the_folder_of_pictures_is_taken_away(
    tmp_path: Path, toy_coco: Inputs, reference: dict[str, str], record_fault: Recorder
) -> None:
    images = shutil.copytree(toy_coco[1], tmp_path / "images")
    inputs, out = (toy_coco[0], images), tmp_path / "out"
    build = Build(inputs, out)
    before = build.reaches(1)
    images.rename(tmp_path / "away")
    assert "images cannot be read (No such file or directory) now" in build.ends_with_one_sentence()
    assert f"{images} does not exist" in Build(inputs, out).ends_with_one_sentence()
    assert "file_missing" not in "".join(path.read_text() for path in out.glob("toy-*.json"))
    (tmp_path / "away").rename(images)
    assert_completes(inputs, out, reference, before)
    record_fault(
        "the folder of pictures is removed",
        "one error sentence, no rejects; with the folder restored the same command continues",
    )


def journals(out: Path) -> Iterator[str]:
    for path in out.glob(".*.journal"):
        with contextlib.suppress(FileNotFoundError):
            yield path.read_text()


def test_a_picture_kills_its_decoder_each_time(
    tmp_path: Path, toy_coco: Inputs, record_fault: Recorder
) -> None:
    """In workers, in the process that tries it alone, and after a restart of the driver."""
    images = shutil.copytree(toy_coco[1], tmp_path / "images")
    victim = images / "000000000004.jpg"
    jpeg, note = victim.read_bytes(), b"kills its decoder"
    victim.write_bytes(jpeg[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + jpeg[2:])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLED_BY_A_PICTURE)
    environment = ENVIRONMENT | {"PYTHONPATH": f"{ROOT}:{tmp_path / 'site'}"}

    inputs, out, whole = (toy_coco[0], images), tmp_path / "out", tmp_path / "whole"
    more = ("--images-per-shard", "5")
    build = Build(inputs, out, *more, environment=environment)
    wait_for(lambda: any(journal.count("*") > 1 for journal in journals(out)), build.said.read_text)
    build.process.kill()  # after the first death, before anything is proven
    build.process.wait()
    said = Build(inputs, out, *more, environment=environment).ends()
    assert "quarantined" in said
    assert '"image_id":"4","reason":"quarantined"' in (out / "rejects.jsonl").read_text()
    assert verify_folder(out) == []
    Build(inputs, whole, *more, environment=environment).ends()
    assert content(whole) == content(out)
    record_fault(
        "a picture crashes its decoder every time", "the picture is quarantined by name; the build continues"
    )


def test_workers_die_at_their_start_each_time(
    tmp_path: Path, toy_coco: Inputs, reference: dict[str, str], record_fault: Recorder
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEAD_AT_THE_START)
    environment = ENVIRONMENT | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    said = Build(toy_coco, tmp_path / "out", environment=environment).ends_with_one_sentence()
    assert "6 workers of Ray died at their start, before any shard was begun" in said
    assert_completes(toy_coco, tmp_path / "out", reference, {})
    record_fault("workers die at the start, every time", "one error sentence; the same command continues")


def test_two_builds_at_once_and_another_command(
    tmp_path: Path, toy_coco: Inputs, reference: dict[str, str], record_fault: Recorder
) -> None:
    out = tmp_path / "out"
    first = Build(toy_coco, out)
    first.reaches(1)
    said = Build(toy_coco, out).ends_with_one_sentence()
    assert said == f"error: another build is running in {out}; wait for it, or choose another --out"
    first.ends()
    other = Build(toy_coco, out, "--seed", "3").ends(2)
    assert "was built with other options (seed: 0 -> 3)" in other
    assert content(out) == reference
    record_fault("two builds at the same time", "the second is refused")
    record_fault(
        "other options or inputs for an existing folder", "refused; the message shows the difference"
    )
