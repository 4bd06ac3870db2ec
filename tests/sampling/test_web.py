"""The page's server without a browser: what it gives out, and what it does not."""

import base64
import http.server
import io
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from intarsia.model import EditModel
from sampling.cli import main
from sampling.painters.own import painting_with
from sampling.pictures import read_picture
from sampling.provenance import pattern, read_provenance
from sampling.settings import MachineSettings
from sampling.web.api import EditBody
from sampling.web.events import offered, taker
from sampling.web.gate import Gate
from sampling.web.server import build_app
from sampling.web.service import Limits, Service
from sampling.web.visitors import visitors_of
from tests.paths import COCO_MINI, ROOT
from tests.sampling.serving import running

PICTURE = COCO_MINI / "images" / "000000017029.jpg"
MASK, EXEMPLAR = ROOT / "examples/edits/dog.mask.png", ROOT / "examples/edits/hydrant.exemplar.jpg"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that all files of the page lie in."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        patch.setenv("GRADIO_EXAMPLES_CACHE", str(folder / "examples"))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        yield folder


@pytest.fixture  # one for each: the page's framework is bound to its first event loop
def app(model: EditModel, model_folder: Path, place: Path) -> Gate:
    shared = pattern(model_folder, MachineSettings(device="cpu"))
    service = Service(painting_with(model), shared, place / "results", Limits(megapixels=1.0))
    return build_app(service, visitors_of("127.0.0.1"), COCO_MINI / "images", 4)


@pytest.fixture(scope="module")
def client(model: EditModel, model_folder: Path, place: Path) -> Iterator[TestClient]:
    shared = pattern(model_folder, MachineSettings(device="cpu"))
    service = Service(painting_with(model), shared, place / "results", Limits(megapixels=1.0))
    app = build_app(service, visitors_of("127.0.0.1"), COCO_MINI / "images", 4)
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        yield client


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.png"
    Image.fromarray(np.full((40, 40, 3), 77, np.uint8)).save(path)
    return path


def upload(client: TestClient, path: Path) -> str:
    answer = client.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())})
    assert answer.status_code == 200
    return answer.json()[0]


def fetch(client: TestClient, path: str | Path) -> Any:
    return client.get(f"/gradio_api/file={path}")


def event(client: TestClient, output: str) -> dict[str, Any]:
    """The page's event whose first output has this elem_id."""
    config = client.get("/config").json()
    ids = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
    return next(one for one in config["dependencies"] if one["outputs"] and ids[one["outputs"][0]] == output)


def target(client: TestClient, name: str) -> int:
    """The number of the event of the button with this elem_id."""
    config = client.get("/config").json()
    ids = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
    return next(one["id"] for one in config["dependencies"] if ids.get(one["targets"][0][0]) == name)


def send(client: TestClient, output: str, data: list[Any]) -> dict[str, Any]:
    """Do as the page does: join the queue, and wait for the last message."""
    body = {"data": data, "fn_index": event(client, output)["id"], "session_hash": "test"}
    answer = client.post("/gradio_api/queue/join", json=body)
    assert answer.status_code == 200, answer.text
    lines = client.get("/gradio_api/queue/data?session_hash=test").text.splitlines()
    messages = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return next(message for message in messages if message["msg"] == "process_completed")


def file_data(path: str | Path) -> dict[str, Any]:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, "orig_name": "x.png"}


