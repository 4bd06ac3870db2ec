"""Rules that choose boxes: tighter keeps less, order does not matter, nothing is lost from the accounts."""

import io
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataprep.check.verify import verify_folder
from dataprep.choose.filters import FilterOptions, check_options, read_hierarchy, read_names, rules_of
from dataprep.choose.joint_rules import class_quotas, judge_balance, near_duplicates
from dataprep.choose.pixels import crop_figures, judge_crop, picture_hash
from dataprep.choose.rules import FILTERS, judge_boxes, judge_pixels, judge_sizes
from dataprep.cli import main
from dataprep.formats.openimages_csv import read_class_names
from dataprep.look.duplicates import find_duplicates, nearest_before
from dataprep.pictures.index import index_paths
from dataprep.plan.plan import BuildConfig, make_build_plan
from dataprep.records import REASONS, Annotations, FilterRules, RejectReason
from dataprep.shards.manifest import REJECTS
from dataprep.shards.plan_rejects import write_plan_rejects
from intarsia.boxes import Box
from intarsia.config import build_config
from intarsia.errors import UsageError, UserError
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import EXPECTED, GOOD, toy_picture, toy_request
from tests.paths import SHARED_DATA

FLAGS = ("is_crowd", "is_group_of", "is_inside", "is_depiction", "is_occluded", "is_truncated")
LABELS = ["cat", "dog", "house", "wheel"]


@st.composite
def annotations(draw: st.DrawFn) -> Annotations:
    """A few pictures with boxes that often overlap, in fractions."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pictures, number = draw(st.integers(1, 6)), draw(st.integers(0, 40))
    corners = rng.integers(0, 9, (number, 2)) / 16
    bounds = np.concatenate([corners, corners + rng.integers(1, 8, (number, 2)) / 16], axis=1)
    return Annotations(
        unit="fractions",
        image_ids=[f"p{i}" for i in range(pictures)],
        files=[""] * pictures,
        sizes=np.zeros((pictures, 2), np.int32),
        picture=rng.integers(0, pictures, number),
        box_ids=rng.permutation(1000)[:number],
        bounds=bounds,
        label=rng.integers(0, len(LABELS), number, dtype=np.int32),
        labels=LABELS,
        flags={flag: rng.integers(-1, 2, number).astype(np.int8) for flag in FLAGS},
    )


def plan_of(notes: Annotations, **options: object) -> dict[int, str]:
    """What becomes of each box id: its reason, its picture's, or kept."""
    config = BuildConfig(source="openimages", name="x", **options)
    plan = make_build_plan(notes, index_paths(f"{name}.jpg" for name in notes.image_ids[1:]), config)
    codes = np.where(plan.verdict >= 0, plan.verdict, plan.fate[notes.picture])
    lines = io.BytesIO()
    write_plan_rejects(plan, lines)
    rejects = map(json.loads, lines.getvalue().splitlines())
    told = Counter(r["reason"] for r in rejects for _ in r.get("box_ids", [0]))
    counts = plan.counts()
    assert told == Counter(counts["rejected"]["boxes"]), "rejects.jsonl and the counts agree"
    fates = [REASONS[code].value if code >= 0 else "kept" for code in codes.tolist()]
    assert len(fates) == counts["in"]["boxes"] == told.total() + fates.count("kept")
    return dict(zip(notes.box_ids.tolist(), fates, strict=True))


def kept(notes: Annotations, **options: object) -> set[int]:
    return {box for box, fate in plan_of(notes, **options).items() if fate == "kept"}


RISING = [  # loose to tight
    [{"min_area": value} for value in (0.0, 0.05, 0.1)],
    [{"max_area": value} for value in (1.0, 0.4, 0.1)],
    [{"max_iou": value} for value in (None, 1.0, 0.9, 0.5, 0.2)],
    [{"per_class_max": value} for value in (None, 5, 2, 1)],
    [{"class_temperature": value} for value in (None, 1, 1.5, 3, 100)],
    [{"drop": value} for value in ((), ("occluded",), ("occluded", "truncated", "depiction"))],
    [{"only_classes": value} for value in ((), ("cat", "dog"), ("cat",))],
    [{"not_classes": value} for value in ((), ("cat",), ("cat", "dog"))],
    [{"filters": value} for value in ("pbe", "default")],
]


