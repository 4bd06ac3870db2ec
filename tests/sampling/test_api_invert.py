"""POST /api/invert: the endpoint makes what Python and the command make, behind the gate and in the line."""

import base64
import io
import json
import shlex
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from intarsia.model import EditModel
from intarsia.weights import save_model
from sampling.cli import main
from sampling.methods.request import InversionRequest
from sampling.methods.run_inversion import InversionResult, invert_edit
from sampling.painters.own import OwnPaint, painting_with
from sampling.provenance import pattern, read_provenance, remake_command
from sampling.settings import InversionSettings, MachineSettings
from sampling.web.api import add_api
from sampling.web.gate import BodyLimits, Gate
from sampling.web.service import Limits, Service
from sampling.web.visitors import visitors_of
from tests.sampling.serving import read, running
from tests.sampling.test_api import ASKED, BODY_LIMITS, FILES, LIMITS, text
from tests.sampling.test_invert_prompts import folder, model
from tests.sampling.test_stop import until
from tests.sampling.tiny import tiny_model

PICTURES = {name: text(content) for name, content in FILES.items()}
SHORT = {"num_inference_steps": 2}
SAID = {"image": PICTURES["image"], "source": "a round cat", "target": "a round dog"} | SHORT
__all__ = ["folder", "model"]  # fixtures: a tiny model with prompts, and its folder


def app_of(model: EditModel, folder: Path, out: Path, parts: tuple[str, ...]) -> Gate:
    shared = pattern(folder, MachineSettings(device="cpu"))
    app = Starlette()
    add_api(app, Service(painting_with(model), shared, out, LIMITS, parts), batch_size=4)
    return Gate(app, BODY_LIMITS, visitors_of("127.0.0.1"))