def test_the_page_names_no_other_host_to_be_asked(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "Intarsia" in page.text
    head = page.text.split("window.gradio_config")[0]
    assert "https://" not in head.replace("https://127", "")
    assert "fonts.g" not in page.text + client.get("/theme.css").text
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False


def test_an_upload_can_be_fetched_and_nothing_else(client: TestClient, place: Path, secret: Path) -> None:
    assert fetch(client, upload(client, PICTURE)).content == PICTURE.read_bytes()
    up = "/".join([".."] * 12)
    attempts = [secret, "/etc/passwd", f"{up}/etc/passwd", f"{place}/uploads/{up}/etc/passwd", "README.md"]
    attempts += [
        f"{place}/uploads/%2e%2e/results/inputs",
        f"{place}/results",
        f"file://{secret}",
        "//etc/passwd",
    ]
    attempts += [ROOT / "README.md", "http://127.0.0.1:1/x.png", "%68ttp://127.0.0.1:1/x", f"{up}{secret}"]
    for attempt in attempts:
        answer = fetch(client, attempt)
        assert answer.status_code in (403, 404), attempt
        assert b"root:" not in answer.content
        assert answer.content != secret.read_bytes()
    for path in (
        f"/static/{up}/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fetc/passwd",
        f"/svelte/{up}/etc/passwd",
    ):
        answer = client.get(path)
        assert answer.status_code in (403, 404), path
        assert b"root:" not in answer.content


def test_a_path_that_was_not_uploaded_is_no_input(client: TestClient, secret: Path) -> None:
    before = send(client, "editor", [file_data(upload(client, PICTURE))])
    assert before["success"], "the same with an upload works"
    for path in (secret, f"/tmp/../{secret}", PICTURE):
        answer = send(client, "editor", [file_data(path)])
        assert not answer["success"], path
        bare = send(client, "editor", [{"path": str(path)}])
        assert not bare["success"], path


def test_what_is_being_sent_is_not_cut_short_when_it_is_shown_again(client: TestClient) -> None:
    shown = send(client, "editor", [file_data(upload(client, PICTURE))])
    path = Path(shown["output"]["data"][0]["background"]["path"])
    with path.open("rb") as sent:
        size = os.fstat(sent.fileno()).st_size
        again = send(client, "editor", [file_data(upload(client, PICTURE))])
        assert again["output"]["data"][0]["background"]["path"] == str(path)
        assert os.fstat(sent.fileno()).st_nlink == 0, "another file took its place"
        assert len(sent.read()) == size


def test_an_address_is_not_fetched_for_a_visitor(client: TestClient) -> None:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for host in ("127.0.0.1", "localhost"):
            answer = send(client, "editor", [file_data(f"http://{host}:{server.server_port}/x.png")])
            assert not answer["success"]
        server.shutdown()
    assert asked == []


def test_an_edit_through_the_page(client: TestClient, place: Path, tmp_path: Path) -> None:
    values = [file_data(upload(client, PICTURE)), None, file_data(upload(client, MASK)), False]
    values += [file_data(upload(client, EXEMPLAR)), 5, 2, "ddim", 7, 2, "auto", 1, 0, "none", "crop"]
    answer = send(client, "gallery", values)
    assert answer["success"], answer
    gallery, files = answer["output"]["data"][:2]
    assert [item["caption"] for item in gallery] == ["seed 7", "seed 8"]
    for item in files:
        content = fetch(client, item["path"]).content
        (tmp_path / "edit.png").write_bytes(content)
        kept = read_provenance(tmp_path / "edit.png")
        assert Path(kept.image.path).read_bytes() == PICTURE.read_bytes(), "the picture came as it was"
        result, picture = read_picture(tmp_path / "edit.png"), read_picture(PICTURE)
        outside = read_picture(MASK)[..., 0] < 128
        assert (result[outside] == picture[outside]).all()
        assert (result[~outside] != picture[~outside]).any()
    inside = [path for path in place.rglob("edit-*.png") if path.parent == place / "results"]
    assert len(inside) == 2
    assert fetch(client, inside[0]).status_code == 403, "only the page's own copies are given out"


def test_an_edit_is_stopped_by_its_button(app: Gate) -> None:
    with running(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        values = [file_data(upload(client, PICTURE)), None, file_data(upload(client, MASK)), False]
        values += [file_data(upload(client, EXEMPLAR)), 5, 200, "ddim", 0, 8, "auto", 1, 0, "none", "crop"]
        body = {"data": values, "fn_index": event(client, "gallery")["id"], "session_hash": "a"}
        assert client.post("/gradio_api/queue/join", json=body).status_code == 200
        with client.stream("GET", "/gradio_api/queue/data?session_hash=a") as heard:
            lines = heard.iter_lines()
            assert any("steps" in line for line in lines), "it paints"
            stop = {"data": [], "fn_index": target(client, "stop"), "session_hash": "a"}
            assert client.post("/gradio_api/run/predict", json=stop).status_code == 200
            assert any("the edit was stopped" in line for line in lines)


def test_the_edit_of_a_visitor_who_leaves_the_page_ends(app: Gate) -> None:
    with running(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        values = [file_data(upload(client, PICTURE)), None, file_data(upload(client, MASK)), False]
        values += [file_data(upload(client, EXEMPLAR)), 5, 200, "ddim", 0, 8, "auto", 1, 0, "none", "crop"]
        body = {"data": values, "fn_index": event(client, "gallery")["id"], "session_hash": "b"}
        with client.stream("GET", "/gradio_api/heartbeat/b") as alive:
            beats = alive.iter_lines()  # held: the stream is closed with it
            assert next(beats) == "data: ALIVE"
            assert client.post("/gradio_api/queue/join", json=body).status_code == 200
            with client.stream("GET", "/gradio_api/queue/data?session_hash=b") as heard:
                assert any("steps" in line for line in heard.iter_lines()), "it paints"
        other = {"image": MASK, "mask": MASK, "exemplar": EXEMPLAR}
        files = {name: base64.b64encode(path.read_bytes()).decode() for name, path in other.items()}
        answer = client.post("/api/edit", json=files | {"num_inference_steps": 1, "scheduler": "ddim"})
        assert answer.status_code == 200, "it has its turn long before 400 steps"


MISTAKES = [
    ([None, None, None, False, None], "there is no picture yet; drop one into field 1"),
    (
        [PICTURE, None, None, False, None],
        "there is no exemplar yet; drop a picture of the object into field 3",
    ),
    ([PICTURE, None, None, False, EXEMPLAR], "nothing is marked yet; paint over what is to be repainted"),
    ([ROOT / "README.md", None, MASK, False, EXEMPLAR], "the image is not a picture that can be read"),
    ([PICTURE, None, EXEMPLAR, False, EXEMPLAR], "give a mask of the same size"),
]


@pytest.mark.parametrize(("files", "sentence"), MISTAKES, ids=[case[1][:30] for case in MISTAKES])
def test_a_mistake_is_one_sentence_on_the_page(client: TestClient, files: list[Any], sentence: str) -> None:
    values = [file_data(upload(client, item)) if isinstance(item, Path) else item for item in files]
    answer = send(client, "gallery", [*values, 5, 2, "ddim", 0, 1, "auto", 1, 0, "none", "crop"])
    assert not answer["success"]
    assert sentence in str(answer["output"]["error"])


def test_too_many_pixels_are_refused_before_they_are_decoded(client: TestClient, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("1", (2000, 2000)).save(content, "PNG")
    (tmp_path / "large.png").write_bytes(content.getvalue())
    answer = send(client, "editor", [file_data(upload(client, tmp_path / "large.png"))])
    assert not answer["success"]
    assert "the image is 2000 x 2000 pixels; at most 1 million are allowed" in str(answer["output"]["error"])


def test_only_pictures_inside_the_offered_folder_are_offered(client: TestClient, secret: Path) -> None:
    root = secret.parent / "offered"
    (root / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png"):
        (root / name).write_bytes(secret.read_bytes())
    (root / "notes.txt").write_text("not a picture")
    (root / "link.png").symlink_to(secret)
    (root / "inner.png").symlink_to(root / "a.png")
    assert offered(root.resolve()) == ["a.png", "deep/b.png", "inner.png"]
    service = Service(None, None, secret.parent / "kept", Limits())  # type: ignore[arg-type]
    take = taker(service, root.resolve())
    assert Path(take("deep/b.png")).read_bytes() == secret.read_bytes()
    for name in ("../secret.png", "link.png", str(secret), "notes.txt", "deep/../../secret.png"):
        with pytest.raises(gr.Error, match="is not among the pictures offered"):
            take(name)


WRONG = [
    (["--port", "99999"], 2, "--port 99999 must be between 0 and 65535"),
    (["--max-images", "0"], 2, "--max-images 0 must be more than 0"),
    (["--max-waiting", "-1"], 2, "--max-waiting -1 must be 0 or more"),
    (["--token", "short"], 2, "--token TEXT must be 8 to 200 letters, digits and . _ ~ -"),
    (["--host-name", "http://lab:7860"], 2, "--host-name http://lab:7860 must be a name alone"),
    (["--input", "no/folder"], 2, "--input no/folder is not a folder"),
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


def test_the_docs_name_every_option_and_setting(capsys: pytest.CaptureFixture[str]) -> None:
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
    assert f"cannot listen on 127.0.0.1:{server.server_port}" in capsys.readouterr().err