@pytest.mark.parametrize("steps", RISING, ids=lambda steps: next(iter(steps[0])))
@settings(max_examples=25, deadline=None)
@given(notes=annotations())
def test_a_tighter_rule_keeps_a_part_of_what_a_looser_one_keeps(notes: Annotations, steps: list) -> None:
    results = [kept(notes, **{"filters": "pbe", **step}) for step in steps]
    assert all(tight <= loose for loose, tight in itertools.pairwise(results))


@settings(max_examples=40, deadline=None)
@given(notes=annotations(), seed=st.integers(0, 99))
def test_the_order_of_the_rows_does_not_matter(notes: Annotations, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(notes))
    shuffled = replace(
        notes,
        **{name: getattr(notes, name)[order] for name in ("picture", "box_ids", "bounds", "label")},
        flags={name: values[order] for name, values in notes.flags.items()},
    )
    options = {"filters": "pbe", "max_iou": 0.6, "class_temperature": 2.0, "per_class_max": 3, "seed": seed}
    assert plan_of(notes, **options) == plan_of(shuffled, **options) == plan_of(notes, **options)


@settings(max_examples=40, deadline=None)
@given(notes=annotations(), limit=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
def test_near_duplicates_are_those_that_a_plain_loop_finds(notes: Annotations, limit: float) -> None:
    def iou(a: np.ndarray, b: np.ndarray) -> float:
        width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        shared = max(width, 0) * max(height, 0)
        return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)

    area = np.prod(notes.bounds[:, 2:] - notes.bounds[:, :2], axis=1)
    rank = [(-area[i], notes.box_ids[i]) for i in range(len(notes))]
    slow = [
        any(
            notes.picture[i] == notes.picture[j]
            and rank[j] < rank[i]
            and iou(notes.bounds[i], notes.bounds[j]) > limit
            for j in range(len(notes))
        )
        for i in range(len(notes))
    ]
    gone = near_duplicates(notes, np.arange(len(notes)), limit)
    assert sorted(gone.tolist()) == np.flatnonzero(slow).tolist()


