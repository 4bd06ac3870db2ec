"""The cascade: a large window is painted again at its own resolution, by every door."""

import base64
import csv
import io
import json
import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from intarsia.boxes import Box
from intarsia.conditions.low_res import area_mean, low_res_channels
from intarsia.errors import UserError
from intarsia.model import EditModel
from intarsia.weights import save_model
from sampling.cli import main
from sampling.denoise.condition import Encoder, LowRes
from sampling.editing import edit
from sampling.painters.own import painting_with
from sampling.provenance import pattern, read_provenance
from sampling.settings import EditSettings, MachineSettings
from sampling.upsampler.tiles import tiles
from sampling.upsampler.window import Told, upsample, upsampled_size
from sampling.web.api import add_api
from sampling.web.models import found_models
from sampling.web.service import Limits, Service
from tests.sampling.tiny import request, tiny_model

QUICK = EditSettings(num_inference_steps=2, fit="resize", guidance_scale=1.0)
STEPS = ("--num-inference-steps", "2", "--device", "cpu", "--fit", "resize")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def upsampler() -> EditModel:
    """An upsampler of 32 pixels, with weights for the low-resolution picture and its level."""
    model = tiny_model(5, "model.low_res={factor: 2}", "model.image_size=32")
    with torch.no_grad():
        model.unet.conv_in.weight[:, 9:] = model.unet.conv_in.weight[:, 4:7]
        model.unet.class_embedding.weight.normal_(generator=torch.Generator().manual_seed(0))
    return model


@pytest.fixture(scope="module")
def cascade(upsampler: EditModel) -> EditModel:
    model = tiny_model(2)
    model.upsampler = upsampler
    return model


