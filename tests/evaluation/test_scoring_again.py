"""Scoring again: nothing is read, loaded or computed that is kept, and the report is equal to the byte."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel

from benchmarks.nets import tiny_clip
from evaluation.cli import main
from evaluation.measures import features
from evaluation.metrics import quality
from evaluation.scoring import file_hashes
from evaluation.scoring.store import ValueStore
from tests.evaluation.exemplar_bench import write_bench, write_results, write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def settled(monkeypatch) -> None:
    """Files are trusted at once, so that no test waits."""
    monkeypatch.setattr(file_hashes, "SETTLED", -1e6)


def refuse(*arguments, **options) -> None:
    raise AssertionError("what is kept is made again")


def test_a_second_scoring_reads_and_computes_nothing(weights, tmp_path, settled, monkeypatch) -> None:
    bench = write_bench(tmp_path / "bench", count=3)
    results = write_results(bench, tmp_path / "results", 5)
    options = ["--bench", str(bench), "--results", str(results), "--without", "inception"]
    options += ["--weights", str(weights), "--store", str(tmp_path / "store"), "--device", "cpu"]
    options += ["--out", str(tmp_path / "out")]

    def scored() -> dict[str, bytes]:
        assert main(["cocoee", *options]) == 0
        return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    first = scored()
    with monkeypatch.context() as kept:
        kept.setattr(file_hashes.hashlib, "file_digest", refuse)
        kept.setattr(CLIPModel, "from_pretrained", refuse)
        kept.setattr(quality, "quality_scores", refuse)
        assert scored() == first
    options.append("--hash-again")
    assert scored() == first
    changed = results / "000000001007.png"
    pixels = np.asarray(Image.open(changed)) // 2
    Image.fromarray(pixels).save(changed)
    options.remove("--hash-again")
    again = scored()
    assert again["report.json"] != first["report.json"]
    different = again["cases.csv"].splitlines(), first["cases.csv"].splitlines()
    assert [a == b for a, b in zip(*different, strict=True)] == [True, True, False, True]


def test_a_network_is_loaded_when_it_is_needed_and_named_by_its_weights(tmp_path, settled) -> None:
    store = ValueStore(tmp_path / "store")
    given = {"clip-b32": tiny_clip(tmp_path / "clip")}
    at_once = features.clip("clip-b32", given)
    for _ in range(2):
        late = features.clip("clip-b32", given, kept=store)
        assert (late.images.weights, late.size) == (at_once.images.weights, at_once.size)
        assert late.whole.identity == at_once.whole.identity
        store.keep()
        store = ValueStore(tmp_path / "store")
    pixels = np.zeros((1, 3, 224, 224), np.float32)
    assert torch.equal(torch.tensor(late.images.run(pixels)), torch.tensor(at_once.images.run(pixels)))
    tiny_clip(tmp_path / "clip", seed=1)
    assert features.clip("clip-b32", given, kept=store).images.weights != at_once.images.weights


@pytest.mark.processes
def test_scoring_from_the_store_imports_no_library_of_models() -> None:
    """They take more time than all else of a second scoring."""
    modules = "evaluation.measures.vision, evaluation.benches.score, evaluation.reports.page"
    probe = f"import sys, {modules}, sampling.denoise.device; print(*sys.modules, sep=chr(10))"
    shown = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert "torch" in shown.stdout.split()
    assert not {"transformers", "diffusers"} & set(shown.stdout.split())


def test_packs_are_read_as_numpy_reads_them(tmp_path) -> None:
    rng = np.random.default_rng(0)
    values = {
        "number": np.asarray(0.1),
        "nan": np.asarray(np.nan),
        "vector": rng.normal(size=512).astype(np.float32),
        "matrix": np.asfortranarray(rng.normal(size=(3, 5))),
        "empty": np.zeros((0, 7)),
        "a|b/ü": np.arange(4, dtype=">f8"),
    }
    ValueStore(tmp_path).add(values)
    store = ValueStore(tmp_path)
    with np.load(next(tmp_path.glob("pack-*.npz"))) as pack:
        for name, value in values.items():
            assert store[name].dtype == pack[name].dtype == value.dtype
            assert np.array_equal(store[name], value, equal_nan=True)
            store[name].flags.writeable = True


def test_what_is_computed_once_is_kept(tmp_path) -> None:
    store = ValueStore(tmp_path)
    assert float(store.computed("x", lambda: np.asarray(1.5))) == 1.5
    assert float(store.computed("x", refuse)) == 1.5  # before it is written
    store.keep()
    assert float(ValueStore(tmp_path).computed("x", refuse)) == 1.5


def test_a_fact_of_files_is_found_once_for_their_content(tmp_path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(path.name)
    store = ValueStore(tmp_path / "store")
    assert store.fact("weights/v1", paths, lambda: "~0a1b ü") == "~0a1b ü"
    store.keep()
    again = ValueStore(tmp_path / "store")
    assert again.fact("weights/v1", paths, refuse) == "~0a1b ü"
    assert again.fact("weights/v2", paths, lambda: "new") == "new"
    paths[1].write_text("c")
    assert again.fact("weights/v1", paths, lambda: "other") == "other"
    assert again.hash_of(paths[1]) == hashlib.sha256(b"c").hexdigest()
