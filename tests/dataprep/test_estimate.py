"""What a dry run promises is what the build gives, where nothing is wrong with the files."""

import io
from pathlib import Path

import pytest

from benchmarks.openimages_csv import write_empty_pictures, write_open_images
from dataprep.cli import main
from dataprep.estimate import QUALITY, amount, estimate_build, expected_rejects, made_up_picture, time_picture
from dataprep.plan.inputs import new_plan
from dataprep.progress import duration
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import EXPECTED, GOOD, toy_request

Inputs = tuple[Path, Path]


@pytest.mark.parametrize(
    "options", [{}, {"draws_per_image": 3, "min_side": 45}, {"max_aspect": 1.15}, {"all_boxes": True}]
)
def test_the_estimate_is_what_the_build_gives(tmp_path: Path, toy_coco: Inputs, options: dict) -> None:
    request = toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, **options)
    plan = new_plan(request)
    found = estimate_build(plan)
    manifest = build_alone(request)
    broken = {"damaged": 1, "size_mismatch": 1}  # only reading tells
    assert found.pictures == manifest["kept"]["pictures"] + sum(broken.values())
    assert found.samples == request.config.draws(found.pictures, found.boxes)
    assert sum(found.labels.values()) == pytest.approx(found.samples)
    expected = expected_rejects(plan, found)
    given = manifest["rejected"]
    assert expected["pictures"] == {k: n for k, n in given["pictures"].items() if k not in broken}
    for reason, number in expected["boxes"].items():
        # boxes of a broken picture are judged here, and go with their picture there
        assert given["boxes"][reason] <= number <= given["boxes"][reason] + 3


def test_expected_classes_weigh_each_picture_alike(tmp_path: Path, toy_coco: Inputs) -> None:
    found = estimate_build(new_plan(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco)))
    # each good picture has a car and a sign; the two broken ones have cars only
    assert found.labels == {"car": GOOD / 2 + 2, "stop sign": GOOD / 2}


def test_bytes_and_time_grow_with_the_work(tmp_path: Path, toy_coco: Inputs) -> None:
    few, many = (
        estimate_build(new_plan(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, draws_per_image=n)))
        for n in (1, 8)
    )
    assert many.bytes == pytest.approx(8 * few.bytes, rel=0.2)
    assert many.cpu_seconds > 2 * few.cpu_seconds


def test_the_made_up_picture_packs_like_a_photograph() -> None:
    buffer = io.BytesIO()
    made_up_picture((1024, 768)).save(buffer, "JPEG", quality=QUALITY)
    assert 0.43 < len(buffer.getvalue()) / (1024 * 768) < 0.5  # Open Images: 0.43 bytes a pixel, COCO: 0.5


def test_a_sample_is_expected_as_large_as_of_photographs(tmp_path: Path, toy_coco: Inputs) -> None:
    plan = new_plan(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, image_size=512))
    _, sample_bytes = time_picture(plan, (1024, 768), 4)
    assert 100e3 < sample_bytes < 160e3  # 111 samples of Open Images: 124 kB


def test_amounts_for_people() -> None:
    assert [amount(2.5e6), amount(226e9)] == ["2.5 MB", "226.0 GB"]
    assert [duration(45), duration(750), duration(12_240)] == ["45 s", "12 min", "3.4 h"]


def test_a_dry_run_writes_nothing_and_tells_all(
    tmp_path: Path, toy_coco: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations, images = map(str, toy_coco)
    out = tmp_path / "out"
    arguments = ["--annotations", annotations, "--images", images, "--out", str(out), "--dry-run"]
    assert main(["build", "coco", *arguments, "--image-size", "64"]) == 0
    text = capsys.readouterr().out
    assert f"{GOOD + 2} samples at most, from {GOOD + 2} of {EXPECTED['in']['pictures']} pictures" in text
    assert "side_too_short" in text
    assert "expected samples by class (2): car 8, stop sign 6" in text
    assert "of one core" in text
    assert not out.exists()


def test_a_dry_run_of_open_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_open_images(tmp_path, 40, 9)
    write_empty_pictures(tmp_path, 9)
    files = ["--boxes", str(tmp_path / "boxes.csv"), "--classes", str(tmp_path / "classes.csv")]
    files += ["--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    assert main(["build", "openimages", *files, "--image-size", "64", "--all-boxes", "--dry-run"]) == 0
    assert "of 9 pictures" in capsys.readouterr().out