@pytest.fixture(scope="module")
def folders(cascade: EditModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("cascade")
    save_model(cascade, root / "base")
    assert cascade.upsampler is not None
    save_model(cascade.upsampler, root / "upsampler")
    return {name: root / name for name in ("base", "upsampler")}


def test_a_large_window_is_painted_again_inside_the_mask_only(cascade: EditModel) -> None:
    own = request(4, 110, 90)
    small, [large] = edit(tiny_model(2), [own], QUICK)[0], edit(cascade, [own], QUICK)
    inside = np.asarray(own.edit_mask)
    assert np.array_equal(large.image[~inside], own.image[~inside])
    assert (large.image != small.image)[inside].any()
    assert large.remarks == small.remarks
    assert np.array_equal(edit(cascade, [own], QUICK)[0].image, large.image)
    other = edit(cascade, [replace(own, seed=8), own], QUICK)
    assert np.abs(other[1].image.astype(int) - large.image).max() <= 1
    assert (other[0].image != large.image).any()
    told = edit(cascade, [own], QUICK.model_copy(update={"low_res_noise": 200}))
    assert (told[0].image != large.image).any()
    whole = edit(cascade, [own], QUICK.model_copy(update={"composite": False}))[0].image
    assert np.array_equal(whole[inside], large.image[inside])
    assert (whole != large.image)[~inside].any()


def test_a_window_that_fits_the_square_is_left_to_the_model(cascade: EditModel) -> None:
    own = request(4)
    small, [large] = edit(tiny_model(2), [own], QUICK)[0], edit(cascade, [own], QUICK)
    assert np.array_equal(large.image, small.image)
    sentence = (
        "the upsampler was not used: the window of 64 x 64 pixels is not larger than the model's square"
    )
    assert [text for text in large.remarks if sentence in text]
    assert not [text for text in small.remarks if sentence in text]


def test_the_size_is_the_windows_or_the_factor_times_the_square() -> None:
    assert upsampled_size(Box(0, 0, 512, 300), 512, 2) is None
    assert upsampled_size(Box(0, 0, 900, 700), 512, 2) == (900, 700)
    assert upsampled_size(Box(10, 0, 2058, 1536), 512, 2) == (1024, 768)


def test_what_is_said_of_a_window_that_is_too_large(cascade: EditModel) -> None:
    [result] = edit(cascade, [request(1, 200, 100)], QUICK)
    [sentence] = [text for text in result.remarks if "upsampled" in text]
    assert "the window of 200 x 100 pixels is upsampled to 128 x 64, 2 times the model's square" in sentence
    assert result.image.shape == (100, 200, 3)


def test_each_pixel_of_the_hole_is_painted_once() -> None:
    hole = np.zeros((192, 256), bool)
    hole[20:150, 30:120] = True
    hole[170:180, 230:250] = True
    found = tiles(hole, 96, 8)
    painted = np.zeros(hole.shape, int)
    for tile, marked in found:
        assert max(tile.width, tile.height) == 96
        assert not any(edge % 8 for edge in (tile.x0, tile.y0, tile.x1, tile.y1))
        assert marked.any()
        tile.cut(painted)[marked] += 1
    assert np.array_equal(painted, hole)
    columns = sorted({tile.x0 for tile, _ in found})
    assert all(right - left <= 72 for left, right in pairwise(columns)), "they overlap"
    [(whole, marked)] = tiles(hole, 256, 8)
    assert (whole, marked.sum()) == (Box(0, 0, 256, 192), hole.sum())


def test_a_later_tile_sees_what_an_earlier_one_has_painted(upsampler: EditModel) -> None:
    """The second tile's low-resolution picture begins at column 32; columns 20 to 30 reach it as painted."""
    own = request(6, 96, 64)
    hole = np.zeros((64, 96), bool)
    hole[16:48, 20:90] = True
    base, told = own.image[::-1].copy(), Told(None, "", 3)
    settings = QUICK.model_copy(update={"scheduler": "ddim"})
    encoder, steps = Encoder(upsampler, CPU), []

    def painted(known: np.ndarray, base: np.ndarray) -> np.ndarray:
        return upsample(encoder, known, hole, base, told, settings, lambda *step: steps.append(step))

    made = painted(own.image, base)
    assert [tile.x0 for tile, _ in tiles(hole, 64, 4)] == [0, 32]
    assert steps == [(done, 4) for done in range(1, 5)]
    changed = own.image.copy()
    changed[hole] = 0
    assert np.array_equal(painted(changed, base), made), "what the picture shows in the hole is not seen"
    other = base.copy()
    other[:, 20:30] = 255 - other[:, 20:30]
    assert (painted(own.image, other)[16:48, 64:90] != made[16:48, 64:90]).any()
    other = np.where(hole[..., None], base, 0)
    assert np.array_equal(painted(own.image, other), made), "outside the hole the picture itself is shown"


def test_sampling_shows_what_training_shows(upsampler: EditModel) -> None:
    own, config = request(4, 32, 32), upsampler.config
    image = torch.from_numpy(own.image)[None]
    mask = torch.from_numpy(np.asarray(own.edit_mask).astype(np.uint8) * 255)[None]
    encoder, noise = Encoder(upsampler, CPU), torch.zeros(1, 4, 16, 16)
    low_res = area_mean(image, 2)
    condition = encoder.condition(image, mask, encoder.told([None], [""]), noise, low_res=LowRes(low_res, 40))
    assert torch.equal(condition.channels[:, 5:], low_res_channels(config, low_res, torch.tensor([40])))
    assert condition.levels is not None
    assert condition.levels.tolist() == [40]
    both = condition.select(torch.tensor([0, 0]))
    assert both.levels is not None
    assert both.levels.tolist() == [40, 40]


def test_what_cannot_be_is_refused(
    cascade: EditModel, upsampler: EditModel, folders: dict[str, Path], tmp_path: Path
) -> None:
    own = request(4, 110, 90)
    for model, settings, sentence in (
        (upsampler, QUICK, "this model is an upsampler, which needs a picture of another model"),
        (tiny_model(2), {"low_res_noise": 20}, "low_res_noise=20 needs an upsampler; give its folder"),
        (cascade, {"low_res_noise": 350}, "low_res_noise=350 is above the levels .* give at most 349"),
    ):
        settings = settings if isinstance(settings, EditSettings) else QUICK.model_copy(update=settings)
        with pytest.raises(UserError, match=sentence):
            edit(model, [own], settings)


def written(folder: Path, number: int = 4) -> dict[str, Path]:
    own = request(number, 110, 90)
    pixels = {"image": own.image, "mask": np.asarray(own.edit_mask).astype(np.uint8) * 255}
    pixels["exemplar"] = own.exemplar
    for name, value in pixels.items():
        Image.fromarray(value).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in pixels}


