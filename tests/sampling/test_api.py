"""POST /api/edit and the gate before it, on a tiny model."""

import base64
import io
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.applications import Starlette
from starlette.testclient import TestClient

from intarsia.model import EditModel
from sampling import EditSettings, edit
from sampling.painters.own import painting_with
from sampling.provenance import pattern, read_provenance
from sampling.settings import MachineSettings
from sampling.web.api import add_api
from sampling.web.gate import BodyLimits, Gate
from sampling.web.line import Waiting
from sampling.web.service import Limits, Service, named
from sampling.web.visitors import visitors_of
from tests.sampling.tiny import request

ASKED = request(3)
LIMITS = Limits(megapixels=0.02, upload_mb=1, num_images=2, waiting=1)
BODY_LIMITS = BodyLimits(1 << 20, 8 << 20)


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


FILES = {"image": png(ASKED.image), "mask": png(np.asarray(ASKED.edit_mask)), "exemplar": png(ASKED.exemplar)}
BODY = {name: text(content) for name, content in FILES.items()} | {"num_inference_steps": 2, "seed": 3}


@pytest.fixture
def service(model: EditModel, model_folder: Path, tmp_path: Path) -> Service:
    shared = pattern(model_folder, MachineSettings(device="cpu"))
    return Service(painting_with(model), shared, tmp_path / "out", LIMITS)


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    app = Starlette()
    add_api(app, service, batch_size=4)
    gate = Gate(app, BODY_LIMITS, visitors_of("127.0.0.1"))
    with TestClient(gate, base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        yield client


def test_the_answer_is_the_edit_that_python_makes(
    client: TestClient, model: EditModel, tmp_path: Path
) -> None:
    answer = client.post("/api/edit", json=BODY | {"num_images": 2})
    assert answer.status_code == 200
    content = answer.json()
    assert [image["seed"] for image in content["images"]] == [3, 4]
    (tmp_path / "first.png").write_bytes(base64.b64decode(content["images"][0]["png"]))
    with Image.open(tmp_path / "first.png") as image:
        painted = np.asarray(image).astype(int)
    [alone] = edit(model, [ASKED], EditSettings(num_inference_steps=2))
    assert np.abs(painted - alone.image).max() <= 1
    assert (painted[~ASKED.edit_mask] == ASKED.image[~ASKED.edit_mask]).all()
    assert read_provenance(tmp_path / "first.png").seed == 3
    assert set(content["seconds"]) == {"fit", "encode", "denoise", "decode", "paste"}
    assert content["images"][0]["window"] == [0, 0, 64, 64]


def test_a_data_url_is_base64_too(client: TestClient) -> None:
    named = BODY | {"image": "data:image/png;base64," + BODY["image"]}
    assert (
        client.post("/api/edit", json=named).json()["images"]
        == client.post("/api/edit", json=BODY).json()["images"]
    )


def test_what_was_given_is_kept_for_making_it_again(client: TestClient, service: Service) -> None:
    client.post("/api/edit", json=BODY)
    [result] = service.folder.glob("*.png")
    kept = read_provenance(result)
    for name, content in FILES.items():
        assert Path(getattr(kept, name).path).read_bytes() == content


def test_without_a_folder_of_ones_own_old_files_go(client: TestClient, service: Service) -> None:
    service.limits = replace(LIMITS, keep_seconds=1000.0)
    client.post("/api/edit", json=BODY)
    old = [path for path in service.folder.rglob("*") if path.is_file()]
    assert len(old) == 4
    for path in old:
        os.utime(path, (0, 0))
    other = {"exemplar": text(png(ASKED.exemplar[::-1]))}
    assert client.post("/api/edit", json=BODY | other).status_code == 200
    left = {path for path in service.folder.rglob("*") if path.is_file()}
    gone = set(old) - left
    assert len(gone) == 2, "the old result and exemplar; picture and mask were given again"
    assert len(left) == 4


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"image": "no base64!"}, 400, "the image is not base64; send the file's bytes encoded so"),
    ({"mask": text(b"no picture")}, 400, "the mask is not a picture that can be read; give a PNG"),
    ({"exemplar": text(FILES["exemplar"][:60])}, 422, "the exemplar cannot be read"),
    ({"image": 5}, 400, "/api/edit: image=5: Input should be a valid string"),
    ({"blend": 10**30}, 400, "blend=1000000000000000000000000000000: Input should be less than or equal"),
    ({"image": None}, 400, "/api/edit: image=None"),
    (
        {"mask": text(png(np.zeros((64, 64), np.uint8)))},
        422,
        "the mask has no white (128 or more of 255): its brightest pixel has 0, so it",
    ),
    (
        {"mask": text(png(np.full((8, 64), 255, np.uint8)))},
        422,
        "the mask is 64 x 8 pixels but the picture 64 x 64",
    ),
    (
        {"image": text(png(np.zeros((200, 200), np.uint8)))},
        413,
        "the image is 200 x 200 pixels; at most 0.02 million",
    ),
    (
        {"exemplar": text(png(np.zeros((40, 40, 4), np.uint8)))},
        422,
        "the exemplar is completely transparent; its alpha",
    ),
    ({"guidance_scale": -1}, 400, "guidance_scale=-1: Input should be greater than or equal to 0"),
    ({"scheduler": "magic"}, 400, "scheduler='magic'"),
    ({"scheduler": "ddim", "karras": True}, 400, "karras works with"),
    ({"seed": -1}, 400, "seed=-1"),
    ({"seed": "many"}, 400, "seed='many'"),
    ({"num_images": 3}, 400, "num_images=3: at most 2 in a request"),
    ({"num_images": 0}, 400, "num_images=0"),
    ({"batch_size": 99}, 400, "batch_size is the server's own; leave it out"),
    ({"colour": "red"}, 400, "unknown key 'colour'"),
    ({"exemplar_background": "forest"}, 400, "exemplar_background='forest'"),
]