@pytest.fixture
def prompts(model: EditModel, folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    gate = app_of(model, folder, tmp_path / "out", ("text",))
    with TestClient(gate, base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def exemplars(tmp_path: Path) -> Iterator[TestClient]:
    own = tiny_model(1)
    save_model(own, tmp_path / "exemplars")
    gate = app_of(own, tmp_path / "exemplars", tmp_path / "out", ("exemplar",))
    with TestClient(gate, base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        yield client


def pixels(content: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image).astype(int)


def test_the_answer_is_the_inversion_that_python_makes(prompts: TestClient, model: EditModel) -> None:
    more = {"coupling": "p2p", "words": {"cat": "dog"}, "reweight": {"dog": 2}}
    answer = prompts.post("/api/invert", json=SAID | more)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    own = InversionSettings(num_inference_steps=2, coupling=("p2p",))
    request = InversionRequest(
        ASKED.image,
        source_prompt="a round cat",
        target_prompt="a round dog",
        words=(("cat", "dog"),),
        reweight=(("dog", 2.0),),
    )
    alone = invert_edit(model, request, own)
    assert np.abs(pixels(told["png"]) - alone.image).max() <= 1
    assert np.abs(pixels(told["reconstruction"]) - alone.reconstruction).max() <= 1
    assert (told["calls"], told["rows"]) == (alone.calls, alone.rows)
    assert told["latent_error"] == 0
    assert told["background_psnr"] is None, "there is no mask"
    assert told["notes"] == []


def test_the_result_says_how_it_was_made(prompts: TestClient, tmp_path: Path) -> None:
    more = {
        "coupling": ["masactrl-masks"],
        "words": {"cat": "dog"},
        "method": "null-text",
        "seed": 5,
        "inner_steps": 2,
    }
    told = prompts.post("/api/invert", json=SAID | more).json()
    (tmp_path / "it.png").write_bytes(base64.b64decode(told["png"]))
    provenance = read_provenance(tmp_path / "it.png")
    assert provenance.seed == 5
    words = shlex.split(remake_command(provenance, str(tmp_path / "again.png")))
    assert words[words.index("--words") + 1] == "cat=dog"
    assert main(words[3:]) == 0
    again = pixels(text((tmp_path / "again.png").read_bytes()))
    assert np.abs(again - pixels(told["png"])).max() <= 1


def test_an_exemplar_model_keeps_what_is_outside_the_mask(exemplars: TestClient) -> None:
    body = PICTURES | SHORT | {"coupling": "context,background", "composite": True}
    told = exemplars.post("/api/invert", json=body).json()
    kept = ~ASKED.edit_mask.astype(bool)
    assert (pixels(told["png"])[kept] == ASKED.image[kept]).all()
    assert told["background_psnr"] > 0
    other = exemplars.post("/api/invert", json=body | {"coupling": "background"}).json()
    assert told["png"] != other["png"]


@pytest.mark.parametrize(
    ("more", "status", "sentence"),
    [
        ({"target": ""}, 400, "the target prompt is missing"),
        ({"words": {"cat": "dog"}}, 400, "act on attention to words; add the coupling p2p"),
        ({"words": "cat=dog"}, 400, "words"),
        ({"coupling": "p2q"}, 400, "coupling='p2q': 'p2q' is not one of"),
        ({"coupling": "pnp,pnp"}, 400, "coupling='pnp,pnp': pnp appears twice; name it once"),
        ({"coupling": 5}, 400, "coupling=5: Input should be a valid tuple"),
        ({"coupling": "background"}, 400, "keeps what is outside the mask; give a mask"),
        ({"coupling": "masactrl-masks"}, 400, "needs to know where the object is"),
        ({"method": "style"}, 400, "method"),
        ({"inner_steps": 101}, 400, "inner_steps"),
        ({"num_inference_steps": 501}, 400, "num_inference_steps"),
        ({"num_images": 2}, 400, "num_images"),
        ({"exemplar": PICTURES["image"]}, 400, "this model takes prompts only"),
        ({"image": "?"}, 400, "the image is not base64"),
        ({"image": text(b"no picture")}, 400, "the image is not a picture that can be read"),
        ({"coupling": "p2p", "words": {"cow": "dog"}}, 422, "the word 'cow' is not in the source prompt"),
        ({"mask": text(FILES["exemplar"])}, 422, "the mask"),
    ],
)
def test_whatever_is_wrong_is_one_sentence(
    prompts: TestClient, more: dict[str, Any], status: int, sentence: str
) -> None:
    answer = prompts.post("/api/invert", json=SAID | more)
    assert answer.status_code == status, answer.text
    assert sentence in answer.json()["error"]
    assert set(answer.json()) == {"error"}


def test_a_network_whose_numbers_break_answers_in_json(prompts: TestClient, model: EditModel) -> None:
    """JSON has no infinity: figures that are not finite are null."""
    weight = model.unet.conv_out.weight
    before = weight.detach().clone()
    try:
        with_nan = before.clone()
        with_nan[0] = float("nan")
        weight.data.copy_(with_nan)
        told = prompts.post("/api/invert", json=SAID | {"method": "ddim"})
    finally:
        weight.data.copy_(before)
    assert told.status_code == 200
    assert json.loads(told.text)["latent_error"] is None


def test_pages_of_other_sites_and_other_methods_are_refused(prompts: TestClient) -> None:
    assert prompts.get("/api/invert").status_code == 405
    assert prompts.post("/api/other", json=SAID).json()["error"].endswith("/api/edit and /api/invert here")
    foreign = prompts.post("/api/invert", json=SAID, headers={"Origin": "http://elsewhere.example"})
    assert foreign.status_code == 403
    form = prompts.post("/api/invert", content=json.dumps(SAID), headers={"Content-Type": "text/plain"})
    assert form.status_code == 415
    large = prompts.post("/api/invert", content=b" " * ((1 << 20) + 1))
    assert large.status_code == 413


def test_a_painter_that_cannot_invert_has_no_such_endpoint(folder: Path, tmp_path: Path) -> None:
    app = Starlette()
    service = Service(lambda *_: [], pattern(folder, MachineSettings(device="cpu")), tmp_path, LIMITS)
    add_api(app, service, batch_size=1)
    answer = TestClient(app).post("/api/invert", json=SAID)
    assert (answer.status_code, answer.json()) == (404, {"error": "there is only POST /api/edit here"})


class Slow(OwnPaint):
    """The painter, which counts calls of the UNet and notes the end of an inversion."""

    calls, ended = 0, threading.Event()

    def invert(self, *asked: Any) -> InversionResult:
        *most, on_step = asked

        def counted(done: int, total: int) -> None:
            self.calls += 1
            on_step(done, total)

        try:
            return super().invert(*most, counted)
        finally:
            self.ended.set()


def test_on_a_real_server_the_inversion_of_a_client_that_is_gone_ends(
    model: EditModel, folder: Path, tmp_path: Path
) -> None:
    painter = Slow(model)
    service = Service(painter, pattern(folder, MachineSettings(device="cpu")), tmp_path, Limits(), ("text",))
    app = Starlette()
    add_api(app, service, batch_size=1)

    def send(port: int, body: dict[str, Any]) -> socket.socket:
        content = json.dumps(body).encode()
        lines = ["POST /api/invert HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
        head = "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""])
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        connection.sendall(head.encode() + content)
        return connection

    with running(Gate(app, BodyLimits(1 << 20, 1 << 24), visitors_of("127.0.0.1"))) as port:
        with send(port, SAID | {"num_inference_steps": 500}):
            assert until(lambda: painter.calls > 1)
        assert until(painter.ended.is_set)
        assert painter.calls < 1000
        assert not list(tmp_path.glob("invert-*.png"))
        with send(port, SAID) as connection:  # the line has gone on
            answer = read(connection)
    assert b"200 OK" in answer.partition(b"\r\n")[0]
    assert len(list(tmp_path.glob("invert-*.png"))) == 1