@settings(max_examples=40, deadline=None)
@given(notes=annotations(), at_once=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_search_for_overlap_in_pieces_finds_the_same(notes: Annotations, at_once: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(notes))[: rng.integers(len(notes) + 1)]
    whole = near_duplicates(notes, rows, 0.4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dataprep.choose.joint_rules._ROWS_AT_ONCE", at_once)
        assert sorted(near_duplicates(notes, rows, 0.4)) == sorted(whole)
    assert set(whole) <= set(rows)


@given(numbers=st.lists(st.integers(0, 10_000), max_size=30), temperature=st.floats(1, 50))
def test_quotas_spare_small_classes_and_bring_others_nearer(numbers: list[int], temperature: float) -> None:
    given_ = np.array(numbers, np.int64)
    quotas = class_quotas(given_, temperature)
    median = np.median(given_[given_ > 0]) if given_.any() else 0
    small = given_ <= median
    assert (quotas[small] == given_[small]).all()
    assert (quotas[~small] >= median).all()
    assert (quotas <= given_).all()
    assert (np.diff(quotas[np.argsort(given_)]) >= 0).all()  # a larger class stays at least as large


def test_each_class_keeps_its_quota_and_another_seed_other_boxes() -> None:
    label, ids = np.repeat([0, 1, 2], [500, 20, 3]), np.arange(523) * 7
    rules = replace(FILTERS["pbe"], per_class_max=30)
    first, again, other = (judge_balance(label, ids, seed, rules) for seed in (0, 0, 1))
    assert np.bincount(label[first < 0]).tolist() == [30, 20, 3]
    assert first.tolist() == again.tolist() != other.tolist()
    tempered = judge_balance(label, ids, 0, replace(FILTERS["pbe"], class_temperature=2.0))
    assert np.bincount(label[tempered < 0]).tolist() == [100, 20, 3]  # 500^(1/2) · 20^(1/2)
    # what stays is spread over the whole, not the first rows
    assert np.mean(ids[:500][tempered[:500] < 0]) == pytest.approx(250 * 7, rel=0.15)


def test_a_flag_that_is_unknown_drops_nothing_and_others_drop_under_their_names() -> None:
    notes = _plain(np.random.default_rng(1), 200)
    for name in ("occluded", "truncated", "depiction"):
        verdict = judge_boxes(notes, rules_of(FilterOptions(filters="pbe", drop=(name,))))
        codes = verdict == REASONS.index(RejectReason(name))
        before = judge_boxes(notes, FILTERS["pbe"]) == REASONS.index(RejectReason.CROWD)
        assert (codes == ((notes.flags[f"is_{name}"] == 1) & ~before)).all()


def _plain(rng: np.random.Generator, number: int) -> Annotations:
    return Annotations(
        "fractions",
        ["a"],
        [""],
        np.zeros((1, 2), np.int32),
        np.zeros(number, np.int64),
        np.arange(number),
        np.tile([0.1, 0.1, 0.6, 0.6], (number, 1)),
        np.zeros(number, np.int32),
        ["cat"],
        {flag: rng.integers(-1, 2, number).astype(np.int8) for flag in FLAGS},
    )


@given(
    width=st.integers(-3, 200), height=st.integers(-3, 200), side=st.integers(1, 99), aspect=st.floats(1, 9)
)
def test_sides_and_aspect_in_pixels(width: int, height: int, side: int, aspect: float) -> None:
    rules = replace(FILTERS["pbe"], smallest_side=side, largest_aspect=aspect)
    code = int(judge_sizes(np.array([[width, height]]), rules)[0])
    short, long = min(width, height), max(width, height)
    expected = (
        "empty_box"
        if short <= 0
        else "side_too_short"
        if short < side
        else "aspect_too_large"
        if long > aspect * short
        else None
    )
    assert (REASONS[code].value if code >= 0 else None) == expected
    [alone] = judge_pixels([Box(0, 0, width, height)], rules)
    assert (alone.reason.value if alone else None) == expected


def test_options_that_are_not_given_leave_the_named_sets_as_they_are() -> None:
    for name, rules in FILTERS.items():
        assert rules_of(FilterOptions(filters=name)) == rules


# classes and their families


@pytest.fixture
def hierarchy(tmp_path: Path) -> dict[str, frozenset[str]]:
    tree = {
        "LabelName": "/m/0",
        "Subcategory": [
            {"LabelName": "/m/animal", "Subcategory": [{"LabelName": "/m/cat"}, {"LabelName": "/m/dog"}]},
            {"LabelName": "/m/pet", "Subcategory": [{"LabelName": "/m/dog"}]},
            {"LabelName": "/m/car", "Part": [{"LabelName": "/m/wheel"}]},
        ],
    }
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    names = {f"/m/{name}": name for name in ("animal", "pet", "cat", "dog", "car", "wheel")}
    return read_hierarchy(tmp_path / "tree.json", names)


def test_a_parent_stands_for_its_kinds_and_not_for_its_parts(hierarchy: dict[str, frozenset[str]]) -> None:
    assert hierarchy["animal"] == {"animal", "cat", "dog"}
    assert hierarchy["pet"] == {"pet", "dog"}
    assert hierarchy["car"] == {"car"}
    assert hierarchy["wheel"] == {"wheel"}
    rules = rules_of(FilterOptions(only_classes=("animal",), not_classes=("pet",)), hierarchy)
    notes = replace(_plain(np.random.default_rng(0), 4), labels=["cat", "dog", "house", "animal"], flags={})
    verdict = judge_boxes(replace(notes, label=np.arange(4, dtype=np.int32)), rules)
    unwanted = REASONS.index(RejectReason.CLASS_NOT_WANTED)
    assert verdict.tolist() == [-1, unwanted, unwanted, -1]


REAL = SHARED_DATA / "openimages"


@pytest.mark.parametrize("folder", [REAL] if REAL.is_dir() else [])
def test_the_published_hierarchy(folder: Path) -> None:
    names = read_class_names(folder / "class-descriptions-boxable.csv")
    families = read_hierarchy(folder / "bbox_labels_600_hierarchy.json", names)
    assert {"Cat", "Dog", "Tortoise", "Animal"} <= families["Animal"]
    assert "Wheel" not in families["Car"]
    assert set(names.values()) <= set(families)


def test_names_come_as_a_list_or_a_file(tmp_path: Path) -> None:
    assert read_names('cat, dog ,"Studio, couch"') == ("cat", "dog", "Studio, couch")
    (tmp_path / "names.txt").write_text("cat\n\n# a remark\nStudio, couch\n")
    assert read_names(f"@{tmp_path}/names.txt") == ("cat", "Studio, couch")
    with pytest.raises(UserError, match=r"none\.txt cannot be read as a list"):
        read_names(f"@{tmp_path}/none.txt")


def test_what_the_annotations_do_not_know_is_refused_with_what_comes_near() -> None:
    def check(**options: object) -> None:
        check_options(FilterOptions(**options), {"is_crowd"}, {"cat", "dog"})

    check(drop=("crowd",), only_classes=("cat",), not_classes=("dog",))
    with pytest.raises(UsageError, match=r"--drop occluded: .* no such flag; they have crowd"):
        check(drop=("occluded",))
    with pytest.raises(UsageError, match=r"--only-classes 'cats': .*no such class; did you mean 'cat'\?"):
        check(only_classes=("cats",))
    with pytest.raises(UsageError, match=r"drop=\('ocluded',\): 'ocluded' is not one of crowd, group_of"):
        build_config(FilterOptions, {"drop": ("ocluded",)}, "options")
    with pytest.raises(UsageError, match="0 <= LO <= HI <= 255"):
        build_config(FilterOptions, {"brightness": (90.0, 10.0)}, "options")


def test_a_file_that_is_no_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "tree.json").write_text('{"Subcategory": [1]}')
    with pytest.raises(UserError, match=r"tree\.json is not a class hierarchy"):
        read_hierarchy(tmp_path / "tree.json", {})


# pixels


def test_blur_lowers_sharpness_and_light_raises_brightness() -> None:
    sharp = np.random.default_rng(0).integers(0, 200, (300, 400, 3), dtype=np.uint8)
    smooth = np.array(toy_picture(400, 300, 3)) // 2
    box = Box(20, 30, 320, 260)
    assert crop_figures(sharp, box)[0] > 100 * crop_figures(smooth, box)[0]
    assert crop_figures(smooth + 50, box)[1] == pytest.approx(crop_figures(smooth, box)[1] + 50, abs=1)
    flat = np.full((50, 50, 3), 77, np.uint8)
    assert crop_figures(flat, Box(0, 0, 50, 50)) == (0.0, 77.0)


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({}, None),
        ({"least_sharpness": 1.0}, RejectReason.TOO_BLURRED),
        ({"darkest": 78.0}, RejectReason.TOO_DARK),
        ({"brightest": 76.0}, RejectReason.TOO_BRIGHT),
        ({"darkest": 77.0, "brightest": 77.0}, None),
    ],
)
def test_crops_are_judged(rules: dict[str, float], reason: RejectReason | None) -> None:
    wanted = FilterRules(dropped_flags=(), **rules)
    rejected = judge_crop(np.full((50, 50, 3), 77, np.uint8), Box(0, 0, 50, 50), wanted)
    assert (rejected.reason if rejected else None) == reason