def test_a_result_says_how_it_was_made_and_is_made_again(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = written(tmp_path)
    given = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    out, again = tmp_path / "out.png", tmp_path / "again.png"
    more = ["--upsampler", str(folders["upsampler"]), "--low-res-noise", "30"]
    command = ["edit", "--model", str(folders["base"]), *given, *STEPS]
    assert main([*command, *more, "--out", str(out)]) == 0
    assert main([*command, "--out", str(tmp_path / "plain.png")]) == 0
    assert "upsampler" not in json.loads(Image.open(tmp_path / "plain.png").text["intarsia"])
    noted = read_provenance(out)
    assert noted.upsampler is not None
    assert noted.settings["low_res_noise"] == 30
    assert noted.work() != read_provenance(tmp_path / "plain.png").work()
    capsys.readouterr()
    assert main(["show", str(out)]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[words.index("--upsampler") + 1] == str(folders["upsampler"])
    words[words.index("--out") + 1] = str(again)
    assert main(words[3:]) == 0
    assert again.read_bytes() == out.read_bytes()
    for options, sentence in (
        (["--upsampler", str(folders["base"])], "paints without a low-resolution picture"),
        (["--low-res-noise", "5"], "--low-res-noise 5 needs an upsampler"),
    ):
        assert main([*command, *options, "--out", str(out)]) in (1, 2)
        assert sentence in capsys.readouterr().err
    assert main([*command[:2], str(folders["upsampler"]), *command[3:], "--out", str(out)]) == 1
    assert "is an upsampler, which needs a picture of another model" in capsys.readouterr().err


def test_a_list_is_upsampled_too(folders: dict[str, Path], tmp_path: Path) -> None:
    files = written(tmp_path)
    with (tmp_path / "jobs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*files, "name", "low_res_noise"])
        writer.writerow([*[path.name for path in files.values()], "a", ""])
        writer.writerow([*[path.name for path in files.values()], "b", "90"])
    command = ["batch", str(tmp_path / "jobs.csv"), "--model", str(folders["base"]), *STEPS]
    assert main([*command, "--out", str(tmp_path / "out"), "--upsampler", str(folders["upsampler"])]) == 0
    assert (tmp_path / "out/a.png").read_bytes() != (tmp_path / "out/b.png").read_bytes()
    noted = read_provenance(tmp_path / "out/b.png")
    assert (noted.settings["low_res_noise"], noted.upsampler is None) == (90, False)


def test_the_endpoint_upsamples(cascade: EditModel, folders: dict[str, Path], tmp_path: Path) -> None:
    own = request(4, 110, 90)
    machine = MachineSettings(device="cpu", upsampler=folders["upsampler"])
    shared = pattern(folders["base"], machine)
    service, app = Service(painting_with(cascade), shared, tmp_path / "out", Limits()), Starlette()
    add_api(app, service, batch_size=1)
    assert "upsampler" not in found_models(folders["base"].parent), "it is no choice by itself"
    assert "base" in found_models(folders["base"].parent)

    def text(pixels: np.ndarray) -> str:
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        return base64.b64encode(content.getvalue()).decode()

    body = {"image": text(own.image), "mask": text(np.asarray(own.edit_mask)), "exemplar": text(own.exemplar)}
    body |= {"num_inference_steps": 2, "fit": "resize", "guidance_scale": 1, "seed": 4, "low_res_noise": 30}
    [expected] = edit(cascade, [own], QUICK.model_copy(update={"low_res_noise": 30}))
    with TestClient(app) as client:
        answer = client.post("/api/edit", json=body)
        assert answer.status_code == 200, answer.text
        assert "upsample" in answer.json()["seconds"]
        png = base64.b64decode(answer.json()["images"][0]["png"])
        with Image.open(io.BytesIO(png)) as image:
            assert np.array_equal(np.asarray(image), expected.image)
        (tmp_path / "made.png").write_bytes(png)
        assert read_provenance(tmp_path / "made.png").upsampler is not None
        answer = client.post("/api/edit", json=body | {"low_res_noise": 400})
        assert answer.status_code == 422
        assert "give at most 349" in answer.json()["error"]
