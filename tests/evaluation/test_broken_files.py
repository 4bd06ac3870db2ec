"""Files that are damaged, doubled, skipped or unwritable are named, and never end in a traceback."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.cli import main
from evaluation.scoring.store import ValueStore
from intarsia.errors import UserError
from intarsia.files import read_json
from tests.evaluation.exemplar_bench import write_bench, write_results, write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


def cocoee(bench: Path, results: Path, weights: Path, *more: str) -> int:
    files = ["--bench", str(bench), "--results", str(results), "--store", str(results.parent / "store")]
    return main(
        ["cocoee", *files, "--weights", str(weights), "--device", "cpu", "--without", "inception", *more]
    )


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_another_size(path: Path) -> None:
    Image.new("L", (30, 30), 255).save(path)


def black(path: Path) -> None:
    Image.new("L", (64, 64)).save(path)


@pytest.mark.parametrize(
    ("kind", "damage", "reason"),
    [
        ("result", cut_short, "000000001007.png"),
        ("result", empty, "000000001007.png"),
        ("result", of_another_size, "differ in size"),
        ("exemplar", empty, "000000001007_ref.png"),
        ("mask", of_another_size, "differ in size"),
        ("mask", black, "marks nothing"),
    ],
)
def test_only_present_leaves_out_what_is_broken(weights, tmp_path, kind, damage, reason, capsys) -> None:
    bench = write_bench(tmp_path / "bench", count=3)
    results = write_results(bench, tmp_path / "results", 5)
    key = "000000001007"
    places = {"exemplar": bench / f"Ref_3500/{key}_ref.png", "mask": bench / f"Mask_bbox_3500/{key}_mask.png"}
    damage(places.get(kind, results / f"{key}.png"))
    assert cocoee(bench, results, weights) == 1  # without the option it is refused, as before
    capsys.readouterr()
    assert cocoee(bench, results, weights, "--only-present") == 0
    shown = capsys.readouterr().out
    assert "1 of 3 results are missing: not comparable" in shown
    assert f"left out: {key}: " in shown
    assert reason in shown


def test_where_every_case_is_broken_the_first_is_named(weights, tmp_path, capsys) -> None:
    bench = write_bench(tmp_path / "bench", count=2)
    results = write_results(bench, tmp_path / "results", 5)
    for path in results.iterdir():
        empty(path)
    assert cocoee(bench, results, weights, "--only-present") == 1
    assert "no case can be scored; left out: 000000000007: " in capsys.readouterr().err


def a_pack(folder: Path, **values: float) -> Path:
    before = set(folder.glob("*")) if folder.exists() else set()
    ValueStore(folder).add({name: np.asarray(value) for name, value in values.items()})
    [path] = set(folder.glob("*.npz")) - before
    return path


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(b"NUMPY")  # the directory of the file stays whole
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [empty, cut_short, flipped])
def test_a_damaged_pack_is_ignored_and_its_values_are_made_again(tmp_path, damage, caplog) -> None:
    good, bad = a_pack(tmp_path, x=1.0), a_pack(tmp_path, y=2.0)
    damage(bad)
    store = ValueStore(tmp_path)
    assert "x" in store
    assert "y" not in store
    assert f"{bad} is damaged" in caplog.text
    store.add({"y": np.asarray(3.0)})
    assert (float(store["x"]), float(store["y"])) == (1.0, 3.0)
    assert good.exists()
    assert bad.exists()


class Unwritable:
    """A folder that cannot be made, since its parent is a file: also for root."""

    def __init__(self, folder: Path) -> None:
        (folder / "file").write_text("")
        self.path = folder / "file" / "store"


def test_a_store_that_cannot_be_written_keeps_values_in_memory(weights, tmp_path, capsys, caplog) -> None:
    store = ValueStore(Unwritable(tmp_path).path)
    store.add({"x": np.asarray(1.0)})
    store.add({"y": np.asarray(2.0)})
    assert ("x" in store, float(store["y"]), len(store)) == (True, 2.0, 2)
    assert (
        caplog.text.count("values are computed, but not kept") == 2
    )  # once for the folder, once for the first
    bench = write_bench(tmp_path / "bench", count=2)
    results = write_results(bench, tmp_path / "results", 5)
    assert cocoee(bench, results, weights, "--store", str(tmp_path / "file" / "store")) == 0
    assert "COCOEE, results: 2 of 2 cases" in capsys.readouterr().out


def test_a_folder_that_may_not_be_written_is_no_obstacle(tmp_path, caplog) -> None:
    a_pack(tmp_path / "store", x=1.0)
    store = ValueStore(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")  # as good as without the right to write, which root always has
    (tmp_path / "store").write_text("")
    store.add({"y": np.asarray(2.0)})
    assert float(store["y"]) == 2.0
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(
    "text", ['{"1": {}, "1": {}}', '{"a": {"x": 1, "y": 2, "x": 3}}', '[{"k": 1, "k": 1}]']
)
def test_a_key_that_appears_twice_is_refused(tmp_path, text) -> None:
    path = tmp_path / "mapping_file.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mapping_file.json: the key '[1xk]' appears twice; keep one"):
        read_json(path, unique=True)
    assert read_json(path) == json.loads(text)


def test_files_of_other_formats_are_counted(weights, tmp_path, capsys) -> None:
    bench = write_bench(tmp_path / "bench", count=3)
    folder = bench / "Ref_3500"
    for name in ("a.tif", "b.TIFF", "c"):
        (folder / name).write_bytes(b"x")
    results = write_results(bench, tmp_path / "results", 5)
    assert cocoee(bench, results, weights, "--reference", str(folder)) == 0
    assert f"{folder}: 3 files of other formats (.tif, .tiff, no ending) left out" in capsys.readouterr().out
    machine = ["--weights", str(weights), "--store", str(tmp_path / "store"), "--device", "cpu"]
    assert main(["fid", str(folder), str(bench / "GT_3500"), "--features", "clip-b32", *machine]) == 0
    assert "3 files of other formats" in capsys.readouterr().err
