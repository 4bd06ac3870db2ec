"""The painter `iopaint`, against a stand-in of IOPaint's endpoint."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sampling.cli import main as sample
from sampling.painters.painter import painter_of
from sampling.provenance import read_provenance
from tests.sampling.iopaint_server import StandIn, stand_in
from tests.sampling.tiny import assert_made_again, request

COLOUR = [200, 30, 60]


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    asked = request(3, 91, 70)
    pixels = {"image": asked.image, "mask": np.asarray(asked.edit_mask), "exemplar": asked.exemplar}
    for name, own in pixels.items():
        Image.fromarray(own).save(tmp_path / f"{name}.png")
    return {name: tmp_path / f"{name}.png" for name in pixels}


def command(server: StandIn, files: dict[str, Path], model: str, out: Path, *more: str) -> list[str]:
    named = [word for name in ("image", "mask") for word in (f"--{name}", str(files[name]))]
    return ["edit", "--model", model, "--iopaint-url", server.url, *named, "--out", str(out), *more]


def sent(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_the_server_gets_picture_and_mask_and_the_picture_stays_outside(
    server: StandIn, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    assert sample(command(server, files, "iopaint:mat", out, "--seed", "7")) == 0
    assert server.model == "mat"
    image, mask, made = (np.asarray(Image.open(path)) for path in (files["image"], files["mask"], out))
    assert (made == np.where(mask[..., None], COLOUR, image)).all()
    [body] = server.bodies
    assert (sent(body["image"]) == image).all()
    assert (sent(body["mask"]) == mask * 255).all()
    assert body["sd_seed"] == 7
    noted = read_provenance(out)
    assert (noted.painter, noted.model.path, noted.iopaint_url) == ("iopaint", "mat", server.url)
    assert_made_again(out, capsys)


def test_prompt_and_exemplar_reach_models_that_are_told_them(
    server: StandIn, files: dict[str, Path], tmp_path: Path
) -> None:
    text, pbe = "iopaint:runwayml/stable-diffusion-inpainting", "iopaint:Fantasy-Studio/Paint-by-Example"
    out, few = tmp_path / "out.png", ["--num-inference-steps", "9"]
    more = ["--prompt", "a dog", "--text-guidance-scale", "4", *few]
    assert sample(command(server, files, text, out, *more)) == 0
    more = ["--exemplar", str(files["exemplar"]), "--guidance-scale", "3", *few]
    assert sample(command(server, files, pbe, out, *more)) == 0
    told, shown = server.bodies
    assert (told["prompt"], told["sd_guidance_scale"], told["sd_steps"]) == ("a dog", 4.0, 9)
    assert (shown["sd_guidance_scale"], server.model) == (3.0, "Fantasy-Studio/Paint-by-Example")
    assert (sent(shown["paint_by_example_example_image"]) == np.asarray(Image.open(files["exemplar"]))).all()
    assert painter_of("iopaint").parts(Path("lama")) == ()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("status", 'answers 400 to inpaint: {"detail":"Image size and mask size not match."}'),
        ("size", "answers with 91 x 69 pixels to 91 x 70"),
        ("html", "does not answer with a picture"),
    ],
)
def test_answers_that_are_none(
    wrong: str,
    sentence: str,
    server: StandIn,
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.wrong = wrong
    assert sample(command(server, files, "iopaint:lama", tmp_path / "out.png")) == 1
    assert capsys.readouterr().err == f"error: IOPaint at {server.url} {sentence}\n"


def test_no_other_address_is_asked(
    server: StandIn, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stand_in() as other:
        server.wrong, server.elsewhere = "elsewhere", f"{other.url}/api/v1/model"
        assert sample(command(server, files, "iopaint:lama", tmp_path / "out.png")) == 1
        assert capsys.readouterr().err == f"error: IOPaint at {server.url} answers 302 to model: \n"
        assert other.bodies == []


def test_no_server(
    server: StandIn, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = command(server, files, "iopaint:lama", tmp_path / "out.png")
    server.shutdown()
    server.server_close()
    assert sample(asked) == 1
    shown = capsys.readouterr().err
    assert f"no IOPaint answers at {server.url} (" in shown and "give its address by --iopaint-url" in shown
    asked[asked.index(server.url)] = "127.0.0.1:8080"
    assert sample(asked) == 2
    assert "--iopaint-url 127.0.0.1:8080 must begin with http:// or https://" in capsys.readouterr().err
    assert sample(command(server, files, "iopaint", tmp_path / "out.png")) == 2
    assert "--model iopaint needs the name of a model of IOPaint" in capsys.readouterr().err
