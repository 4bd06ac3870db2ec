"""The page's server without a browser: what it answers, and what it does not give out."""

import base64
import http.server
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from intarsia.errors import UserError
from intarsia.model import EditModel
from sampling.canvas.canvas import lay_canvas
from sampling.cli import main
from sampling.painters.own import painting_with
from sampling.pictures import read_mask
from sampling.provenance import pattern
from sampling.settings import EditSettings, MachineSettings
from sampling.web.api import EditBody
from sampling.web.choices import PRESETS, Folder, ModelFields, fields_of, offered
from sampling.web.gate import Gate
from sampling.web.progress import LINES
from sampling.web.server import build_app
from sampling.web.service import Limits, Service
from sampling.web.visitors import visitors_of
from tests.paths import COCO_MINI, ROOT
from tests.sampling.serving import running

PICTURE = COCO_MINI / "images" / "000000017029.jpg"
MASK, EXEMPLAR = ROOT / "examples/edits/dog.mask.png", ROOT / "examples/edits/hydrant.exemplar.jpg"
STATIC = ROOT / "sampling/web/static"
ASKED = {"width": 640, "height": 480, "x0": 10, "y0": 20, "x1": 60, "y1": 90}


@pytest.fixture(scope="module")
def app(model: EditModel, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    shared = pattern(model_folder, MachineSettings(device="cpu"))
    folder = tmp_path_factory.mktemp("page") / "results"
    service = Service(painting_with(model), shared, folder, Limits(megapixels=1.0))
    fields = fields_of("own", model_folder, service.parts)
    return build_app(service, visitors_of("127.0.0.1"), COCO_MINI / "images", 4, fields)


@pytest.fixture(scope="module")
def client(app: Gate) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        yield client


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.png"
    Image.fromarray(np.full((40, 40, 3), 77, np.uint8)).save(path)
    return path


def png(pixels: np.ndarray, **more: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", **more)
    return content.getvalue()


def picture_of(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def copy_in(answer: httpx2.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return picture_of(base64.b64decode(answer.json()["copy"].partition(",")[2]))


def body(**settings: Any) -> dict[str, Any]:
    files = {"image": PICTURE, "mask": MASK, "exemplar": EXEMPLAR}
    content = {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()}
    return content | {"num_inference_steps": 2, "scheduler": "ddim"} | settings


def test_the_page_asks_no_other_host_and_its_files_are_readable(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "Intarsia" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in page.headers["content-security-policy"]
    for file in STATIC.iterdir():
        text = file.read_text()
        assert client.get(f"/static/{file.name}").text == text
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), file.name
        assert text.count("\n") <= 400, file.name
        assert max(map(len, text.splitlines())) <= 120 or file.suffix == ".svg", file.name
    for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
        assert client.get(name).status_code == 200, name


def test_nothing_but_the_page_is_given_out(client: TestClient, secret: Path) -> None:
    up = "/".join([".."] * 12)
    paths = [f"/static/{up}/etc/passwd", "/static/..%2fpage.py", "/static/", "/config", "/docs", "/README.md"]
    paths += [
        f"/page/offered?name={name}" for name in ("/etc/passwd", f"{up}/etc/passwd", secret, "README.md", "")
    ]
    paths += [
        "/page/example?name=another dog&file=../../README.md",
        "/page/example?name=x&file=image",
        "/page/x",
    ]
    paths += ["/page/look", "/gradio_api/upload", "/static/index.html/x"]
    for path in paths:
        answer = client.get(path)
        assert answer.status_code in (404, 422), path
        assert list(answer.json()) == ["error"]
    assert client.post("/page/choices").status_code == 404


def test_the_page_knows_the_model_and_the_settings(client: TestClient, model: EditModel) -> None:
    choices = client.get("/page/choices").json()
    assert (choices["parts"], choices["maps"], choices["size"]) == (["exemplar"], [], model.config.image_size)
    fields = re.findall(r'name="(\w+)"', (STATIC / "index.html").read_text())
    assert set(fields) - {"sweep", "viewport"} <= set(choices["defaults"])
    for preset in PRESETS.values():
        EditSettings(**preset)
        assert set(preset) <= set(fields)
    assert "000000017029.jpg" in choices["offered"]
    assert "context" in choices["invert"]["couplings"]
    assert choices["choices"]["invert.method"][:2] == ["ddim", "direct"]
    assert choices["idle"] == []
    assert fields_of("cv2", None, ()) == ModelFields((), uses=("blend", "match_colour", "composite"))


def test_a_picture_is_looked_at_upright_and_not_kept(client: TestClient, app: Gate, tmp_path: Path) -> None:
    pixels = np.zeros((30, 1200, 3), np.uint8)
    pixels[:, :600] = (200, 10, 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    seen = client.post("/page/look", content=png(pixels, exif=exif))
    copy = copy_in(seen)
    assert (seen.json()["width"], seen.json()["height"]) == (30, 1200)
    assert copy.shape == (1024, 26, 3)
    assert (copy[:500] == (200, 10, 10)).all()
    assert not list(tmp_path.rglob("*"))


def test_a_mask_file_is_shown_as_it_is_read(client: TestClient) -> None:
    size = {"width": 640, "height": 480}
    whole = read_mask(MASK)
    ours = copy_in(
        client.post(
            "/page/mask",
            params=size | {"width": whole.shape[1], "height": whole.shape[0]},
            content=MASK.read_bytes(),
        )
    )
    assert ((ours >= 128) == whole).all()
    labels = np.zeros((480, 640), np.uint8)
    labels[100:200, 300:400] = 1
    answer = client.post("/page/mask", params=size, content=png(labels))
    assert ((copy_in(answer) >= 128) == (labels == 1)).all()
    assert answer.json()["notes"] == ["the mask has no white; its values are 0 and 1, and 1 is read as white"]
    refused = client.post("/page/mask", params=size, content=png(labels.T.copy()))
    assert refused.status_code == 422
    assert refused.json()["error"].startswith(
        "the mask is 480 x 640 pixels but the picture 640 x 480; rotate"
    )


def test_what_is_painted_on_the_copy_becomes_a_mask_of_the_picture(client: TestClient) -> None:
    small = np.zeros((512, 1024), np.uint8)
    small[100:140, 600:700] = 255
    small[0, 0] = 127
    size = {"width": 2048 - 1024, "height": 512}
    assert (
        picture_of(client.post("/page/strokes", params=size, content=png(small)).content) == (small > 127)
    ).all()
    size = {"width": 1400, "height": 700}
    large = picture_of(client.post("/page/strokes", params=size, content=png(small)).content)
    rows, columns = np.flatnonzero(large.any(1)), np.flatnonzero(large.any(0))
    scale = 1400 / 1024
    for edge, wanted in zip(
        (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1), (100, 140, 600, 700), strict=True
    ):
        assert abs(edge - wanted * scale) <= 1


STROKES = [
    ((100, 100), {"width": 640, "height": 160}, "is 100 x 100 pixels, and the copy of the picture 640 x 160"),
    ((160, 640), {"width": 640, "height": 160}, "nothing is marked yet; paint over what is to be repainted"),
    ((160, 640), {"width": 64000, "height": 160}, "a picture cannot have 64000 x 160 pixels here"),
    ((160, 640), {"width": 640}, "height='' must be a whole number of pixels"),
    (None, {"width": 640, "height": 160}, "what was painted did not arrive as a PNG; paint it again"),
]


@pytest.mark.parametrize(("shape", "size", "sentence"), STROKES, ids=[case[2][:24] for case in STROKES])
def test_strokes_of_another_picture_are_refused(
    client: TestClient, shape: tuple[int, int] | None, size: dict[str, int], sentence: str
) -> None:
    content = png(np.zeros(shape, np.uint8)) if shape else b"no picture"
    answer = client.post("/page/strokes", params=size, content=content)
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]


@pytest.mark.parametrize("channels", [3, 4])
def test_an_exemplar_is_cropped_to_the_pixel(client: TestClient, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, channels), dtype=np.uint8)
    box = {"x0": 10, "y0": 20, "x1": 70, "y1": 30}
    cut = client.post("/page/cut", params=box, content=png(pixels))
    assert (picture_of(cut.content) == pixels[20:30, 10:70]).all()
    wrong = client.post("/page/cut", params=box | {"x1": 81}, content=png(pixels))
    assert "[10, 20, 81, 30] is not inside the picture of 80 x 60 pixels" in wrong.json()["error"]


@pytest.mark.parametrize("fit", ["auto", "crop", "pad"])
def test_the_frame_is_the_window_that_the_edit_uses(client: TestClient, model: EditModel, fit: str) -> None:
    marked = np.zeros((480, 640), bool)
    marked[20:90, 10:60] = True
    window = client.get("/page/window", params=ASKED | {"fit": fit, "context": 0.5}).json()["window"]
    settings = EditSettings(fit=fit, context=0.5)  # type: ignore[arg-type]
    assert window == lay_canvas(marked, model.config.image_size, settings).window.as_list()


def test_malformed_questions_are_one_sentence_and_leave_no_traceback(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    questions = [
        ("GET", "/page/window", {name: value}) for name in ASKED for value in ("", "-1", "x", "9" * 99, "²")
    ]
    questions += [("GET", "/page/window", {"fit": "magic"}), ("GET", "/page/window", {"context": "nan"})]
    questions += [("GET", "/page/window", {"x1": 5}), ("POST", "/page/look", {"kind": "x" * 999})]
    questions += [("POST", f"/page/{name}", ASKED) for name in ("look", "mask", "strokes", "cut")]
    for method, path, query in questions:
        answer = client.request(
            method, path, params=ASKED | query, content=b"junk" if method == "POST" else None
        )
        assert 400 <= answer.status_code < 500 or answer.json() == {"window": None}, (
            path,
            query,
            answer.text,
        )
        if answer.status_code != 200:
            assert list(answer.json()) == ["error"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_too_many_pixels_are_refused_before_they_are_decoded(client: TestClient) -> None:
    content = io.BytesIO()
    Image.new("1", (2000, 2000)).save(content, "PNG")
    answer = client.post("/page/look", params={"kind": "exemplar"}, content=content.getvalue())
    assert answer.status_code == 413
    assert "the exemplar is 2000 x 2000 pixels; at most 1 million are allowed" in answer.json()["error"]


def test_an_offered_picture_comes_whole_or_small(client: TestClient) -> None:
    whole = client.get("/page/offered", params={"name": PICTURE.name})
    assert whole.content == PICTURE.read_bytes()
    assert whole.headers["content-type"] == "image/jpeg"
    small = client.get("/page/offered", params={"name": PICTURE.name, "small": "1"})
    assert max(picture_of(small.content).shape) == 160
    example = client.get("/page/example", params={"name": "another dog", "file": "mask"})
    assert example.content == MASK.read_bytes()


def test_only_pictures_inside_the_offered_folder_are_offered(secret: Path) -> None:
    root = secret.parent / "offered"
    (root / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png"):
        (root / name).write_bytes(secret.read_bytes())
    (root / "notes.txt").write_text("not a picture")
    (root / "link.png").symlink_to(secret)
    (root / "inner.png").symlink_to(root / "a.png")
    assert offered(root.resolve()) == ["a.png", "deep/b.png", "inner.png"]
    folder = Folder(root)
    assert folder.read("deep/b.png") == secret.read_bytes()
    for name in ("../secret.png", "link.png", str(secret), "notes.txt", "deep/../../secret.png"):
        with pytest.raises(UserError, match="is not among the pictures offered"):
            folder.read(name)
    (root / "a.png").unlink()
    (root / "a.png").symlink_to(secret)
    with pytest.raises(UserError, match=r"a\.png is not among the pictures offered"):
        folder.read("a.png")


def test_an_edit_reports_its_steps_before_its_answer(client: TestClient) -> None:
    plain = client.post("/api/edit", json=body(num_images=2)).json()
    answer = client.post("/api/edit", json=body(num_images=2), headers={"Accept": LINES})
    assert answer.headers["content-type"].startswith(LINES)
    *steps, last = [json.loads(line) for line in answer.text.splitlines()]
    assert steps == [{"step": 1, "steps": 2}, {"step": 2, "steps": 2}]
    assert last["images"] == plain["images"]
    refused = client.post("/api/edit", json=body(mask="no"), headers={"Accept": LINES})
    assert (refused.status_code, list(refused.json())) == (400, ["error"])


def test_an_edit_ends_when_the_page_stops_listening(app: Gate) -> None:
    with running(app) as port, httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        long = body(num_inference_steps=500, num_images=8)
        with client.stream("POST", "/api/edit", json=long, headers={"Accept": LINES}) as heard:
            assert json.loads(next(heard.iter_lines())) == {"step": 1, "steps": 1000}
        assert client.post("/api/edit", json=body()).status_code == 200, (
            "it has its turn long before 1000 steps"
        )


WRONG = [
    (["--port", "99999"], 2, "--port 99999 must be between 0 and 65535"),
    (["--max-images", "0"], 2, "--max-images 0 must be more than 0"),
    (["--max-waiting", "-1"], 2, "--max-waiting -1 must be 0 or more"),
    (["--token", "short"], 2, "--token TEXT must be 8 to 200 letters, digits and . _ ~ -"),
    (["--host", ""], 2, "--host is empty; give an address"),
    (["--output-dir", "README.md"], 2, "--output-dir README.md is a file; give a folder"),
    (["--host-name", "http://lab:7860"], 2, "--host-name http://lab:7860 must be a name alone"),
    (["--input", "no/folder"], 2, "--input no/folder is neither a folder nor a picture"),
    (["--model", "configs"], 1, "configs is not a model folder: it has no model_index.json"),
    (["--device", "abacus"], 2, "--device abacus does not exist on this machine"),
]


@pytest.mark.parametrize(("words", "code", "sentence"), WRONG, ids=[case[2][:30] for case in WRONG])
def test_wrong_options_are_one_sentence(
    words: list[str], code: int, sentence: str, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--model", str(model_folder), *words]) == code
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_the_docs_name_every_option_and_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # no option is broken at a hyphen
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    docs = (ROOT / "docs" / "web.md").read_text()
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help", "--debug", "--model"}
    assert options == set(re.findall(r"--[a-z][a-z-]+", docs)) - {"--model"}
    for name in EditBody.model_fields.keys() - {"batch_size"}:
        assert f"`{name}`" in docs


def test_a_taken_port_is_one_sentence(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        words = ["serve", "--model", str(model_folder), "--port", str(server.server_port)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.environ", dict(os.environ))
            assert main(words) == 1
    error = f"cannot listen on 127.0.0.1:{server.server_port} (Address already in use); take another --port"
    assert error in capsys.readouterr().err


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_of_another_machine_is_one_sentence(
    model_folder: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", dict(os.environ))
        assert main(["serve", "--model", str(model_folder), "--host", host, "--port", "0"]) == 1
    error = f"error: --host {host} is not an address of this machine; give one that is\n"
    assert error in capsys.readouterr().err
