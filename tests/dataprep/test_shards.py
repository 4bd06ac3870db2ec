"""Plan and shards without Ray: order, fingerprints, accounts, formats, and pictures that kill."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from dataprep.check.verify import account_problems, verify_folder
from dataprep.look.stats import folder_stats, stats_lines
from dataprep.pictures.index import EXTENSIONS
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE, plan_fingerprint, read_plan_header, read_plan_rows
from dataprep.shards.build_shard import ShardJob, build_shard, is_shard_complete, tar_samples
from dataprep.shards.figures import quantile
from dataprep.shards.manifest import write_manifest
from dataprep.sources.source import source_of
from intarsia.errors import UserError
from intarsia.sample import MEMBERS, decode_sample
from tests.dataprep.toy import EXPECTED, GOOD, toy_request
from tests.paths import SHARED_DATA

Inputs = tuple[Path, Path]
HARD = SHARED_DATA / "hard-inputs" / "images"


def plan_of(request: BuildRequest) -> dict:
    """Plan into the request's folder, as a build does; returns the header."""
    from dataprep.build import _write_new_plan
    from dataprep.plan.input_files import describe_inputs

    request.out.mkdir(parents=True, exist_ok=True)
    return _write_new_plan(request, describe_inputs(request))


def jobs_of(request: BuildRequest, header: dict) -> list[ShardJob]:
    place = str(request.out), str(request.images)
    masks = str(request.inputs.get(source_of(request.config.source).masks_from, ""))
    return [
        ShardJob(*place, shard, header["fingerprint"], request.config, masks)
        for shard in range(header["shards"])
    ]


def build_alone(request: BuildRequest) -> dict:
    """The whole build in this process."""
    header = plan_of(request)
    for job in jobs_of(request, header):
        build_shard(job)
    return write_manifest(request.out, header, request.command)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, toy_coco: Inputs) -> Path:
    out = tmp_path_factory.mktemp("built") / "out"
    build_alone(toy_request(out, out, inputs=toy_coco, draws_per_image=2))
    return out


def test_every_box_and_picture_is_kept_or_rejected_for_the_reason_expected(built: Path) -> None:
    stats = folder_stats(built)
    assert {name: stats["in"][name] for name in ("pictures", "boxes")} == EXPECTED["in"]
    assert stats["kept"] == EXPECTED["kept"] | {"samples": 2 * GOOD}
    for what in ("pictures", "boxes"):
        assert stats["rejected"][what] == EXPECTED["rejected"][what]
    assert not list(account_problems(json.loads((built / "manifest.json").read_text())))


def test_every_reject_is_a_line_that_names_it(built: Path) -> None:
    lines = [json.loads(line) for line in (built / "rejects.jsonl").read_text().splitlines()]
    pictures = {line["image_id"]: line for line in lines if line["what"] == "picture"}
    assert {name: line["reason"] for name, line in pictures.items()} == {
        "101": "file_missing",
        "102": "damaged",
        "103": "size_mismatch",
        "104": "no_box",
        "105": "no_box",
    }
    assert len(pictures["102"]["box_ids"]) == 2
    assert pictures["103"]["detail"] == "annotated as 160x120, is 80x120"
    sides = [line["detail"] for line in lines if line["reason"] == "side_too_short"]
    assert sides == ["31 px, at least 32 wanted"] * 2


def test_a_whole_folder_verifies(built: Path) -> None:
    assert verify_folder(built) == []


def test_the_shards_hold_what_the_plan_says_in_its_order(built: Path) -> None:
    header = read_plan_header(built / PLAN_FILE)
    rejected = {"000000000102", "000000000103", "000000000104"}
    seen = []
    for shard in range(header["shards"]):
        keys = [r.key for r in read_plan_rows(built / PLAN_FILE, shard) if r.key not in rejected]
        with tarfile.open(built / f"toy-train-{shard:06d}.tar") as tar:
            expected = [f"{key}_{draw:03d}.{m}" for key in keys for draw in (0, 1) for m in MEMBERS]
            assert tar.getnames() == expected
            for member in tar:
                facts = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode)
                assert facts == (0, 0, 0, "", "", 0o644)
        seen += keys
    assert sorted(seen) == [f"{number:012d}" for number in range(1, GOOD + 1)]
    assert seen != sorted(seen)