# pictures that look alike


def test_hashes_survive_resizing_and_tell_pictures_apart() -> None:
    hashes = [picture_hash(np.array(toy_picture(640, 480, seed))) for seed in range(30)]
    smaller = [picture_hash(np.array(toy_picture(640, 480, seed).resize((300, 225)))) for seed in range(30)]
    assert max((a ^ b).bit_count() for a, b in zip(hashes, smaller, strict=True)) <= 3
    others = [(hashes[i] ^ hashes[j]).bit_count() for i in range(30) for j in range(i)]
    assert min(others) > 7
    assert picture_hash(np.full((9, 9, 3), 50, np.uint8)) == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), distance=st.integers(0, 7))
def test_the_bands_find_what_a_plain_loop_finds(seed: int, distance: int) -> None:
    rng = np.random.default_rng(seed)
    roots = rng.integers(0, 2**63, 6, dtype=np.uint64)
    hashes = rng.choice(roots, 60)
    for _ in range(int(rng.integers(0, 7))):
        hashes = hashes ^ (np.uint64(1) << rng.integers(0, 64, 60, dtype=np.uint64))
    values = hashes.tolist()
    slow = [
        next(j for j in range(i + 1) if (values[i] ^ values[j]).bit_count() <= distance) for i in range(60)
    ]
    assert nearest_before(hashes, distance).tolist() == slow