@pytest.mark.parametrize(("change", "status", "sentence"), BAD, ids=[case[2][:40] for case in BAD])
def test_a_bad_input_is_one_sentence(
    client: TestClient, service: Service, change: dict[str, Any], status: int, sentence: str
) -> None:
    answer = client.post("/api/edit", json=BODY | change)
    error = answer.json()["error"]
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert sentence in error
    assert "\n" not in error
    assert str(service.folder) not in error, "where files are kept is told to nobody"
    assert not list(service.folder.glob("*.png"))


BODIES = [(b"{", 400, "the body is not valid JSON"), (b"[1]", 400, "the body must be an object with image")]
BODIES += [(b"[" * 100_000, 400, "the body is not valid JSON"), (b"\xff", 400, "the body is not valid JSON")]
# Half of a pair of UTF-16, which no text in UTF-8 can hold.
HALVES: list[dict[str, Any]] = [BODY | {"prompt": "\ud800"}, BODY | {"structure": {"edges": ["\ud800"]}}]
BODIES += [(json.dumps(body).encode(), 400, "surrogates not allowed") for body in HALVES]


@pytest.mark.parametrize(("body", "status", "sentence"), BODIES, ids=map(str, range(len(BODIES))))
def test_a_body_that_is_no_order(client: TestClient, body: bytes, status: int, sentence: str) -> None:
    answer = client.post("/api/edit", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert sentence in answer.json()["error"]


def beside_pixels(where: str) -> bytes:
    """A picture with more than 1 MiB beside its pixels."""
    note, content = PngInfo(), io.BytesIO()
    note.add_text("comment", "x" * (3 << 20), zip=True)
    more = {"text": {"pnginfo": note}, "profile": {"icc_profile": bytes(3 << 20)}}[where]
    Image.fromarray(ASKED.image).save(content, "PNG", **more)
    return content.getvalue()


@pytest.mark.parametrize("where", ["text", "profile"])
def test_a_png_with_too_much_beside_its_pixels_is_a_picture_all_the_same(
    client: TestClient, where: str
) -> None:
    answer = client.post("/api/edit", json=BODY | {"image": text(beside_pixels(where))})
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "the image cannot be read: its text or colour profile has more than 1 MiB; save it again without "
        "metadata"
    )


