"""A painter that nothing of ours knows, through batch, edit, show, endpoint, page and bench."""

import base64
import csv
import importlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from evaluation.cli import main as evaluate
from sampling.cli import main as sample
from sampling.painters.painter import PAINTERS, painter_of
from sampling.provenance import pattern
from sampling.settings import MachineSettings
from sampling.web.server import build_app
from sampling.web.service import Limits, Service
from sampling.web.visitors import visitors_of
from tests.evaluation.exemplar_bench import write_weights
from tests.extending import write_example
from tests.sampling.tiny import request

GREY = ["--painter", "grey", "--device", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def grey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The example of docs/extending.md, and its row."""
    folder = tmp_path_factory.mktemp("grey")
    write_example(folder, "grey", "sampling/painters/grey.py", "sampling/painters/painter.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        importlib.import_module("grey")
        yield
    PAINTERS.pop("grey")
    sys.modules.pop("grey")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    asked = request(3, 90, 70)
    pixels = {"image": asked.image, "mask": np.asarray(asked.edit_mask), "exemplar": asked.exemplar}
    for name, own in pixels.items():
        Image.fromarray(own).save(tmp_path / f"{name}.png")
    return {name: tmp_path / f"{name}.png" for name in pixels}


def is_grey_inside_alone(result: Path, files: dict[str, Path]) -> bool:
    made, image = (np.asarray(Image.open(path)) for path in (result, files["image"]))
    mask = np.asarray(Image.open(files["mask"])) > 0
    return bool((made[mask] == 128).all() and (made[~mask] == image[~mask]).all())


def words(files: dict[str, Path]) -> list[str]:
    return [word for name, path in files.items() for word in (f"--{name}", str(path))]


def test_edit_paints_and_show_gives_the_command_that_does_it_again(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    assert sample(["edit", *GREY, *words(files), "--out", str(out)]) == 0
    assert is_grey_inside_alone(out, files)
    capsys.readouterr()
    assert sample(["show", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    again = shlex.split(shown.out)
    assert sample(again[3:]) == 0
    assert Path(again[again.index("--out") + 1]).read_bytes() == out.read_bytes()


def test_batch_keeps_what_is_made_until_the_painter_changes(
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (tmp_path / "jobs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([files, files.values()])
    command = ["batch", str(tmp_path / "jobs.csv"), *GREY, "--out", str(tmp_path / "out")]
    for counts in ("1 made, 0 already there", "0 made, 1 already there"):
        assert sample(command) == 0
        assert counts in capsys.readouterr().out
    [result] = (tmp_path / "out").glob("*.png")
    assert is_grey_inside_alone(result, files)
    module = importlib.import_module("grey")
    changed = type(module.PAINTER)(module.PAINTER.check, module.PAINTER.open, lambda model: "grey 2")
    monkeypatch.setattr(module, "PAINTER", changed)
    assert sample(command) == 0
    assert "1 made" in capsys.readouterr().out


def test_endpoint_and_page_ask_it(files: dict[str, Path], tmp_path: Path) -> None:
    machine = MachineSettings(device="cpu")
    service = Service(
        painter_of("grey").open(None, machine),
        pattern(None, machine, painter="grey"),
        tmp_path / "results",
        Limits(),
    )
    body = {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()}
    app = build_app(service, visitors_of("127.0.0.1"), None, 4)
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        assert client.get("/").status_code == 200
        answer = client.post("/api/edit", json=body)
    assert answer.status_code == 200, answer.text
    [made] = answer.json()["images"]
    (tmp_path / "made.png").write_bytes(base64.b64decode(made["png"]))
    assert is_grey_inside_alone(tmp_path / "made.png", files)


def test_a_bench_runs_it(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = ["--weights", str(write_weights(tmp_path / "weights")), "--without", "inception"]
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([files, files.values()])
    command = ["bench", "run", str(tmp_path / "cases.csv"), "--results", str(tmp_path / "edits")]
    assert evaluate([*command, *GREY, *weights, "--store", str(tmp_path / "store")]) == 0
    assert "made by painter grey" in (tmp_path / "edits" / "report" / "report.md").read_text()
    [result] = (tmp_path / "edits").glob("*.png")
    assert is_grey_inside_alone(result, files)


def test_the_own_painter_wants_a_model(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(["edit", *words(files), "--out", str(tmp_path / "out.png")]) == 2
    assert capsys.readouterr().err == "error: --model is missing; give a model folder\n"
    with pytest.raises(SystemExit, match="2"):
        sample(["edit", "--painter", "gray", *words(files), "--out", str(tmp_path / "out.png")])
    assert "invalid choice: 'gray'" in capsys.readouterr().err


def test_without_composition_all_that_was_painted_is_given(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "whole.png"
    assert sample(["edit", *GREY, *words(files), "--out", str(out), "--no-composite"]) == 0
    assert (np.asarray(Image.open(out)) == 128).all()
