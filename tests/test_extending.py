"""The examples of docs/extending.md that need nothing but themselves: a source and a sampler."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from dataprep.cli import main
from dataprep.sources.table import SOURCES
from intarsia.files import read_json
from intarsia.weights import save_model
from tests.extending import examples, write_example
from tests.paths import COCO_MINI, ROOT
from tests.sampling.tiny import tiny_model


@pytest.fixture
def jsonl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The bundled boxes as JSON lines, and the source that reads them."""
    write_example(tmp_path, "jsonl", "dataprep/sources/jsonl.py", "dataprep/sources/table.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("jsonl")
    content = read_json(COCO_MINI / "annotations.json")
    names = {category["id"]: category["name"] for category in content["categories"]}
    with (tmp_path / "mine.jsonl").open("w") as file:
        for image in content["images"]:
            own = [a for a in content["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
            boxes = [
                [x, y, x + width, y + height, names[a["category_id"]]]
                for a in own
                for x, y, width, height in [a["bbox"]]
            ]
            file.write(json.dumps({"file": image["file_name"], "boxes": boxes}) + "\n")
    yield tmp_path / "mine.jsonl"
    SOURCES.pop("jsonl")
    sys.modules.pop("jsonl")


@pytest.mark.processes
def test_the_source_of_the_example_plans_builds_and_verifies(
    jsonl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--images", str(COCO_MINI / "images"), "--image-size", "64", "--workers", "1"]
    command = ["build", "jsonl", "--boxes", str(jsonl), *files, "--out", str(tmp_path / "shards")]
    assert main([*command, "--dry-run"]) == 0
    assert "boxes" in capsys.readouterr().out
    assert main(command) == 0
    manifest = read_json(tmp_path / "shards" / "manifest.json")
    assert manifest["kept"]["samples"] > 15
    assert main(["verify", str(tmp_path / "shards"), "--full"]) == 0


@pytest.mark.processes
def test_the_sampler_of_the_example_edits(tmp_path: Path) -> None:
    """In a process of its own: choices of options and settings are read when they are imported."""
    [row] = examples()["sampling/samplers.py"].splitlines()
    save_model(tiny_model(), tmp_path / "model")
    for name, colour in (("image", "red"), ("exemplar", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    mask.save(tmp_path / "mask.png")
    out = tmp_path / "out.png"
    words = ["edit", "--model", str(tmp_path / "model"), "--out", str(out), "--scheduler", "deis", "--karras"]
    for name in ("image", "mask", "exemplar"):
        words += [f"--{name}", str(tmp_path / f"{name}.png")]
    words += ["--num-inference-steps", "3"]
    code = f"from sampling.samplers import *\n{row}\nfrom sampling.cli import main\nmain({words!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert Image.open(out).size == (64, 64)
