"""Verify names each kind of damage, also behind hashes put right, and finds none in a sound folder."""

import io
import json
import random
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataprep.check.verify import verify_folder
from dataprep.cli import main
from intarsia.boxes import Box
from intarsia.errors import UserError
from intarsia.files import sha256_file
from intarsia.png import encode_png
from intarsia.sample import MEMBERS, Sample, decode_sample, encode_sample
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import toy_request

Inputs = tuple[Path, Path]
Members = list[tuple[str, bytes]]
SHARD = "toy-train-000001"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, toy_coco: Inputs) -> Path:
    out = tmp_path_factory.mktemp("verified") / "out"
    build_alone(toy_request(out, out, inputs=toy_coco, draws_per_image=2))
    return out


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "out")


def read_members(tar: Path) -> Members:
    with tarfile.open(tar) as file:
        return [(member.name, file.extractfile(member).read()) for member in file]  # type: ignore[union-attr]


def write_members(tar: Path, members: Members) -> None:
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def put_hashes_right(folder: Path, **more: object) -> None:
    """As somebody would who wants the damage to stay unseen: in the sidecar and in the manifest."""
    tar, sidecar, manifest = folder / f"{SHARD}.tar", folder / f"{SHARD}.json", folder / "manifest.json"
    facts = json.loads(sidecar.read_text())
    facts |= {"bytes": tar.stat().st_size, "sha256": sha256_file(tar)} | more
    sidecar.write_text(json.dumps(facts))
    content = json.loads(manifest.read_text())
    content["shardlist"][1] |= {
        "filesize": facts["bytes"],
        "sha256": facts["sha256"],
        "nsamples": facts["samples"],
    }
    manifest.write_text(json.dumps(content))


def assert_named(folder: Path, pattern: str, full: bool = True) -> None:
    problems = verify_folder(folder, full)
    assert any(re.search(pattern, text) for text in problems), problems


