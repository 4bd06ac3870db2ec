"""What holds at any size: streams read as wholes do, filtering on the way drops what filtering later does."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from benchmarks.coco_json import write_coco
from benchmarks.openimages_csv import write_empty_pictures, write_open_images
from benchmarks.plan import measure_plan
from dataprep.choose.rules import FILTERS
from dataprep.formats import json_stream, openimages_csv
from dataprep.formats.columns import GrowingColumn, TextColumn
from dataprep.formats.json_stream import EMPTY, stream_object
from dataprep.formats.openimages_csv import read_open_images
from dataprep.pictures.index import index_paths, index_pictures
from dataprep.plan import plan_file
from dataprep.plan.plan import BuildConfig, BuildPlan, make_build_plan
from dataprep.plan.plan_file import plan_fingerprint, plan_table, text_bytes
from dataprep.shards import plan_rejects
from dataprep.shards.plan_rejects import write_plan_rejects
from dataprep.sources.coco import read_coco
from intarsia.errors import UserError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=5)


def streamed(path: Path) -> dict:
    content: dict = {}
    for name, value in stream_object(path):
        content.setdefault(name, []).append(value)
    return content


def gathered(whole: dict) -> dict:
    return {name: (value or [EMPTY]) if isinstance(value, list) else [value] for name, value in whole.items()}


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@settings(deadline=None, max_examples=60)
@given(content=OBJECTS, indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_a_stream_gives_what_the_whole_gives(
    tmp_path_factory: pytest.TempPathFactory, chunk: int, content: dict, indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert streamed(path) == gathered(content)


@settings(deadline=None, max_examples=60)
@given(content=OBJECTS, share=st.floats(0, 0.999), chunk=st.sampled_from([3, 1 << 20]))
def test_a_stream_cut_anywhere_is_told_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, content: dict, share: float, chunk: int
) -> None:
    text = json.dumps(content, indent=1)
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(text[: int(len(text) * share)])
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(UserError, match=r"a\.json, line \d+: not valid"),
    ):
        patch.setattr(json_stream, "_CHUNK", chunk)
        streamed(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [\n{"id": 1},\n{"id": oops}\n]}', "line 3: not valid JSON: Expecting value"),
        ('{"images": []} {}', "line 1: not valid JSON: there is more text after its end"),
        ('{"images": [1 2]}', "line 1: not valid JSON: ']' is expected, not '2'"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ("{1: 2}", "a name in double quotes is expected"),
    ],
    ids=["no value", "more text", "no comma", "deep", "no name"],
)
def test_a_fault_in_a_stream_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message):
        streamed(tmp_path / "a.json")


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder, pictures=60, boxes=400, points=12)
    return folder / "instances.json"


def test_the_stream_reads_coco_as_pycocotools_does(coco_file: Path) -> None:
    notes, peer = read_coco(coco_file), COCO(str(coco_file))
    assert notes.box_ids.tolist() == list(peer.anns)
    assert notes.image_ids == [str(number) for number in peer.imgs]
    assert sorted(notes.labels) == sorted(record["name"] for record in peer.cats.values())
    for row, record in enumerate(peer.anns.values()):
        x, y, width, height = record["bbox"]
        assert notes.bounds[row].tolist() == [x, y, x + width, y + height]
        assert notes.image_ids[notes.picture[row]] == str(record["image_id"])
        assert notes.labels[notes.label[row]] == peer.cats[record["category_id"]]["name"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ('"images": [{"id": 1}, {"id": 1}], "annotations": []', "of `images` with id 1 .*appears twice"),
        (
            '"images": [{"id": 7}, {"id": "07"}], "annotations": []',
            "of `images` with id '07' .*appears twice",
        ),
        ('"images": [], "annotations": ["x"]', "an element of `annotations` is not valid"),
        ('"images": [], "annotations": [{"id": "x"}]', "of `annotations` with id 'x' is not valid"),
        (
            '"images": [], "annotations": [{"id": 5, "category_id": 1}, {"id": 5, "category_id": 1}]',
            "the annotation id 5 appears twice",
        ),
        ('"images": [], "annotations": [{"id": 5}]', "with id 5 is not valid: its category_id is missing"),
        ('"images": 5, "annotations": []', "an element of `images` is not valid"),
        (
            '"images": [{"id": 1, "file_name": "\\ud83d"}], "annotations": []',
            "of `images` with id 1 is not valid: its file_name is .*, which is not text",
        ),
        ('"images": [{"id": null}], "annotations": []', "with id None .*its id is null, not a number"),
    ],
)
def test_wrong_types_in_coco_files_are_told(tmp_path: Path, records: str, message: str) -> None:
    (tmp_path / "a.json").write_text(f'{{{records}, "categories": [{{"id": 1, "name": "x"}}]}}')
    with pytest.raises(UserError, match=message):
        read_coco(tmp_path / "a.json")


@pytest.fixture(scope="module")
def open_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oi")
    write_open_images(folder, rows=3000, pictures=400)
    write_empty_pictures(folder, 400)
    return folder


def test_the_made_up_file_has_the_published_columns(open_images: Path) -> None:
    lines = (open_images / "boxes.csv").read_text().splitlines()
    assert len(lines) == 3001
    assert {line.count(",") for line in lines} == {20}
    assert lines[0].endswith(
        "IsInside,XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y,XClick4Y"
    )
    assert len({line.partition(",")[0] for line in lines[1:]}) == 400


def plans(folder: Path, filters: str) -> tuple[BuildPlan, BuildPlan]:
    """Of the same boxes, filtered as they stream by, and when all are there."""
    config = BuildConfig(source="openimages", name="oi", filters=filters)
    index = index_pictures(folder / "images")
    read = [
        read_open_images(folder / "boxes.csv", folder / "classes.csv", r) for r in (FILTERS[filters], None)
    ]
    return make_build_plan(read[0], index, config), make_build_plan(read[1], index, config)


def lines_of(plan: BuildPlan) -> list[str]:
    file = io.BytesIO()
    write_plan_rejects(plan, file)
    return sorted(file.getvalue().decode().splitlines())


@pytest.mark.parametrize("filters", ["pbe", "default"])
@pytest.mark.parametrize("small", [False, True], ids=["one piece", "many pieces"])
def test_filtering_on_the_way_makes_the_same_plan(
    open_images: Path, monkeypatch: pytest.MonkeyPatch, filters: str, small: bool
) -> None:
    whole = plans(open_images, filters)[1]
    if small:
        monkeypatch.setattr(openimages_csv, "_BLOCK", 20_000)
        monkeypatch.setattr(plan_file, "_SLICE", 1)
        monkeypatch.setattr(plan_rejects, "_CHUNK", 100)
    stream = plans(open_images, filters)[0]
    assert len(stream.annotations.dropped) > 500
    assert stream.counts() == whole.counts()
    assert plan_fingerprint(stream) == plan_fingerprint(whole)
    assert plan_table(stream).equals(plan_table(whole))
    assert lines_of(stream) == lines_of(whole)


def test_every_box_that_a_plan_drops_is_a_line(open_images: Path) -> None:
    stream, _ = plans(open_images, "default")
    records = [json.loads(line) for line in lines_of(stream)]
    told = Counter(r["reason"] for r in records for _ in r.get("box_ids", [0]))
    assert told == stream.counts()["rejected"]["boxes"]
    named = [box for r in records for box in r.get("box_ids", [r.get("box_id")])]
    kept = plan_table(stream)["boxes"].to_pylist()
    assert sorted(named + [box["box_id"] for boxes in kept for box in boxes]) == list(range(2, 3002))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 1000), max_size=30), max_size=10))
def test_a_column_is_all_that_was_appended(pieces: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dataprep.formats.columns._FIRST", 2)
        column, pairs = GrowingColumn(np.int32), GrowingColumn(np.float64, 2)
        for piece in pieces:
            column.append(np.array(piece, np.int32))
            pairs.append(np.array([piece, piece], np.float64).T.reshape(-1, 2))
    whole = [value for piece in pieces for value in piece]
    assert column.finish().tolist() == whole
    assert pairs.finish().tolist() == [[value, value] for value in whole]


@settings(deadline=None)
@given(st.lists(st.text(max_size=5), min_size=1), st.data())
def test_texts_on_the_disk_come_back_in_any_order(texts: list[str], data: st.DataObject) -> None:
    column = TextColumn()
    for text in texts:
        column.append(text)
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1)))
    assert column.take(np.array(rows, np.int64)).to_pylist() == [texts[row] for row in rows]


@settings(deadline=None)
@given(st.lists(st.text(max_size=5)), st.integers(0, 3), st.integers(0, 3))
def test_the_bytes_of_a_text_column_do_not_depend_on_its_pieces(
    texts: list[str], first: int, last: int
) -> None:
    import pyarrow as pa

    column = pa.array(texts, pa.string())[first : len(texts) - last]
    assert bytes(text_bytes(column, "|")) == "".join(f"{text}|" for text in column.to_pylist()).encode()


def test_odd_names_of_files_do_no_harm() -> None:
    index = index_paths(["b.jpg", "\udcff.jpg", "a b/é.JPG", "c.d.png"])
    assert index.find(["", "", ""], ["b", "é", "c.d"]).to_pylist() == ["b.jpg", "a b/é.JPG", "c.d.png"]


def test_planning_is_measured_in_a_process_of_its_own(open_images: Path, coco_file: Path) -> None:
    ballast = np.ones(80_000_000)  # 640 MB that are the parent's, not the plan's
    for source, folder, boxes in (("openimages", open_images, 3000), ("coco", coco_file.parent, 400)):
        found = measure_plan(source, folder, max_iou=0.8)
        assert found["boxes"][0] == boxes
        assert 50 < found["peak_mb"] < ballast.nbytes / 1e6
        assert 0 < found["cpu_s"] < 60
