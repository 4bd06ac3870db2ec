"""Pairs of frames: whose exemplar it is, what is dropped and why, the same bytes, fresh draws of pairs."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dataprep.check.verify import verify_folder
from dataprep.check.verify_pair import pair_problems
from dataprep.cli import main
from dataprep.draw.redraw import redraw_crop, redraw_sample
from dataprep.estimate import estimate_build
from dataprep.pictures.decode import squash
from dataprep.pictures.video import load_frames
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE, read_plan_rows
from dataprep.records import Rejected
from dataprep.shards.build_shard import tar_samples
from dataprep.shards.manifest import read_shard_manifest
from intarsia.boxes import pad_box
from intarsia.errors import UserError
from intarsia.files import read_json
from intarsia.sample import Sample, decode_sample, view_member
from tests.dataprep.sequences import SIZE, frame, make_davis, make_sav, save_numbers
from tests.dataprep.test_build import hashes
from tests.dataprep.test_shards import build_alone

GAP = 3
VIDEO: dict[str, Any] = {
    "source": "video",
    "name": "video",
    "image_size": 64,
    "draws_per_image": 6,
    "min_gap": GAP,
    "max_mask_iou": 0.95,
    "min_area": 0.0,
    "min_side": 4,
}


def request(root: Path, out: Path, **options: Any) -> BuildRequest:
    return BuildRequest(BuildConfig(**(VIDEO | options)), {"videos": root}, root, out)


def samples_of(folder: Path) -> list[Sample]:
    samples = []
    for entry in read_shard_manifest(folder)["shardlist"]:
        for key, members in tar_samples(folder / entry["url"], range(entry["nsamples"])):
            samples.append(decode_sample(members, key))
    return samples


def reasons(folder: Path) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {"box": Counter(), "picture": Counter()}
    for line in (folder / "rejects.jsonl").read_text().splitlines():
        record = json.loads(line)
        found[record["what"]][record["reason"]] += 1
    return found


@pytest.fixture(scope="module")
def davis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_davis(tmp_path_factory.mktemp("davis"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, davis: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("built")
    for profile in ("tuple", "source"):
        build_alone(request(davis, root / profile, profile=profile, object_masks=True))
    return {profile: root / profile for profile in ("tuple", "source")}


def test_the_exemplar_is_the_object_in_another_frame(built: dict[str, Path], davis: Path) -> None:
    bare = 0
    for sample in samples_of(built["tuple"]):
        origin = sample.meta.exemplar_from
        assert origin is not None and origin.frame is not None and sample.meta.frame is not None
        assert abs(origin.frame - sample.meta.frame) >= GAP
        numbers = np.asarray(Image.open(davis / f"Annotations/480p/ball/{origin.frame:05d}.png"))
        assert origin.box.as_list() == [
            *(int(axis.min()) for axis in np.nonzero(numbers)[::-1]),
            *(int(axis.max()) + 1 for axis in np.nonzero(numbers)[::-1]),
        ]
        drawn = sample.meta.augmentation
        if drawn["angle"] or drawn["blur"] or drawn["shifts"]:
            continue
        bare += 1
        pixels = np.asarray(Image.open(davis / origin.file).convert("RGB"))
        shown = cv2.resize(pad_box(origin.box, 10, SIZE).cut(pixels), (224, 224))
        shown = shown[:, ::-1] if drawn["flip"] else shown
        assert np.abs(sample.exemplar.astype(float) - shown).mean() < 4  # it was a JPEG in between
    assert bare


def test_the_frames_of_a_pair_differ_from_draw_to_draw(built: dict[str, Path]) -> None:
    pairs = {
        (s.meta.frame, s.meta.exemplar_from.frame) for s in samples_of(built["tuple"]) if s.meta.exemplar_from
    }
    assert len(pairs) >= 3


@pytest.mark.parametrize("profile", ["tuple", "source"])
def test_a_sound_folder_is_found_sound(built: dict[str, Path], profile: str) -> None:
    assert verify_folder(built[profile], full=True) == []


def test_a_whole_sample_holds_all_views_and_draws_pairs_afresh(built: dict[str, Path]) -> None:
    config = BuildConfig(**read_shard_manifest(built["source"])["config"])
    [record] = read_plan_rows(built["source"] / PLAN_FILE, 0)
    pairs = set()
    for sample in samples_of(built["source"]):
        assert [view.frame for view in sample.meta.views] == [0, 2, 4, 6, 8]
        again = redraw_sample(sample, None, config.seed, 0)
        assert isinstance(again, Sample)
        assert again.meta.to_json() == sample.meta.to_json()
        assert (again.edit_mask == sample.edit_mask).all()
        assert np.abs(again.exemplar.astype(float) - sample.exemplar).mean() < 4
        for epoch in range(1, 6):
            fresh = redraw_sample(sample, 64, 9, epoch)
            assert isinstance(fresh, Sample) and fresh.meta.exemplar_from
            assert not list(pair_problems(fresh, replace_profile(config), record))
            pairs.add((fresh.meta.frame, fresh.meta.exemplar_from.frame))
    assert len(pairs) >= 8


def replace_profile(config: BuildConfig) -> BuildConfig:
    return config.model_copy(update={"profile": "tuple"})


def test_a_crop_keeps_its_exemplar_unless_that_can_be_mirrored_back(built: dict[str, Path]) -> None:
    for sample in samples_of(built["tuple"]):
        drawn = sample.meta.augmentation
        fresh = redraw_crop(sample, 3, 1)
        assert fresh.meta.exemplar_from == sample.meta.exemplar_from
        if drawn["angle"] or drawn["blur"] or drawn["shifts"]:
            assert (fresh.exemplar == sample.exemplar).all()


def test_what_cannot_be_paired_has_its_reason(tmp_path: Path) -> None:
    root = make_davis(tmp_path / "videos")
    masks, pictures = root / "Annotations/480p", root / "JPEGImages/480p"
    for place in (0, 5, 8, 13):  # each frame marks another object
        pixels, numbers = frame(0, number=1)
        (pictures / "others").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(pictures / "others" / f"{place:05d}.jpg")
        save_numbers(
            masks / "others" / f"{place:05d}.png", np.where(numbers > 0, np.uint8(place + 1), np.uint8(0))
        )
    make_davis(root, "still", (0, 4, 8), drift=0)
    for place in (0, 4, 8):  # the same mask in each, as in a video in which nothing moves
        save_numbers(masks / "still" / f"{place:05d}.png", frame(0)[1])
    make_davis(root, "near", (0, 1, 2))
    make_davis(root, "wide", (0, 6))
    save_numbers(masks / "wide" / "00006.png", np.pad(frame(6)[1], ((0, 0), (0, 1))))
    make_davis(root, "cut", (0, 4, 8))
    cut: np.ndarray = np.zeros(SIZE[::-1], np.uint8)
    cut[:60, :60] = 1
    save_numbers(masks / "cut" / "00008.png", cut)
    make_davis(root, "torn", (0, 4, 8))
    (masks / "torn" / "00008.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    make_davis(root, "lost", (0, 4, 8))
    (pictures / "lost" / "00008.jpg").unlink()
    make_davis(root, "bad", (0, 4, 8))
    (pictures / "bad" / "00008.jpg").write_bytes(b"\xff\xd8\xffno")
    manifest = build_alone(request(root, tmp_path / "out"))
    assert verify_folder(tmp_path / "out", full=True) == []
    found = reasons(tmp_path / "out")
    assert found["box"] == {
        "object_gone": 12,  # others
        "no_partner": 4 + 3 + 1,  # others, near, and the view that `wide` leaves alone
        "too_alike": 3,
        "object_mask_unreadable": 1 + 1,  # wide, torn
        "cut_by_border": 1,
        "file_missing": 1,
        "not_an_image": 1,
    }
    assert found["picture"] == {"no_box": 4}  # others, near; still and wide when they were drawn
    boxes = manifest["in"]["boxes"], manifest["kept"]["boxes"], sum(found["box"].values())
    assert boxes[0] == boxes[1] + boxes[2]
    names = {sample.meta.image_id for sample in samples_of(tmp_path / "out")}
    assert names == {"ball", "cut", "torn", "lost", "bad"}


def test_a_folder_of_which_nothing_can_be_paired_is_refused_with_the_reasons(tmp_path: Path) -> None:
    make_davis(tmp_path, frames=(0, 1))
    words = r"nothing is kept of 1 pictures? \(no_box 1\) and 2 boxes \(no_partner 2\)"
    with pytest.raises(UserError, match=words):
        new_plan(request(tmp_path, tmp_path / "out"))


def test_frames_of_a_video_file_are_those_of_its_annotations(tmp_path: Path) -> None:
    root = make_sav(tmp_path / "sav")
    build_alone(request(root, tmp_path / "out", object_masks=True))
    assert verify_folder(tmp_path / "out", full=True) == []
    found = load_frames(root / "sav_000007.mp4", range(0, 17, 4))
    assert not isinstance(found, Rejected)
    for sample in samples_of(tmp_path / "out"):
        meta = sample.meta
        assert meta.exemplar_from and meta.file == meta.exemplar_from.file == "sav_000007.mp4"
        assert meta.frame is not None and meta.frame % 4 == 0
        wanted = squash(meta.window.cut(found[meta.frame].pixels), 64)
        assert np.abs(sample.image.astype(float) - wanted).mean() < 8  # it was a JPEG in between
        assert sample.object_mask is not None
    errors = [np.abs(found[8].pixels.astype(float) - frame(n, drift=4)[0]).mean() for n in range(17)]
    assert int(np.argmin(errors)) == 8  # the frame of that number, not one nearby


def test_frames_that_a_video_does_not_have_are_named(tmp_path: Path) -> None:
    root = make_sav(tmp_path / "sav", annotated=4)
    path = root / "sav_000007_manual.json"
    content = read_json(path)
    content["masklet"] += [content["masklet"][0]] * 2
    path.write_text(json.dumps(content))
    build_alone(request(root, tmp_path / "out"))
    assert reasons(tmp_path / "out")["box"] == {"frame_missing": 2}
    (root / "sav_000007.mp4").write_bytes(b"no video")
    build_alone(request(root, tmp_path / "none"))
    assert reasons(tmp_path / "none")["picture"] == {"no_box": 1}
    assert reasons(tmp_path / "none")["box"] == {"not_an_image": 6}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"masklet": []}, "it needs video_width, video_height and masklet"),
        ({"video_width": 3, "video_height": 4, "masklet": [5]}, "it needs video_width"),
        ([], "it needs video_width"),
    ],
)
def test_a_file_that_is_not_of_sav_is_refused(tmp_path: Path, content: object, words: str) -> None:
    (tmp_path / "a_manual.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"a_manual.json is not a file of SA-V: {words}"):
        new_plan(request(tmp_path, tmp_path / "out"))


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no masks: neither Annotations/SEQUENCE/FRAME\.png"):
        new_plan(request(tmp_path, tmp_path / "out"))


def test_one_video_in_two_resolutions_is_refused(tmp_path: Path) -> None:
    make_davis(tmp_path)
    (tmp_path / "Annotations/1080p").mkdir()
    save_numbers(tmp_path / "Annotations/1080p/ball/00000.png", frame(0)[1])
    with pytest.raises(
        UserError, match="holds ball twice, in Annotations/1080p/ball and in Annotations/480p"
    ):
        new_plan(request(tmp_path, tmp_path / "out"))


def test_categories_are_labels(tmp_path: Path) -> None:
    root = make_davis(tmp_path / "videos")
    about = {"videos": {"ball": {"objects": {"1": {"category": "ball", "frames": ["00000"]}}}}}
    (root / "meta.json").write_text(json.dumps(about))
    manifest = build_alone(request(root, tmp_path / "out"))
    assert manifest["labels"] == {"ball": 6}


def test_only_so_many_views_are_stored_and_they_are_spread(tmp_path: Path, davis: Path) -> None:
    build_alone(request(davis, tmp_path / "out", profile="source", max_views=3))
    assert [view.frame for view in samples_of(tmp_path / "out")[0].meta.views] == [0, 4, 8]
    assert reasons(tmp_path / "out")["box"] == {"over_views_max": 2}
    assert verify_folder(tmp_path / "out", full=True) == []


def test_damage_of_a_stored_view_is_found(built: dict[str, Path]) -> None:
    [entry] = read_shard_manifest(built["source"])["shardlist"]
    [(key, members)] = tar_samples(built["source"] / entry["url"], [0])
    [record] = read_plan_rows(built["source"] / PLAN_FILE, 0)
    config = BuildConfig(**read_shard_manifest(built["source"])["config"])
    damaged = decode_sample(members | {view_member(2): b"\xff\xd8no"}, key)
    assert [text for text in pair_problems(damaged, config, record) if "view-002.jpg is damaged" in text]
    sample = decode_sample(members, key)
    assert sample.meta.exemplar_from
    lie = replace(
        sample, meta=replace(sample.meta, exemplar_from=replace(sample.meta.exemplar_from, frame=7))
    )
    assert [text for text in pair_problems(lie, config, record) if "frame 7 is not one of the plan" in text]


def test_a_dry_run_times_a_pair_and_counts_what_the_build_gives(davis: Path, tmp_path: Path) -> None:
    found = estimate_build(new_plan(request(davis, tmp_path / "out")))
    assert found.cpu_seconds > 0 and found.sample_bytes > 1000
    assert found.samples == build_alone(request(davis, tmp_path / "out"))["kept"]["samples"]


def test_a_dry_run_by_command(davis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"--min-gap={GAP}", "--min-area=0", "--min-side=4", "--image-size=64", "--dry-run"]
    assert main(["build", "video", str(davis), "--out", str(tmp_path / "out"), *options]) == 0
    found = estimate_build(new_plan(request(davis, tmp_path / "out", draws_per_image=1, max_mask_iou=0.9)))
    assert f"{found.samples} sample at most, from {found.pictures} of " in capsys.readouterr().out


@pytest.mark.processes
def test_two_workers_give_the_same_bytes(
    ray_with_two_workers: None, tmp_path: Path, davis: Path, built: dict[str, Path]
) -> None:
    from dataprep.build import build

    root = make_davis(tmp_path / "videos")
    for name in ("b", "c", "d"):
        make_davis(root, name)
    for out, workers in (("one", 1), ("two", 2)):
        build(replace(request(root, tmp_path / out, images_per_shard=1), workers=workers))
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