def test_a_sound_folder_has_no_problems(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_folder(built) == []
    assert main(["verify", str(built), "--full"]) == 0
    assert "every sample agree" in capsys.readouterr().out


def test_hashes_put_right_over_sound_shards_stay_sound(folder: Path) -> None:
    """The helper itself does no damage: what the tests below see is what they did."""
    write_members(folder / f"{SHARD}.tar", read_members(folder / f"{SHARD}.tar"))
    put_hashes_right(folder)
    assert verify_folder(folder, full=True) == []


def test_another_format_version_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    with pytest.raises(UserError, match="has format version 2, this program reads 1"):
        verify_folder(folder)


@pytest.mark.parametrize("seed", range(8))
def test_any_flipped_bit_is_seen(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    tar = folder / f"{SHARD}.tar"
    content = bytearray(tar.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    tar.write_bytes(content)
    assert_named(folder, rf"{SHARD}\.tar: its sha256 is not the sidecar's", full=False)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("whole_blocks", [False, True])
def test_a_torn_tar_is_seen(folder: Path, share: float, whole_blocks: bool) -> None:
    tar = folder / f"{SHARD}.tar"
    content = tar.read_bytes()
    cut = int(len(content) * share)
    tar.write_bytes(content[: cut // 10240 * 10240 if whole_blocks else cut])
    assert_named(folder, rf"{SHARD}\.tar: \d+ bytes, the sidecar says \d+", full=False)
    put_hashes_right(folder)
    assert_named(folder, rf"{SHARD}\.tar: (torn or damaged|cannot be read as a tar)", full=False)


def place_of(tar: Path, suffix: str) -> int:
    """Where the content of the third sample's member begins in the tar."""
    with tarfile.open(tar) as file:
        return [member.offset_data for member in file if member.name.endswith(suffix)][2]


@pytest.mark.parametrize(
    ("suffix", "offset", "problem"),
    [
        (".image.jpg", -500, "torn or damaged: its members end at byte"),  # the tar's header of the member
        (".image.jpg", 1, r"member image\.jpg is damaged"),
        (".edit_mask.png", 50, r"member edit_mask\.png is damaged"),
        (".exemplar.jpg", 0, r"member exemplar\.jpg is damaged"),
        ("_000.json", 0, "member json cannot be read"),
        ("_000.json", 11, r"its record is that of|no such|cannot be read"),
    ],
)
def test_a_flipped_byte_is_seen_behind_a_right_hash(
    folder: Path, suffix: str, offset: int, problem: str
) -> None:
    tar = folder / f"{SHARD}.tar"
    content = bytearray(tar.read_bytes())
    content[place_of(tar, suffix) + offset] ^= 1
    tar.write_bytes(content)
    put_hashes_right(folder)
    assert_named(folder, problem)


def without_a_member(members: Members) -> Members:
    return members[:1] + members[2:]


def without_a_sample(members: Members) -> Members:
    return members[: len(MEMBERS)] + members[2 * len(MEMBERS) :]


def without_a_picture(members: Members) -> Members:
    return members[2 * len(MEMBERS) :]


def with_a_sample_twice(members: Members) -> Members:
    return members + members[: len(MEMBERS)]


def with_a_member_twice(members: Members) -> Members:
    return [*members[:2], members[1], *members[2:]]


def with_a_strange_member(members: Members) -> Members:
    key = members[0][0].partition(".")[0]
    return [*members[: len(MEMBERS)], (f"{key}.caption.txt", b"a car"), *members[len(MEMBERS) :]]


def with_a_strange_sample(members: Members) -> Members:
    return members + [(name.replace("_000.", "_777x."), content) for name, content in members[: len(MEMBERS)]]


def with_members_exchanged(members: Members) -> Members:
    return [members[1], members[0], *members[2:]]


def with_samples_exchanged(members: Members) -> Members:
    first, second = members[: len(MEMBERS)], members[len(MEMBERS) : 2 * len(MEMBERS)]
    return second + first + members[2 * len(MEMBERS) :]


def with_records_exchanged(members: Members) -> Members:
    (a, first), (b, second) = members[3], members[7]
    return [*members[:3], (a, second), *members[4:7], (b, first), *members[8:]]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without_a_member, r"sample \d+_000: member edit_mask\.png is missing"),
        (without_a_sample, r"5 samples, the sidecar says 6"),
        (without_a_picture, r"picture \d+ is lost"),
        (with_a_sample_twice, r"duplicate key \d+_000"),
        (with_a_member_twice, r"sample \d+_000: member edit_mask\.png appears 2 times"),
        (with_a_strange_member, r"sample \d+_000: caption\.txt is not a member of a sample"),
        (with_a_strange_sample, r"\d+_777x is not a sample of the plan"),
        (with_members_exchanged, r"sample \d+_000: its members are not in the order image\.jpg, edit_mask"),
        (with_samples_exchanged, r"its samples are not in the plan's order"),
        (with_records_exchanged, r"sample \d+_000: its record is that of \d+_001"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_changed_list_of_members_is_seen_behind_a_right_hash(
    folder: Path, change: Callable[[Members], Members], problem: str
) -> None:
    tar = folder / f"{SHARD}.tar"
    write_members(tar, change(read_members(tar)))
    assert verify_folder(folder) != []
    put_hashes_right(folder)
    assert_named(folder, problem)


def mirrored(sample: Sample) -> Sample:
    return replace(sample, edit_mask=np.ascontiguousarray(sample.edit_mask[:, ::-1]))


def masked_nowhere(sample: Sample) -> Sample:
    return replace(sample, edit_mask=np.zeros_like(sample.edit_mask))


def masked_half(sample: Sample) -> Sample:
    half = sample.edit_mask.copy()
    half[: int(np.flatnonzero(half.any(axis=1)).mean())] = 0
    return replace(sample, edit_mask=half)


def masked_everywhere(sample: Sample) -> Sample:
    return replace(sample, edit_mask=np.full_like(sample.edit_mask, 255))


def enlarged(sample: Sample) -> Sample:
    return replace(
        sample, image=sample.image.repeat(2, 0).repeat(2, 1), edit_mask=np.full((128, 128), 255, "u1")
    )


def with_small_exemplar(sample: Sample) -> Sample:
    return replace(sample, exemplar=sample.exemplar[::2, ::2])


def with_other_box(sample: Sample) -> Sample:
    return replace(sample, meta=replace(sample.meta, box=Box(1, 2, 30, 40)))


def with_other_boxes(sample: Sample) -> Sample:
    boxes = tuple(replace(item, label="cat") for item in sample.meta.boxes)
    return replace(sample, meta=replace(sample.meta, boxes=boxes))


def with_other_window(sample: Sample) -> Sample:
    window = replace(sample.meta.window, x0=sample.meta.extended.x0 + 1)
    return replace(sample, meta=replace(sample.meta, window=window, squashed=False))


def with_window_outside(sample: Sample) -> Sample:
    return replace(sample, meta=replace(sample.meta, window=Box(-5, 0, 100, 105)))


def of_another_picture(sample: Sample) -> Sample:
    return replace(sample, meta=replace(sample.meta, image_id="7777"))


def with_other_seed(sample: Sample) -> Sample:
    return replace(sample, meta=replace(sample.meta, seed=5))


def with_other_label(sample: Sample) -> Sample:
    return replace(sample, meta=replace(sample.meta, label="cat"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (masked_nowhere, "its edit mask has nothing to repaint"),
        (masked_half, r"its edit mask leaves \d+ of its box's \d+ pixels uncovered"),
        (masked_everywhere, "its edit mask reaches beyond its extended box"),
        (mirrored, "its edit mask (leaves|reaches)"),
        (enlarged, "its image is 128x128, not 64x64"),
        (with_small_exemplar, r"its exemplar is \(112, 112, 3\)"),
        (with_other_box, "its box is not among its boxes"),
        (with_other_boxes, "its boxes are not those of the plan"),
        (with_other_window, "its window does not hold its extended box"),
        (with_window_outside, "its window is not inside its picture"),
        (of_another_picture, "it is of picture 7777"),
        (with_other_seed, "it was drawn with seed 5 from coco"),
        (with_other_label, "the labels of its samples are not those that the sidecar counts"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_changed_sample_is_seen_behind_a_right_hash(
    folder: Path, change: Callable[[Sample], Sample], problem: str
) -> None:
    tar = folder / f"{SHARD}.tar"
    members = read_members(tar)
    places = range(0, len(members), len(MEMBERS))
    samples = [
        decode_sample({name.partition(".")[2]: content for name, content in members[p : p + len(MEMBERS)]})
        for p in places
    ]
    # a narrow mask, so that mirroring and halving it show
    place = min(range(len(samples)), key=lambda i: (samples[i].edit_mask[:, 20:44] >= 128).mean())
    key = samples[place].meta.key
    changed = encode_sample(change(samples[place]))
    start = place * len(MEMBERS)
    members[start : start + len(MEMBERS)] = [
        (f"{key}.{suffix}", content) for suffix, content in changed.items()
    ]
    write_members(tar, members)
    put_hashes_right(folder)
    assert_named(folder, problem)


def test_a_mask_of_another_size_is_seen(folder: Path) -> None:
    tar = folder / f"{SHARD}.tar"
    members = read_members(tar)
    members[1] = (members[1][0], encode_png(np.full((32, 32), 255, np.uint8)))
    write_members(tar, members)
    put_hashes_right(folder)
    assert_named(folder, r"edit_mask\.png has shape \(32, 32\), the image \(64, 64\)")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"samples": 5}, r"6 samples, the sidecar says 5"),
        (
            {"kept": {"pictures": 2, "boxes": 6, "samples": 6}},
            r"4 pictures in, but its sidecar counts 2 kept",
        ),
        ({"kept": {"pictures": 3, "boxes": 5, "samples": 6}}, r"boxes in, but its sidecar counts 5 kept"),
        ({"labels": {"car": 3}}, r"the labels of its sidecar add up to 3, not to 6 samples"),
        ({"rejects": []}, "its sidecar lists other pictures as rejected than it counts"),
        ({"rejects": [{"what": "dog"}]}, "a reject in its sidecar is not a record of one"),
        ({"shard": "other.tar"}, r"its sidecar says other\.tar"),
    ],
    ids=str,
)
def test_a_sidecar_that_does_not_add_up_is_seen(folder: Path, change: dict, problem: str) -> None:
    put_hashes_right(folder, **change)
    assert_named(folder, problem)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"samples": 6'])
def test_a_sidecar_that_is_none_is_one_line(folder: Path, content: str) -> None:
    (folder / f"{SHARD}.json").write_text(content)
    assert_named(folder, rf"{SHARD}\.json.*(is not a sidecar|not valid JSON)")


@pytest.mark.parametrize(
    "name", ["toy-train-000099.tar", "notes.txt", f".{SHARD}.tar.tmp-0123", f".{SHARD}.journal", "deep/x.tar"]
)
def test_an_alien_file_is_seen(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert verify_folder(folder) == [f"{name.partition('/')[0]}: not a file of this build"]


def test_rejects_that_are_not_the_sidecars_are_seen(folder: Path) -> None:
    path = folder / "rejects.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert '"stage":"render"' in lines[-1]
    assert '"stage":"render"' in lines[-2]
    path.write_text("".join([*lines[:-2], lines[-1], lines[-2]]))
    assert_named(folder, rf"rejects\.jsonl, line {len(lines) - 1}: its lines are not those of the sidecars")
    path.write_text("".join(lines[:-1]))
    assert_named(folder, r"rejects\.jsonl: its lines are not those of the sidecars")


def test_of_many_problems_some_are_told_and_the_rest_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataprep.check.verify.PROBLEMS_PER_SHARD", 2)
    write_members(folder / f"{SHARD}.tar", [])
    put_hashes_right(folder)
    problems = verify_folder(folder)
    assert sum(text.startswith(SHARD) for text in problems) == 3
    assert f"{SHARD}.tar: and 2 problems more" in problems


def test_what_training_keeps_beside_the_shards_is_no_alien(folder: Path) -> None:
    (folder / "latents-0123456789ab").mkdir()
    assert verify_folder(folder) == []
    (folder / "latents-file").write_bytes(b"x")
    assert verify_folder(folder) == ["latents-file: not a file of this build"]
