"""The engine: nothing decoded twice, nothing computed twice, and values that no setting changes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.measures.measures import Measure, Network, pixel_error
from evaluation.scoring import scoring
from evaluation.scoring.scoring import Case, Request, score
from evaluation.scoring.store import ValueStore
from intarsia.errors import UserError


def write_pictures(folder: Path, count: int, size: int = 16) -> list[Path]:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return paths


class Spy:
    """A network that gives each picture's mean colour and counts what it is asked."""

    def __init__(self, weights: str = "w") -> None:
        self.batches: list[int] = []
        self.measure = Measure(
            "mean-colour/signed/v1",
            lambda picture: picture.transpose(2, 0, 1).astype(np.float32),
            Network("spy", weights, self.run),
        )

    def run(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(len(batch))
        return batch.mean((2, 3))


@pytest.fixture
def decoded(monkeypatch) -> Counter:
    counts: Counter = Counter()
    read = scoring.read_picture

    def counted(path):
        counts[path] += 1
        return read(path)

    monkeypatch.setattr(scoring, "read_picture", counted)
    return counts


def make_cases(results: list[Path], truths: list[Path], spy: Spy) -> list[Case]:
    return [
        {
            "features": Request((result,), spy.measure),
            "truth": Request((truth,), spy.measure),
            "mse": Request((result, truth), pixel_error("mse")),
        }
        for result, truth in zip(results, truths, strict=True)
    ]


def test_each_picture_is_decoded_once_and_a_second_call_decodes_none(tmp_path, decoded) -> None:
    results = write_pictures(tmp_path / "results", 150)
    truths = write_pictures(tmp_path / "truths", 5, size=16) * 30  # shared by cases far apart
    spy = Spy()
    cases = make_cases(results, truths, spy)
    first = list(score(cases, ValueStore(tmp_path / "store"), workers=3))
    assert set(decoded.values()) == {1}
    assert len(decoded) == 155
    assert sum(spy.batches) == 150  # truths have the same bytes as the first five results
    decoded.clear()
    again = list(score(cases, ValueStore(tmp_path / "store")))
    assert not decoded
    assert sum(spy.batches) == 150
    for a, b in zip(first, again, strict=True):
        assert all((a[name] == b[name]).all() for name in a)


def test_values_do_not_depend_on_batches_workers_or_windows(tmp_path, monkeypatch) -> None:
    results, truths = write_pictures(tmp_path / "a", 20), write_pictures(tmp_path / "b", 40)[20:]
    cases = make_cases(results, truths, Spy())
    tables = []
    for number, (batch, workers, window) in enumerate([(1, 1, 3), (7, 4, 64), (32, 2, 20)]):
        monkeypatch.setattr(scoring, "WINDOW", window)
        rows = score(cases, ValueStore(tmp_path / f"{number}"), batch_size=batch, workers=workers)
        tables.append(np.array([np.concatenate([np.ravel(row[name]) for name in row]) for row in rows]))
    assert (tables[0] == tables[1]).all()
    assert (tables[0] == tables[2]).all()
    assert len(np.unique(tables[0][:, -1])) == 20


def test_the_key_holds_bytes_recipe_weights_and_mask_but_no_name(tmp_path, decoded) -> None:
    [picture, other] = write_pictures(tmp_path / "a", 2)
    store = ValueStore(tmp_path / "store")
    spy = Spy()

    def ask(request: Request) -> int:
        before = len(store)
        list(score([{"value": request}], store))
        return len(store) - before

    assert ask(Request((picture,), spy.measure)) == 1
    renamed = tmp_path / "renamed.png"
    renamed.write_bytes(picture.read_bytes())
    assert ask(Request((renamed,), spy.measure)) == 0
    assert ask(Request((picture,), Spy("other weights").measure)) == 1
    assert ask(Request((picture, other), pixel_error("mse"))) == 1
    assert ask(Request((other, picture), pixel_error("mse"))) == 1
    left = np.zeros((16, 16), bool)
    left[:, :8] = True
    background = pixel_error("mse", "background")
    assert ask(Request((picture, other), background, left)) == 1
    assert ask(Request((picture, other), background, ~left)) == 1
    assert ask(Request((picture, other), pixel_error("mse", "background", "blank"), left)) == 1
    Image.fromarray(left).save(tmp_path / "mask.png")
    assert ask(Request((picture, other), background, tmp_path / "mask.png")) == 1


def test_masks_from_files_and_arrays_agree_and_an_empty_region_is_nan(tmp_path) -> None:
    [picture, other] = write_pictures(tmp_path / "a", 2)
    left = np.zeros((16, 16), bool)
    left[:, :8] = True
    Image.fromarray(left).save(tmp_path / "mask.png")
    Image.fromarray(np.ones((16, 16), bool)).save(tmp_path / "all.png")
    measure = pixel_error("psnr", "background")
    cases: list[Case] = [
        {"value": Request((picture, other), measure, mask)}
        for mask in (left, tmp_path / "mask.png", tmp_path / "all.png")
    ]
    array, file, empty = (float(row["value"]) for row in score(cases, ValueStore(tmp_path / "store")))
    assert array == file
    assert np.isnan(empty)


def test_what_does_not_fit_is_named(tmp_path) -> None:
    [small] = write_pictures(tmp_path / "a", 1)
    [large] = write_pictures(tmp_path / "b", 1, size=20)
    store = ValueStore(tmp_path / "store")
    with pytest.raises(UserError, match=r"a/000.png with .*b/000.png: shapes differ: .* \(mse/whole/v1\)"):
        list(score([{"x": Request((small, large), pixel_error("mse"))}], store))
    with pytest.raises(UserError, match=r"b/none.png cannot be read"):
        list(score([{"x": Request((tmp_path / "b/none.png",), Spy().measure)}], store))
    mask = np.ones((3, 3), bool)
    with pytest.raises(UserError, match=r"the mask is 3 x 3 pixels and a picture 16 x 16, not alike"):
        list(score([{"x": Request((small, small), pixel_error("mse", "edited", "blank"), mask)}], store))


def test_progress_counts_cases(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(scoring, "WINDOW", 4)
    cases: list[Case] = [{"x": Request((p,), Spy().measure)} for p in write_pictures(tmp_path / "a", 10)]
    told: list[tuple[int, int]] = []
    list(score(cases, ValueStore(tmp_path / "store"), lambda done, total: told.append((done, total))))
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_a_damaged_pack_is_named_and_a_killed_writer_leaves_nothing(tmp_path, caplog) -> None:
    store = ValueStore(tmp_path)
    store.add({"a|b": np.arange(3.0)})
    assert (ValueStore(tmp_path)["a|b"] == [0, 1, 2]).all()
    (tmp_path / ".pack-1.npz.tmp-0").write_bytes(b"half")  # what a kill leaves
    assert len(ValueStore(tmp_path)) == 1
    [pack] = tmp_path.glob("pack-*.npz")
    pack.write_bytes(pack.read_bytes()[:50])
    assert len(ValueStore(tmp_path)) == 0
    assert f"{pack} is damaged and ignored" in caplog.text