def test_webdataset_reads_the_shards(built: Path) -> None:
    import webdataset  # it loads torch, which a build must not: test_library.py

    """Its reader is the one that others of this format are measured by."""
    shards = sorted(str(path) for path in built.glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("rgb8"))
    assert len(samples) == 2 * GOOD
    manifest = json.loads((built / "manifest.json").read_text())
    assert sum(entry["nsamples"] for entry in manifest["shardlist"]) == len(samples)
    for theirs in samples:
        raw = theirs["json"]
        assert raw["key"] == theirs["__key__"]
        assert theirs["image.jpg"].shape == (64, 64, 3)
        assert theirs["edit_mask.png"].shape[:2] == (64, 64)
        assert theirs["edit_mask.png"].max() == 255
        assert theirs["exemplar.jpg"].shape == (224, 224, 3)


def test_the_source_profile_passes_pictures_through(tmp_path: Path, toy_coco: Inputs) -> None:
    request = toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, profile="source")
    build_alone(request)
    assert verify_folder(request.out) == []
    for tar in sorted(request.out.glob("*.tar")):
        with tarfile.open(tar) as file:
            number = len(file.getnames()) // len(MEMBERS)
        for key, members in tar_samples(tar, range(number)):
            sample = decode_sample(members, key)
            assert members["image.jpg"] == (toy_coco[1] / sample.meta.file).read_bytes()
            assert sample.edit_mask.shape == sample.image.shape[:2]
            assert len(sample.meta.boxes) == 2


@pytest.mark.parametrize("profile", ["tuple", "source"] if HARD.is_dir() else [])
def test_awkward_files_go_through_a_whole_build(tmp_path: Path, profile: str) -> None:
    """Each of them ends as a sample or as a line of the rejects."""
    files = sorted(path for path in HARD.iterdir() if path.suffix.lower() in EXTENSIONS)
    rows = [f"{path.name},x,/m/01,1,0.1,0.8,0.1,0.8,0,0,0,0,0" for path in files]
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
    (tmp_path / "boxes.csv").write_text("\n".join([f"{header},IsDepiction,IsInside", *rows]))
    (tmp_path / "classes.csv").write_text("/m/01,Thing\n")
    config = BuildConfig(source="openimages", name="toy", filters="pbe", image_size=64, profile=profile)
    inputs = {"boxes": tmp_path / "boxes.csv", "classes": tmp_path / "classes.csv"}
    manifest = build_alone(BuildRequest(config, inputs, HARD, tmp_path / "out"))
    assert verify_folder(tmp_path / "out") == []
    rejected = manifest["rejected"]["pictures"]
    assert "render_failed" not in rejected
    assert manifest["kept"]["pictures"] + sum(rejected.values()) == len(files)
    assert manifest["kept"]["pictures"] > 20


def fingerprint_of(request: BuildRequest) -> str:
    return plan_fingerprint(new_plan(request))


def test_the_fingerprint_sees_every_option_and_annotation(tmp_path: Path) -> None:
    request = toy_request(tmp_path, tmp_path / "out")
    annotations, images = request.inputs["annotations"], request.images
    first = fingerprint_of(request)
    assert fingerprint_of(request) == first
    others = [
        {"seed": 1},
        {"split": "val"},
        {"filters": "pbe"},
        {"profile": "source"},
        {"image_size": 128},
        {"images_per_shard": 5},
        {"draws_per_image": 2},
        {"name": "other"},
    ]
    changed = {
        fingerprint_of(toy_request(tmp_path, tmp_path / "out", inputs=(annotations, images), **options))
        for options in others
    }
    assert len(changed | {first}) == len(others) + 1
    text = annotations.read_text()
    annotations.write_text(text.replace("[10.5, 12.25, 60, 50]", "[10.5, 12.25, 60, 51]", 1))
    assert fingerprint_of(request) != first
    annotations.write_text(text.replace('"name": "car"', '"name": "bus"'))
    assert fingerprint_of(request) != first