def test_a_sentence_names_files_and_keeps_its_words(tmp_path: Path) -> None:
    same = tmp_path / "0123.png"  # files are kept by their content
    files = {"mask": same, "exemplar": tmp_path / "4567.png", "exemplar_mask": same}
    sentence = f"exemplar mask {same} is small, and exemplar {files['exemplar']} large; see picture {same}"
    assert named(sentence, files) == "the exemplar mask is small, and the exemplar large; see the mask"


def test_other_methods_types_and_paths(client: TestClient) -> None:
    assert client.get("/api/edit").status_code == 405
    assert client.get("/api/edit").headers["allow"] == "POST"
    assert client.post("/api/paint", json=BODY).status_code == 404
    # A form or plain text is what another site's page can send without being asked.
    plain = client.post("/api/edit", content=json.dumps(BODY), headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    assert "application/json" in plain.json()["error"]


def test_too_large_a_body_is_not_read(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * (1 << 16)

    headers = {"Content-Type": "application/json"}
    told = client.post("/api/edit", content=b" " * (3 << 20), headers=headers)
    untold = client.post("/api/edit", content=pieces(), headers=headers)
    for answer in (told, untold):
        assert answer.status_code == 413
        assert answer.json()["error"] == "a request takes at most 1 MB; scale the pictures down first"


def test_a_full_line_is_told_so(client: TestClient, service: Service) -> None:
    with service.line.place(), service.line.place():  # one at work, one waiting
        answer = client.post("/api/edit", json=BODY)
    assert answer.status_code == 503
    assert answer.json()["error"] == "1 edits are waiting already; try again in a minute"
    assert answer.headers["retry-after"] == "60"
    assert client.post("/api/edit", json=BODY).status_code == 200


def test_waiting_edits_are_made_in_turn(client: TestClient, service: Service) -> None:
    answers: list[int] = []
    with service.line.turn(Waiting(threading.Event())):
        ask = [
            threading.Thread(
                target=lambda seed: answers.append(
                    client.post("/api/edit", json=BODY | {"seed": seed}).status_code
                ),
                args=(seed,),
            )
            for seed in range(2)
        ]
        for thread in ask:
            thread.start()
        for thread in ask:
            thread.join(0.2)
        assert answers == [], "nothing is painted while another edit has the turn"
    for thread in ask:
        thread.join()
    assert answers == [200, 200]


def test_a_defect_is_a_sentence_for_the_visitor_and_a_traceback_in_the_log(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(service, "paint", broken)
    answer = client.post("/api/edit", json=BODY)
    assert answer.status_code == 500
    assert answer.json() == {"error": "the edit failed; the server's log says why"}
    assert "secret detail" in caplog.text


def test_a_foreign_host_name_is_not_answered(client: TestClient) -> None:
    answer = client.post("/api/edit", json=BODY, headers={"Host": "evil.example"})
    assert answer.status_code == 421
    assert client.post("/api/edit", json=BODY, headers={"Host": "127.0.0.1:99"}).status_code == 200


def test_the_limit_of_kept_bytes_is_hard(client: TestClient, service: Service) -> None:
    service.limits = replace(LIMITS, keep_seconds=1000.0, keep_mb=1)
    (service.folder / "inputs").mkdir(parents=True)
    full = service.folder / "inputs" / "of-another-visitor.png"
    full.write_bytes(bytes(1 << 20))
    answer = client.post("/api/edit", json=BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert answer.json() == {"error": "this server's room for files is full; try again in a minute"}
    assert [path for path in service.folder.rglob("*") if path.is_file()] == [full], "nothing was added"
    os.utime(full, (full.stat().st_mtime - 100,) * 2)
    assert client.post("/api/edit", json=BODY).status_code == 200, "an old file makes room"
    assert not full.exists()