def test_duplicates_are_found_listed_and_excluded(
    tmp_path: Path, toy_coco: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    annotations_file, images = toy_coco
    folder = tmp_path / "images"
    folder.mkdir()
    for path in images.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / f"{4:012d}.jpg").write_bytes((images / f"{1:012d}.jpg").read_bytes())  # both are 120 x 160
    inputs = annotations_file, folder
    first = tmp_path / "first"
    build_alone(toy_request(first, first, inputs=inputs))
    assert [(d.image_id, d.original, d.distance) for d in find_duplicates(first, 3)] == [("4", "1", 0)]
    assert main(["duplicates", str(first), "--out", str(tmp_path / "list.txt")]) == 0
    assert "4 is like 1 (0 of 64 bits differ)" in capsys.readouterr().out
    request = toy_request(tmp_path, tmp_path / "second", inputs=inputs)
    request.inputs["exclude"] = tmp_path / "list.txt"
    (tmp_path / "list.txt").write_text(f"{4:012d}.jpg\n", encoding="utf-8-sig")  # a file is a name too
    manifest = build_alone(request)
    assert manifest["rejected"]["pictures"]["excluded"] == 1
    assert manifest["rejected"]["boxes"]["excluded"] == 2
    assert manifest["kept"]["pictures"] == GOOD - 1
    assert verify_folder(request.out) == []
    assert find_duplicates(request.out, 3) == []
    assert main(["duplicates", str(first), "--distance", "8"]) == 2
    (tmp_path / "list.txt").write_text("four\n")
    with pytest.raises(
        UsageError, match=r"list\.txt: no picture has a name of this list \('four'\); give .*'1'"
    ):
        build_alone(request)


def test_rules_about_pixels_are_counted_and_listed(tmp_path: Path, toy_coco: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    options = {"max_aspect": 1.15, "brightness": (0, 110), "min_sharpness": 0.1, "not_classes": ("car",)}
    manifest = build_alone(toy_request(out, out, inputs=toy_coco, **options))
    boxes = manifest["rejected"]["boxes"]
    assert boxes["class_not_wanted"] > GOOD
    assert boxes["too_bright"] > 1
    assert verify_folder(out) == []
    listed = [json.loads(line) for line in (out / REJECTS).read_text().splitlines()]
    bright = [record for record in listed if record["reason"] == "too_bright"]
    assert all("at most 110 wanted" in record["detail"] for record in bright)
    assert manifest["in"]["boxes"] == EXPECTED["in"]["boxes"]
