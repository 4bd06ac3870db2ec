"""Models to choose from on the page and by the endpoint, and the flags that other tools have."""

import argparse
import base64
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from intarsia.command_line import Parser
from intarsia.errors import UsageError
from sampling.cli import main as sample
from sampling.commands import serve
from sampling.options import machine_settings
from sampling.painters.naming import Chosen
from sampling.painters.painter import open_painter, painter_of
from sampling.provenance import pattern, read_provenance
from sampling.settings import MachineSettings
from sampling.web.choices import Folder, fields_of
from sampling.web.models import Models, offered_models
from sampling.web.server import build_app
from sampling.web.service import Limits, Service
from sampling.web.visitors import visitors_of
from tests.sampling.painter_weights import make_lama
from tests.sampling.tiny import request

CPU = MachineSettings(device="cpu")


@pytest.fixture
def model_dir(model_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "paint_by_example").symlink_to(model_folder)
    (folder / "mine").symlink_to(model_folder)
    make_lama(folder)
    return folder


@pytest.fixture
def models(model_dir: Path, tmp_path: Path) -> Models:
    painter, model = "own", model_dir / "paint_by_example"
    name, offered = offered_models(painter, model, model_dir)
    parts = painter_of(painter).parts(model)
    paint = painter_of(painter).open(model, CPU)
    service = Service(paint, pattern(model, CPU), tmp_path / "results", Limits(), parts)
    return Models(service, fields_of(painter, model, parts), name, offered, CPU)


@pytest.fixture
def client(models: Models) -> Iterator[TestClient]:
    app = build_app(models.first, visitors_of("127.0.0.1"), None, 4, models=models)
    with TestClient(app, base_url="http://127.0.0.1:7860") as opened:
        yield opened


def body(*names: str) -> dict[str, object]:
    asked = request(3, 91, 70)
    pixels = {"image": asked.image, "mask": np.asarray(asked.edit_mask), "exemplar": asked.exemplar}
    found: dict[str, object] = {"num_inference_steps": 2}
    for name in names:
        content = io.BytesIO()
        Image.fromarray(pixels[name]).save(content, "PNG")
        found[name] = base64.b64encode(content.getvalue()).decode()
    return found


def test_what_a_folder_offers(model_dir: Path, model_folder: Path) -> None:
    name, offered = offered_models("own", model_dir / "paint_by_example", model_dir)
    assert name == "paint_by_example"
    assert list(offered) == ["paint_by_example", "cv2", "lama", "mine"]
    assert offered["lama"] == Chosen("lama", model_dir / "big-lama.pt")
    assert offered_models("own", model_folder, None) == ("model", {"model": Chosen("own", model_folder)})
    name, offered = offered_models("lama", Path("other/lama.pt"), model_dir)
    assert (name, next(iter(offered))) == ("lama (--model)", "lama (--model)")


def test_an_edit_by_each_and_back(client: TestClient, models: Models, tmp_path: Path) -> None:
    painted = {}
    for model in ("", "cv2", "lama", "paint_by_example"):
        names = ("image", "mask") if model in ("cv2", "lama") else ("image", "mask", "exemplar")
        answer = client.post("/api/edit", params={"model": model}, json=body(*names))
        assert answer.status_code == 200, answer.text
        [made] = answer.json()["images"]
        painted[model] = tmp_path / f"{model or 'first'}.png"
        painted[model].write_bytes(base64.b64decode(made["png"]))
    assert read_provenance(painted["lama"]).painter == "lama"
    assert read_provenance(painted["cv2"]).model.sha256 == painter_of("cv2").fingerprint(None)
    assert painted[""].read_bytes() == painted["paint_by_example"].read_bytes()


def test_one_model_is_in_memory(client: TestClient, models: Models) -> None:
    assert client.post("/api/edit", params={"model": "lama"}, json=body("image", "mask")).status_code == 200
    loaded = models._loaded
    assert loaded._name == "lama"


def test_options_of_one_model_do_not_refuse_another(models: Models) -> None:
    models._machine = MachineSettings(device="cpu", dtype="bfloat16", low_vram=True)
    assert models._machine_of("own") == models._machine
    assert models._machine_of("lama") == CPU
    assert models._machine_of("sd2") == models._machine


def test_inversion_goes_by_the_chosen_model(client: TestClient) -> None:
    assert client.get("/page/choices", params={"model": "lama"}).json()["invert"] is None
    assert client.get("/page/choices").json()["invert"] is not None
    sent = body("image", "mask", "exemplar")
    assert client.post("/api/invert", params={"model": "lama"}, json=sent).status_code == 404
    assert client.post("/api/invert", params={"model": "mine"}, json=sent).status_code == 200


