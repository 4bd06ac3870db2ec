"""`sbatch --array slurm/sample.sh` on a real Slurm: the edits of one process, whatever happens."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.cli import main as evaluate
from intarsia.weights import save_model
from sampling.cli import main
from tests.cluster.virtual import Job, call, make_healthy, preempt, sbatch, two_nodes, wait_for
from tests.evaluation.exemplar_bench import write_bench, write_weights
from tests.evaluation.pie_bench import write_pie_bench, write_text_model
from tests.faults import Recorder
from tests.paths import COCO_MINI, ROOT
from tests.sampling.tiny import tiny_model

pytestmark = pytest.mark.cluster
SBATCH = ("--array=0-1", "--cpus-per-task=1", "--mem=3000", "--time=60")  # one on each node
ROWS = 8
EDITS = ROOT / "examples" / "edits"
PICTURES = {"dog": "000000017029.jpg", "hydrant": "000000015746.jpg"}


class Batch:
    """The list, a folder of results, and the job array that makes them."""

    def __init__(self, listed: Path, root: Path) -> None:
        self.listed, self.root, self.out = listed, root, root / "out"

    @property
    def command(self) -> list[str]:
        options = {
            "model": self.listed / "model",
            "out": self.out,
            "num-inference-steps": 20,
            "device": "cpu",
        }
        given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return [str(self.listed / "jobs.csv"), *given]

    def submit(self) -> list[Job]:
        """The two parts."""
        array = sbatch(self.root, "slurm/sample.sh", *self.command, options=SBATCH)
        parts = [array.part(number) for number in range(2)]
        wait_for(lambda: all(part.log for part in parts))
        return parts

    def submit_by_our_command(self) -> list[Job]:
        """The same through `slurm submit`."""
        words = ["submit", "sample", "--folder", str(self.root), *SBATCH, "--", *self.command]
        run = subprocess.run(
            [sys.executable, "-m", "slurm", *words], capture_output=True, text=True, cwd=ROOT
        )
        assert run.returncode == 0, run.stderr
        array = Job(self.root, run.stdout.partition("_")[0])
        parts = [array.part(number) for number in range(2)]
        wait_for(lambda: all(part.log for part in parts))
        return parts

    def made(self, part: int) -> dict[str, int]:
        """When each edit of a part was made, nanoseconds."""
        found = sorted(self.out.glob("edit-*.png"))
        return {path.name: path.stat().st_mtime_ns for path in found if int(path.stem[5:]) % 2 == part}

    def reaches(self, part: int, edits: int, job: Job) -> dict[str, int]:
        wait_for(lambda: len(self.made(part)) >= edits, lambda: f"{job.info}\n{job.log}")
        assert len(self.made(part)) < ROWS // 2, "too late"
        return self.made(part)


def pictures(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.png")}


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with jobs.csv, edits of the bundled pictures, and a tiny model."""
    folder = tmp_path_factory.mktemp("listed")
    save_model(tiny_model(3), folder / "model")
    names = sorted(PICTURES)
    with (folder / "jobs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "image", "mask", "exemplar", "seed"])
        for row in range(ROWS):
            name = names[row % 2]
            picture = COCO_MINI / "images" / PICTURES[name]
            own = (EDITS / f"{name}.mask.png", EDITS / f"{name}.exemplar.jpg")
            table.writerow([f"edit-{row:02d}", picture, *own, row])
    return folder


@pytest.fixture(scope="module")
def whole(listed: Path) -> dict[str, bytes]:
    """What one process makes of the list."""
    batch = Batch(listed, listed)
    assert main(["batch", *batch.command]) == 0
    return pictures(batch.out)


@pytest.fixture(scope="module")
def cluster(whole: dict[str, bytes]) -> Iterator[None]:
    with two_nodes():
        yield


@pytest.fixture
def batch(cluster: None, listed: Path, tmp_path: Path) -> Iterator[Batch]:
    yield Batch(listed, tmp_path)
    make_healthy()


def assert_whole(batch: Batch, whole: dict[str, bytes]) -> None:
    assert pictures(batch.out) == whole
    lines = [json.loads(line) for line in (batch.out / "results.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [f"edit-{row:02d}" for row in range(ROWS)]
    assert {line["status"] for line in lines} == {"ok"}


def test_an_array_makes_the_edits_of_one_process(batch: Batch, whole: dict[str, bytes]) -> None:
    parts = batch.submit()
    assert [part.ends() for part in parts] == ["COMPLETED"] * 2, [part.log for part in parts]
    assert_whole(batch, whole)
    assert {part.info["NodeList"] for part in parts} == {"node1", "node2"}
    for number, part in enumerate(parts):
        assert f"--shard {number}/2" in part.log
        assert f"{ROWS // 2} made, 0 already there, 0 failed" in part.log


def test_a_cancelled_part_that_is_submitted_again(
    batch: Batch, whole: dict[str, bytes], record_fault: Recorder
) -> None:
    first, second = batch.submit()
    batch.reaches(1, 1, second)
    call("scancel", second.id)
    assert second.ends() == "CANCELLED"
    assert first.ends() == "COMPLETED", first.log
    assert len(batch.made(1)) < ROWS // 2
    before = batch.made(0) | batch.made(1)
    again = batch.submit()
    assert [part.ends() for part in again] == ["COMPLETED"] * 2, [part.log for part in again]
    assert before.items() <= (batch.made(0) | batch.made(1)).items()
    assert f"{len(before) - ROWS // 2} already there, 0 failed" in again[1].log
    assert_whole(batch, whole)
    record_fault("a part of a job array is cancelled", "the same command makes the missing edits")


def test_the_signal_before_the_time_limit_and_preemption(
    batch: Batch, whole: dict[str, bytes], record_fault: Recorder
) -> None:
    first, second = batch.submit_by_our_command()
    before = batch.reaches(1, 1, second)
    call("scancel", "--batch", "--signal=USR1", second.id)
    wait_for(lambda: ", restart 1, " in second.log, lambda: second.log)
    before |= batch.made(0)
    preempt()
    wait_for(lambda: ", restart 2, " in second.log, lambda: second.log)
    assert [part.ends() for part in (first, second)] == ["COMPLETED"] * 2, first.log + second.log
    assert before.items() <= (batch.made(0) | batch.made(1)).items()
    assert_whole(batch, whole)
    outcome = "the part restarts automatically and makes the missing edits"
    record_fault("a part of a job array reaches its time limit", outcome)
    record_fault("a part of a job array is preempted", outcome)


def test_an_array_with_a_gap_is_refused(cluster: None, tmp_path: Path) -> None:
    array = sbatch(tmp_path, "slurm/sample.sh", "jobs.csv", options=("--array=1-2", *SBATCH[1:]))
    parts = [array.part(number) for number in (1, 2)]
    assert [part.ends() for part in parts] == ["FAILED"] * 2
    assert {part.log for part in parts} == {"error: the array must be 0-LAST, without gaps\n"}


def test_a_bench_is_edited_in_parts_and_scored_by_the_last(
    cluster: None, tmp_path: Path, whole: dict[str, bytes], listed: Path
) -> None:
    bench, weights = write_bench(tmp_path / "bench", count=4), write_weights(tmp_path / "weights")
    command = ["cocoee", "run", "--bench", str(bench), "--model", str(listed / "model"), "--device", "cpu"]
    command += [
        "--weights",
        str(weights),
        "--without",
        "inception",
        "--num-inference-steps",
        "2",
        "--results",
    ]
    assert evaluate([*command, str(tmp_path / "alone")]) == 0
    array = sbatch(tmp_path, "slurm/evaluate.sh", *command, str(tmp_path / "parts"), options=SBATCH)
    parts = [array.part(number) for number in range(2)]
    assert [part.ends() for part in parts] == ["COMPLETED"] * 2, [part.log for part in parts]
    assert all("2 made, 0 already there, 0 failed" in part.log for part in parts)
    figures = [tmp_path / name / "report" / "report.json" for name in ("alone", "parts")]
    alone, together = [json.loads(path.read_text())["rows"] for path in figures]
    assert alone == together

    # A command that makes nothing is a job without an array.
    folders = (str(tmp_path / "alone"), str(tmp_path / "parts"))
    single = [option for option in SBATCH if "array" not in option]
    compare = sbatch(tmp_path, "slurm/evaluate.sh", "compare", *folders, options=tuple(single))
    assert compare.ends() == "COMPLETED", compare.log
    assert "usage" not in compare.log


def test_all_rows_of_pie_bench_are_made_in_parts(cluster: None, tmp_path: Path) -> None:
    bench, model = write_pie_bench(tmp_path / "bench", count=2), write_text_model(tmp_path / "model")
    command = ["piebench", "run", "--all", "--bench", str(bench), "--model", str(model), "--device", "cpu"]
    command += [word for name in ("structure", "lpips", "clip") for word in ("--without", name)]
    command += ["--num-inference-steps", "1", "--store", str(tmp_path / "store"), "--results"]
    assert evaluate([*command, str(tmp_path / "alone")]) == 0
    array = sbatch(tmp_path, "slurm/evaluate.sh", *command, str(tmp_path / "parts"), options=SBATCH)
    parts = [array.part(number) for number in range(2)]
    assert [part.ends() for part in parts] == ["COMPLETED"] * 2, [part.log for part in parts]
    assert all("20 made, 0 already there, 0 failed" in part.log for part in parts)
    results = [
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*.png")}
        for f in (tmp_path / "alone", tmp_path / "parts")
    ]
    assert len(results[0]) == 40 and results[0] == results[1]
    table = (tmp_path / "parts/report/table.md").read_text()
    for title in ("Direct Inversion + PnP", "Null-text + P2P, source branch only"):
        assert title in table
