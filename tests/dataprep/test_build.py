"""Builds through real Ray: the same bytes whatever the workers, and after a kill."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from dataprep.build import BuildProgress, build
from dataprep.check.verify import verify_folder
from dataprep.cli import main
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE, read_plan_header, read_plan_rows
from dataprep.shards.build_shard import ShardJob, build_shard
from dataprep.workers.pipeline import _start
from intarsia.errors import UsageError, UserError
from tests.dataprep.test_shards import build_alone, jobs_of, plan_of
from tests.dataprep.toy import EXPECTED, GOOD, toy_request
from tests.paths import ROOT

Inputs = tuple[Path, Path]
SHARD = "toy-train-000001.json"
OPTIONS = {"images_per_shard": 2, "draws_per_image": 3}


def hashes(out: Path) -> dict[str, str]:
    """sha256 of each tar and sidecar."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.iterdir())
        if path.name.startswith("toy-") or path.name in ("rejects.jsonl", "manifest.json")
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, toy_coco: Inputs) -> dict[str, str]:
    """What the build gives without Ray."""
    out = tmp_path_factory.mktemp("reference")
    build_alone(toy_request(out, out, inputs=toy_coco, **OPTIONS))
    return hashes(out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_coco: Inputs) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    build_alone(toy_request(out, out, inputs=toy_coco))
    return out


@pytest.mark.usefixtures("ray_with_two_workers")
def test_two_workers_give_the_same_bytes_and_report_progress(
    tmp_path: Path, toy_coco: Inputs, reference: dict[str, str]
) -> None:
    reports: list[BuildProgress] = []
    manifest = build(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, **OPTIONS), reports.append)
    assert hashes(tmp_path / "out") == reference
    assert manifest["kept"] == EXPECTED["kept"] | {"samples": 3 * GOOD}
    assert verify_folder(tmp_path / "out") == []
    assert sorted({r.shards_done for r in reports}) == list(range(9))
    assert [r.built for r in reports] == sorted(r.built for r in reports)
    assert (reports[-1].built, reports[-1].pictures, reports[-1].shards) == (15, 15, 8)
    strays = [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".") and p.name != ".lock"]
    assert not strays


@pytest.mark.usefixtures("ray_with_two_workers")
def test_a_second_run_does_what_is_missing_and_nothing_else(
    tmp_path: Path, toy_coco: Inputs, reference: dict[str, str]
) -> None:
    request = toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, **OPTIONS)
    build(request)
    times = {path.name: path.stat().st_mtime_ns for path in request.out.glob("toy-*")}
    (request.out / "toy-train-000003.json").unlink()
    tar = request.out / "toy-train-000005.tar"
    tar.write_bytes(tar.read_bytes()[:-10])
    (request.out / ".toy-train-000001.tar.tmp-00").write_bytes(b"left by a kill")
    reports: list[BuildProgress] = []
    build(request, reports.append)
    steps = dict.fromkeys((r.shards_done, r.shards) for r in reports)  # the poll may repeat one
    assert list(steps) == [(6, 8), (7, 8), (8, 8)]
    assert hashes(request.out) == reference
    rebuilt = {p.name for p in request.out.glob("toy-*") if p.stat().st_mtime_ns != times[p.name]}
    assert rebuilt == {f"toy-train-{shard:06d}.{kind}" for shard in (3, 5) for kind in ("tar", "json")}
    assert not list(request.out.glob(".*tmp-*"))


@pytest.mark.usefixtures("ray_with_two_workers")
def test_workers_do_not_import_torch(tmp_path: Path, toy_coco: Inputs) -> None:
    import ray.data

    request = toy_request(tmp_path, tmp_path / "out", inputs=toy_coco)
    (job, *_) = jobs_of(request, plan_of(request))

    def heavy(row: dict) -> dict:
        from dataprep.shards.build_shard import build_shard

        build_shard(job)
        return {"loaded": sorted({"torch", "diffusers", "deepspeed", "webdataset"} & set(sys.modules))}

    heavy.__module__ = "__main__"  # so that it travels by value: a worker cannot import a test
    assert ray.data.from_items([{"place": 0}]).map(heavy).take_all() == [{"loaded": []}]


