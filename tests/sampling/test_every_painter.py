"""What every painter keeps, whatever it is: the table PAINTERS through all doors."""

import base64
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from evaluation.cli import main as evaluate
from sampling.cli import main as sample
from sampling.painters.painter import PAINTERS, painter_of
from sampling.provenance import pattern, read_provenance
from sampling.settings import MachineSettings
from sampling.told import PartNames
from sampling.web.server import build_app
from sampling.web.service import Limits, Service
from sampling.web.visitors import visitors_of
from tests.evaluation.exemplar_bench import write_weights
from tests.sampling.iopaint_server import stand_in
from tests.sampling.painter_weights import MAKERS
from tests.sampling.tiny import assert_made_again, request

STEPS = "3"

pytestmark = pytest.mark.long


class Door:
    """A painter with weights: how the commands name it, and what it is told."""

    def __init__(self, name: str, model: Path | None, url: str) -> None:
        self.name, self.model, self.url = name, model, url
        weights = f"{name}:{model}" if model else name
        self.words = ["--model", str(model) if name == "own" else weights, "--iopaint-url", url]
        self.words += ["--device", "cpu", "--num-inference-steps", STEPS]
        self.parts: PartNames = painter_of(name).parts(model)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with stand_in() as running:
        yield running.url


@pytest.fixture(scope="module", params=PAINTERS)
def door(request: pytest.FixtureRequest, server: str, tmp_path_factory: pytest.TempPathFactory) -> Door:
    return Door(request.param, MAKERS[request.param](tmp_path_factory.mktemp("weights")), server)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A picture of odd sides that no model has."""
    asked = request(3, 131, 77)
    pixels = {"image": asked.image, "mask": np.asarray(asked.edit_mask), "exemplar": asked.exemplar}
    for name, own in pixels.items():
        Image.fromarray(own).save(tmp_path / f"{name}.png")
    return {name: tmp_path / f"{name}.png" for name in pixels}


def told(door: Door, files: dict[str, Path]) -> dict[str, str]:
    """What an edit of this painter names: files, and the prompt if it is told one."""
    names = ["image", "mask", *(["exemplar"] if "exemplar" in door.parts else [])]
    return {name: str(files[name]) for name in names} | ({"prompt": "a dog"} if "text" in door.parts else {})


def is_edit(result: Path, files: dict[str, Path]) -> bool:
    """Whether the picture's own pixels are outside the mask, to the bit, and others inside."""
    made, image = (np.asarray(Image.open(path)) for path in (result, files["image"]))
    mask = np.asarray(Image.open(files["mask"])) > 0
    return bool((made[~mask] == image[~mask]).all() and (made[mask] != image[mask]).any())


def test_edit_keeps_the_picture_and_says_how_it_was_made(
    door: Door, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    words = [word for name, value in told(door, files).items() for word in (f"--{name}", value)]
    assert sample(["edit", *door.words, *words, "--out", str(out), "--seed", "5"]) == 0
    assert is_edit(out, files)
    noted = read_provenance(out)
    assert (noted.painter, noted.seed) == (door.name, 5)
    assert noted.model.sha256 == painter_of(door.name).fingerprint(door.model)
    assert_made_again(out, capsys)


def test_batch_makes_the_missing_ones(
    door: Door, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [told(door, files) | {"seed": str(seed)} for seed in (1, 2)]
    with (tmp_path / "jobs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    command = ["batch", str(tmp_path / "jobs.csv"), *door.words, "--out", str(tmp_path / "edits")]
    for counts in ("2 made, 0 already there", "0 made, 2 already there"):
        assert sample(command) == 0
        assert counts in capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "edits" / "results.jsonl").read_text().splitlines()]
    assert [record["seed"] for record in records] == [1, 2]
    assert all(is_edit(tmp_path / "edits" / record["output"], files) for record in records)


def test_the_endpoint_and_the_page_ask_it(door: Door, files: dict[str, Path], tmp_path: Path) -> None:
    machine = MachineSettings(device="cpu", iopaint_url=door.url)
    service = Service(
        painter_of(door.name).open(door.model, machine),
        pattern(door.model, machine, painter=door.name),
        tmp_path / "results",
        Limits(),
        door.parts,
    )
    given = told(door, files)
    body: dict[str, object] = {
        name: value if name == "prompt" else base64.b64encode(Path(value).read_bytes()).decode()
        for name, value in given.items()
    }
    app = build_app(service, visitors_of("127.0.0.1"), None, 4)
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        assert client.get("/").status_code == 200
        answer = client.post("/api/edit", json=body | {"num_inference_steps": int(STEPS)})
    assert answer.status_code == 200, answer.text
    [made] = answer.json()["images"]
    (tmp_path / "made.png").write_bytes(base64.b64decode(made["png"]))
    assert is_edit(tmp_path / "made.png", files)
    assert read_provenance(tmp_path / "made.png").painter == door.name


def test_one_list_is_a_bench_for_all(door: Door, files: dict[str, Path], tmp_path: Path) -> None:
    """With exemplar and prompt; a painter gets what it is told, and the scores look at the exemplar."""
    row = {name: str(path) for name, path in files.items()} | {"prompt": "a dog", "name": "one"}
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([row, row.values()])
    weights = ["--weights", str(write_weights(tmp_path / "weights")), "--without", "inception"]
    command = ["bench", "run", str(tmp_path / "cases.csv"), "--results", str(tmp_path / "edits")]
    assert evaluate([*command, *door.words, *weights, "--store", str(tmp_path / "store")]) == 0
    assert is_edit(tmp_path / "edits" / "one.png", files)
    report = (tmp_path / "edits" / "report" / "report.md").read_text()
    assert f"made by {f'painter {door.name}' if door.name != 'own' else door.model}" in report