def test_the_seed_decides_the_order_and_nothing_but_it(tmp_path: Path, toy_coco: Inputs) -> None:
    def order(**options: object) -> list[str]:
        plan = new_plan(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, **options))
        return [plan.annotations.image_ids[place] for place in plan.order]

    assert order() == order(images_per_shard=1, image_size=128)
    assert order(seed=1) != order()
    assert sorted(order(seed=1)) == sorted(order())


def test_sample_keys_are_safe_and_distinct() -> None:
    names = ["a.b", "a/b", "a b", "ä" * 90, "ä" * 91, "000abc", ""]
    keys = [source_of("openimages").sample_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all("." not in key and len(key) <= 64 and key.isascii() for key in keys)
    assert keys[5] == "000abc"
    assert source_of("coco").sample_key("139") == "000000000139"


def test_a_shard_counts_as_complete_only_if_it_is_this_builds_and_whole(
    tmp_path: Path, toy_coco: Inputs
) -> None:
    request = toy_request(tmp_path, tmp_path / "out", inputs=toy_coco)
    header = plan_of(request)
    job = jobs_of(request, header)[0]
    arguments = (request.out, request.config, 0)
    assert not is_shard_complete(*arguments, header["fingerprint"])
    build_shard(job)
    assert is_shard_complete(*arguments, header["fingerprint"])
    assert not is_shard_complete(*arguments, "another")
    tar = request.out / "toy-train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    assert not is_shard_complete(*arguments, header["fingerprint"])


@pytest.mark.parametrize("gone", ["renamed", "emptied"])
def test_a_source_that_is_gone_stops_the_shard_and_blames_no_picture(
    tmp_path: Path, toy_coco: Inputs, gone: str
) -> None:
    images = shutil.copytree(toy_coco[1], tmp_path / "images")
    request = toy_request(tmp_path, tmp_path / "out", inputs=(toy_coco[0], images))
    job = jobs_of(request, plan_of(request))[0]
    images.rename(tmp_path / "away")
    if gone == "emptied":  # what an unmounted disk leaves
        images.mkdir()
    with pytest.raises(
        UserError, match=r"the folder of pictures .* (is empty|cannot be read \(No such .*\)) now"
    ):
        build_shard(job)
    assert not list(request.out.glob("toy-*"))
    shutil.rmtree(images, ignore_errors=True)
    (tmp_path / "away").rename(images)
    (images / read_plan_rows(request.out / PLAN_FILE, 0)[0].file).unlink()
    assert (
        build_shard(job)["rejected"]["pictures"]["file_missing"] == 1
    )  # one picture, in its folder: a reject


def test_an_error_of_ours_rejects_the_picture_and_is_told(
    tmp_path: Path, toy_coco: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataprep.shards import build_shard as shards

    draw = shards.draw_sample

    def failing(subject: object, *arguments: object) -> object:
        if subject.image_id == "3":  # type: ignore[attr-defined]
            raise ZeroDivisionError("by accident")
        return draw(subject, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "draw_sample", failing)
    manifest = build_alone(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco))
    assert manifest["rejected"]["pictures"]["render_failed"] == 1
    assert manifest["rejected"]["boxes"]["render_failed"] == 2
    assert "ZeroDivisionError: by accident" in (tmp_path / "out" / "rejects.jsonl").read_text()
    assert verify_folder(tmp_path / "out") == []


def test_a_folder_that_cannot_be_written_stops_the_shard(tmp_path: Path, toy_coco: Inputs) -> None:
    request = toy_request(tmp_path, tmp_path / "out", inputs=toy_coco)
    job = jobs_of(request, plan_of(request))[0]
    (request.out / "toy-train-000000.tar").mkdir()  # renaming onto a folder fails, as a full disk would
    with pytest.raises(OSError, match="toy-train-000000"):
        build_shard(job)
    assert not (request.out / "toy-train-000000.json").exists()


def damage(folder: Path, name: str, edit: str) -> None:
    path = folder / name
    if edit == "delete":
        path.unlink()
    elif edit == "cut":
        os.truncate(path, path.stat().st_size - 512)
    elif edit == "flip":
        content = bytearray(path.read_bytes())
        content[3000] ^= 255
        path.write_bytes(content)
    else:
        before, after = edit.split("=>")
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize(
    ("name", "edit", "problem"),
    [
        ("toy-train-000001.tar", "delete", r"toy-train-000001\.tar: missing"),
        ("toy-train-000001.tar", "cut", r"toy-train-000001\.tar: \d+ bytes, the sidecar says \d+"),
        ("toy-train-000001.tar", "flip", r"toy-train-000001\.tar: its sha256 is not the sidecar's"),
        ("toy-train-000001.json", "delete", r"toy-train-000001\.json: missing"),
        (
            "toy-train-000001.json",
            '"fingerprint": "=>"fingerprint": "0',
            "its sidecar belongs to another build",
        ),
        ("toy-train-000001.json", '"pictures": 3=>"pictures": 2', r"manifest\.json: kept is not the sum"),
        ("manifest.json", '"boxes": 24=>"boxes": 23', r"36 boxes in, but 23 kept and 12 rejected"),
        ("manifest.json", '"fingerprint": "=>"fingerprint": "0', "its fingerprint is not the plan's"),
        ("rejects.jsonl", '"reason":"crowd"=>"reason":"inside"', r"rejects\.jsonl: lists boxes"),
        ("rejects.jsonl", '{"stage"=>"stage"', r"rejects\.jsonl, line 1: not a record"),
        ("rejects.jsonl", "delete", r"rejects\.jsonl: missing"),
    ],
)
def test_verify_names_what_is_wrong(
    tmp_path: Path, toy_coco: Inputs, name: str, edit: str, problem: str
) -> None:
    import re

    request = toy_request(tmp_path, tmp_path / "out", inputs=toy_coco, image_size=16)
    build_alone(request)
    assert verify_folder(request.out) == []
    damage(request.out, name, edit)
    problems = verify_folder(request.out)
    assert any(re.search(problem, text) for text in problems), problems


def test_verify_and_stats_need_a_finished_folder(tmp_path: Path, toy_coco: Inputs) -> None:
    with pytest.raises(UserError, match=r"is not a shard folder: it has no manifest\.json"):
        verify_folder(tmp_path)
    plan_of(toy_request(tmp_path, tmp_path / "out", inputs=toy_coco))
    with pytest.raises(UserError, match="is not finished; run its build command again"):
        folder_stats(tmp_path / "out")


def test_stats_lines_tell_counts_and_reasons(built: Path) -> None:
    text = "\n".join(stats_lines(folder_stats(built)))
    assert "24 samples in 4 shards" in text
    assert "pictures  12 kept of 17" in text
    assert "size_mismatch" in text
    assert "car" in text


def test_quantiles_of_a_histogram() -> None:
    assert quantile([0] * 10, 0.5) is None
    assert quantile([0, 0, 5, 0, 0, 0, 0, 0, 0, 0], 0.5) == 0.25
    assert quantile([1] * 100, 0.95) == pytest.approx(0.945)


def test_the_card_tells_command_counts_and_licences(built: Path) -> None:
    card = (built / "README.md").read_text()
    for words in ("a command", "12 pictures", "size_mismatch", "CC BY 4.0", "instances.json", "| seed | 0 |"):
        assert words in card


def test_names_that_would_break_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="name"):
        BuildConfig(source="coco", name="a.b")