@pytest.mark.usefixtures("ray_with_two_workers")
def test_a_failing_disk_is_told_in_one_sentence(tmp_path: Path, toy_coco: Inputs) -> None:
    request = toy_request(tmp_path, tmp_path / "out", inputs=toy_coco)
    plan_of(request)
    (request.out / "toy-train-000001.tar").mkdir()
    with pytest.raises(UserError, match=r"building stopped: .*toy-train-000001.*run the same command again"):
        build(request)


@pytest.mark.usefixtures("ray_with_two_workers")
def test_a_picture_that_crashes_its_worker_does_not_stop_the_build(
    tmp_path: Path, toy_coco: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray alone would run its shard again for ever."""
    inputs = toy_coco[0], shutil.copytree(toy_coco[1], tmp_path / "images")
    request = toy_request(tmp_path, tmp_path / "out", inputs=inputs)
    plan_of(request)
    victim = read_plan_rows(request.out / PLAN_FILE, 1)[1]
    deadly = str(tmp_path / "images" / victim.file)

    def arm(values: dict) -> ShardJob:  # in a worker, which other tests use after this one
        from dataprep.shards import build_shard as shards

        reader = shards.load_picture

        def read(path: Path, *how: object) -> object:
            if str(path) == deadly:
                os.kill(os.getpid(), signal.SIGSEGV)
            return reader(path, *how)  # type: ignore[arg-type]

        shards.load_picture = read  # type: ignore[assignment]
        return shards.ShardJob(**values)

    class DeadlyJob(ShardJob):
        def __reduce__(self) -> tuple:
            return arm, (dict(vars(self)),)

    monkeypatch.setattr("dataprep.build.ShardJob", DeadlyJob)
    manifest = build(request)
    assert manifest["rejected"]["pictures"]["quarantined"] == 1
    assert manifest["kept"]["pictures"] == GOOD - 1
    assert (
        f'"image_id":"{victim.image_id}","reason":"quarantined"'
        in (request.out / "rejects.jsonl").read_text()
    )
    assert verify_folder(request.out) == []


def command_line(inputs: Inputs, out: Path, *more: str) -> list[str]:
    annotations, images = inputs
    return [
        "build",
        "coco",
        "--annotations",
        str(annotations),
        "--images",
        str(images),
        "--out",
        str(out),
        "--name",
        "toy",
        "--image-size",
        "64",
        *more,
    ]


@pytest.mark.usefixtures("ray_with_two_workers")
def test_after_a_kill_of_the_driver_a_second_run_gives_the_same_bytes(
    tmp_path: Path, toy_coco: Inputs
) -> None:
    """The first run has one worker, the second two: that too must not matter."""
    out, draws = tmp_path / "out", {"images_per_shard": 2, "draws_per_image": 60}
    more = ["--images-per-shard", "2", "--draws-per-image", "60", "--workers", "1"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "dataprep", *command_line(toy_coco, out, *more)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("toy-*.json")):
        assert driver.poll() is None, "the build ended before its first shard was complete"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    for child in children:  # its Ray would notice in time, and go on with a shard meanwhile
        if child.is_running():
            child.kill()
    psutil.wait_procs(children, timeout=20)
    first = sorted(path.name for path in out.glob("toy-*.json"))
    assert 1 <= len(first) < 8
    assert not (out / "manifest.json").exists()

    build(toy_request(tmp_path, out, inputs=toy_coco, **draws))
    whole = tmp_path / "whole"
    build_alone(toy_request(tmp_path, whole, inputs=toy_coco, **draws))
    assert hashes(out) == hashes(whole)
    assert verify_folder(out) == []


@pytest.mark.processes
def test_one_worker_gives_the_same_bytes(tmp_path: Path, toy_coco: Inputs, reference: dict[str, str]) -> None:
    """In a process of its own, with a Ray of its own, through the command line."""
    more = ["--images-per-shard", "2", "--draws-per-image", "3", "--workers", "1"]
    run = subprocess.run(
        [sys.executable, "-m", "dataprep", *command_line(toy_coco, tmp_path / "out", *more)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    ours = {name: value for name, value in hashes(tmp_path / "out").items() if name != "manifest.json"}
    assert ours == {name: value for name, value in reference.items() if name != "manifest.json"}
    assert "36 samples from 12 of 17 pictures and 24 of 36 boxes, in 8 shards" in run.stdout
    assert "next: python -m dataprep show" in run.stdout
    assert "size_mismatch" in run.stdout
    # a log gets plain lines, and nothing of Ray's
    warned = [line for line in run.stderr.splitlines() if line.startswith("warning: ")]
    assert [line.partition(";")[0] for line in warned] == [
        "warning: 1 of 17 pictures is missing, such as '000000000101.jpg'",
        "warning: 1 picture does not have the annotated size",
    ]
    progress = [line for line in run.stderr.splitlines() if line not in warned]
    assert progress[-1].startswith("8/8 shards  15/15 pictures")
    assert all("/8 shards" in line for line in progress), run.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://[::1]:1"])
def test_a_ray_that_is_not_there_is_told_at_once(address: str) -> None:
    with pytest.raises(
        UserError, match=r"no Ray answers at .*:1 \(.*refused\); `ray start --head` starts one"
    ):
        _start(None, address, verbose=False)


@pytest.mark.processes
def test_a_finished_folder_answers_without_ray(tmp_path: Path, toy_coco: Inputs) -> None:
    request = toy_request(tmp_path, tmp_path / "out", inputs=toy_coco)
    build_alone(request)
    probe = (
        "import sys\nfrom dataprep.cli import main\n"
        f"code = main({command_line(toy_coco, request.out, '--images-per-shard', '4')!r})\n"
        "print(code, sorted({'ray', 'pycocotools', 'torch'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "0 []"
    assert "12 samples from 12 of 17 pictures" in run.stdout


def test_other_options_on_an_old_folder_are_refused(tmp_path: Path, toy_coco: Inputs) -> None:
    plan_of(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco))
    with pytest.raises(
        UsageError, match=r"out was built with other options \(image_size: 64 -> 128; seed: 0 -> 3\)"
    ):
        build(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, image_size=128, seed=3))


def test_changed_inputs_on_an_old_folder_are_refused(tmp_path: Path) -> None:
    request = toy_request(tmp_path, tmp_path / "out")
    build_alone(request)
    before = hashes(request.out)
    (request.images / "000000000101.jpg").write_bytes((request.images / "000000000001.jpg").read_bytes())
    with pytest.raises(
        UsageError, match=r"planned from other inputs \(pictures: 15 -> 16.*; changed: --images\);"
    ):
        build(request)
    (request.images / "000000000101.jpg").unlink()
    (request.images / "notes.txt").touch()  # another time of change, the same pictures
    assert build(request)["kept"]["samples"] == GOOD
    assert hashes(request.out) == before


def test_a_strangers_folder_is_refused(tmp_path: Path, toy_coco: Inputs) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"holds thesis\.tex, which no build made"):
        build(toy_request(tmp_path, tmp_path, inputs=toy_coco))
    assert (tmp_path / "thesis.tex").exists()
    assert not (tmp_path / ".lock").exists()
    with pytest.raises(UsageError, match=r"--out .*thesis\.tex cannot be made \(File exists\)"):
        build(toy_request(tmp_path, tmp_path / "thesis.tex", inputs=toy_coco))


def test_a_plan_that_is_not_the_one_that_was_written_is_not_gone_on_with(
    tmp_path: Path, toy_coco: Inputs
) -> None:
    request = toy_request(tmp_path, tmp_path / "out", inputs=toy_coco)
    plan_of(request)
    table = pq.read_table(request.out / PLAN_FILE)
    pq.write_table(table.slice(1), request.out / PLAN_FILE)
    with pytest.raises(UserError, match=r"plan\.parquet is damaged: it holds another plan"):
        build(request)


def test_two_builds_in_one_folder_are_refused(tmp_path: Path, toy_coco: Inputs) -> None:
    import fcntl

    request = toy_request(tmp_path, tmp_path / "out", inputs=toy_coco)
    request.out.mkdir()
    with (request.out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another build is running in"):
            build(request)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--image-size", "100"], "image_size=100: Input should be a multiple of 8"),
        (["--split", "a.b"], "split='a.b': String should match"),
        (["--draws-per-image", "0"], "draws_per_image=0: Input should be greater than or equal to 1"),
        (["--workers", "0"], "--workers 0: at least 1 is needed"),
        (["--images", "/nowhere"], "the folder of pictures /nowhere does not exist"),
        (["--annotations", "/nowhere.json"], "/nowhere.json does not exist"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(
    tmp_path: Path, toy_coco: Inputs, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main([*command_line(toy_coco, tmp_path / "out"), *more, "--dry-run"]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_nothing_to_build_is_told_with_the_reasons_and_leaves_nothing(
    tmp_path: Path, toy_coco: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "there").mkdir()
    for out in ("new/deep", "there"):
        assert main([*command_line(toy_coco, tmp_path / out), "--images", str(tmp_path / "empty")]) == 1
        error = capsys.readouterr().err
        assert (
            "nothing is kept of 17 pictures (file_missing 16, no_box 1) and 36 boxes (file_missing" in error
        )
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "there"]


def test_options_are_written_out(toy_coco: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    for more, message in (
        (["--short", "300"], "unrecognized arguments: --short 300"),
        (["--only-classes", "@/dev/null"], "argument --only-classes: '@/dev/null' holds no name; give one"),
    ):
        with pytest.raises(SystemExit):
            main([*command_line(toy_coco, Path("out")), *more])
        assert message in capsys.readouterr().err


@pytest.mark.usefixtures("ray_with_two_workers")
def test_options_that_came_after_a_folder_was_begun_have_their_defaults_in_it(tmp_path: Path) -> None:
    request = toy_request(tmp_path, tmp_path / "out")
    dump, later = BuildConfig.model_dump, {"object_masks", "max_iou"}
    with pytest.MonkeyPatch.context() as earlier:  # a version without these two
        earlier.setattr(BuildConfig, "model_dump", lambda self, **kinds: dump(self, **kinds, exclude=later))
        header = plan_of(request)
        build_shard(jobs_of(request, header)[0])
    assert not later & read_plan_header(request.out / PLAN_FILE)["config"].keys()
    (request.images / "notes.txt").touch()  # it is planned again, and found the same
    reports: list[BuildProgress] = []
    assert build(request, reports.append)["kept"]["samples"] == GOOD
    assert (reports[0].shards_done, reports[0].shards) == (1, 4)
    assert verify_folder(request.out) == []
    with pytest.raises(UsageError, match=r"built with other options \(max_iou: None -> 0\.5\)"):
        build(replace(request, config=request.config.model_copy(update={"max_iou": 0.5})))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, None) for name in (SHARD, "manifest.json", "rejects.jsonl", "README.md")),
        *((name, content) for name in (SHARD, "manifest.json") for content in ("", "[]")),
    ],
)
@pytest.mark.usefixtures("ray_with_two_workers")
def test_what_is_lost_or_damaged_of_a_finished_folder_is_made_again(
    tmp_path: Path, finished: Path, toy_coco: Inputs, name: str, content: str | None
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    (out / name).unlink()
    if content is not None:
        (out / name).write_text(content)
    build(toy_request(tmp_path, out, inputs=toy_coco))
    (out / ".lock").unlink()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in finished.iterdir()
    }


def test_a_dry_run_tells_and_writes_nothing(
    tmp_path: Path, toy_coco: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*command_line(toy_coco, out), "--draws-per-image", "5", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "70 samples at most, from 14 of 17 pictures" in text
    assert "area_too_small" in text
    assert "image_size: 64" in text
    assert not out.exists()


def test_the_other_commands_answer(
    tmp_path: Path, toy_coco: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    build_alone(toy_request(tmp_path, out, inputs=toy_coco))
    assert main(["verify", str(out)]) == 0
    assert "is whole" in capsys.readouterr().out
    assert main(["stats", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"]["samples"] == GOOD
    assert main(["stats", str(out)]) == 0
    assert "12 samples in 4 shards" in capsys.readouterr().out
    (out / "toy-train-000000.tar").unlink()
    assert main(["verify", str(out)]) == 1
    captured = capsys.readouterr()
    assert "toy-train-000000.tar: missing" in captured.out
    assert "is not whole; problems: 1" in captured.err