def test_the_page_follows_the_chosen_model(client: TestClient) -> None:
    first = client.get("/page/choices").json()
    assert first["models"] == ["paint_by_example", "cv2", "lama", "mine"]
    assert first["parts"] == ["exemplar"]
    assert first["idle"] == []
    lama = client.get("/page/choices", params={"model": "lama"}).json()
    assert lama["parts"] == []
    assert {"num_inference_steps", "scheduler", "guidance_scale", "seed"} <= set(lama["idle"])
    assert not {"fit", "context", "blend", "match_colour"} & set(lama["idle"])
    cv2 = client.get("/page/choices", params={"model": "cv2"}).json()
    assert set(cv2["idle"]) - set(lama["idle"]) == {"fit", "context"}, "it sees the whole picture"
    refused = client.get("/page/choices", params={"model": "mat"})
    assert refused.status_code == 422
    assert "model 'mat' is not offered here; choose paint_by_example, cv2, lama, mine" in refused.text


def test_nobody_waits_for_another_models_hash(models: Models, tmp_path: Path) -> None:
    weights = tmp_path / "slow.pt"
    os.mkfifo(weights)  # its hash takes until somebody writes
    models._offered["slow"] = Chosen("lama", weights)
    models.names.append("slow")
    with ThreadPoolExecutor() as threads:
        slow, first = threads.submit(models.of, "slow"), None
        with weights.open("wb"):  # it is being read now
            first = threads.submit(models.of, "")
            assert first.result(timeout=60)[0] is models.first
            assert not slow.done()
        assert slow.result(timeout=60)[0].pattern.painter == "lama"


def test_without_a_switch_there_is_one_model(model_folder: Path, models: Models) -> None:
    alone = Models(models.first, models.of("")[1], "model", offered_models("own", model_folder, None)[1])
    app = build_app(alone.first, visitors_of("127.0.0.1"), None, 4, models=alone)
    with TestClient(app, base_url="http://127.0.0.1:7860") as opened:
        assert opened.get("/page/choices").json()["models"] == ["model"]
        answer = opened.post("/api/edit", params={"model": "cv2"}, json=body("image", "mask"))
    assert answer.status_code == 400
    assert answer.json()["error"] == "model 'cv2' is not offered here; choose model"


def test_the_page_begins_with_a_picture(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    alone, all_of_them = Folder(tmp_path / "one.png"), Folder(tmp_path)
    assert (alone.start, alone.names, all_of_them.start) == ("one.png", ["one.png"], "")
    assert alone.read("one.png") == (tmp_path / "one.png").read_bytes()


def parsed(*words: str) -> argparse.Namespace:
    parser = Parser()
    serve.add(parser.add_subparsers())
    return parser.parse_args(["serve", *words])


def test_flags_of_lama_cleaner(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = parsed("--cpu-offload", "--no-half", "--device", "cpu", "--port", "8080", "--host", "0.0.0.0")
    machine = machine_settings(given, "serve")
    assert (machine.low_vram, machine.dtype, given.port) == (True, "float32", 8080)
    assert machine_settings(parsed(), "serve") == MachineSettings()
    assert parsed("--model", "cv2", "--model-dir", "D", "--disable-model-switch").disable_model_switch
    idle = ["--disable-nsfw", "--enable-xformers", "--local-files-only"]
    assert sample(["serve", *idle]) == 2  # no model
    shown = capsys.readouterr().err
    for flag, why in zip(idle, ("no safety checker", "PyTorch's own", "no hub"), strict=True):
        assert f"note: {flag} has no effect: " in shown and why in shown
    for flag, instead in (("--gui", "open the printed address"), ("--sd-cpu-textencoder", "give --low-vram")):
        assert sample(["serve", "--model", "cv2", flag]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {flag}: ") and instead in error and error.count("\n") == 1
    assert sample(["serve", "--model", "cv2", "--input", str(tmp_path / "none.jpg")]) == 2
    assert "none.jpg is neither a folder nor a picture" in capsys.readouterr().err


def test_a_painter_of_one_picture_at_a_time_has_no_batch_to_share(capsys: pytest.CaptureFixture[str]) -> None:
    serve._check(parsed("--model", "cv2", "--share-batch", "4"))
    assert capsys.readouterr().err == "note: --share-batch has no effect: cv2 paints one at a time\n"
    serve._check(parsed("--model", "cv2"))
    assert capsys.readouterr().err == ""
    assert sample(["serve", "--model", "cv2", "--share-batch", "0"]) == 2
    assert "--share-batch 0 must be more than 0" in capsys.readouterr().err


def test_a_painter_without_pytorch_has_no_gpu(models: Models) -> None:
    with pytest.raises(UsageError, match="cv2 does not compute on --device cuda; leave it out"):
        open_painter("cv2", None, MachineSettings(device="cuda"))
    models._machine = MachineSettings(device="cuda")  # for the other models
    assert models._machine_of("cv2") == MachineSettings()
    made = pattern(None, MachineSettings(device="cuda"), painter="cv2")
    assert (made.device, made.dtype) == ("cpu", "float32")
