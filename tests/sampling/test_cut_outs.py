"""Exemplars cut out by an alpha channel or a mask, on each background, by every door."""

import base64
import csv
import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from dataprep.draw.exemplar import bare_exemplar, shown_box
from dataprep.draw.recipe import load_recipe
from intarsia.boxes import Box
from intarsia.errors import UserError
from intarsia.model import EditModel
from sampling.cli import main
from sampling.jobs import read_jobs
from sampling.painters.own import painting_with
from sampling.pictures import read_exemplar
from sampling.provenance import pattern, read_provenance
from sampling.settings import EXEMPLAR_BACKGROUNDS, MachineSettings
from sampling.web.api import add_api
from sampling.web.service import Limits, Service
from tests.sampling.tiny import request

STEPS = ("--num-inference-steps", "2", "--device", "cpu", "--fit", "resize")
BOX = Box(14, 12, 30, 41)  # of the object in the exemplar of 40 x 50 pixels


def outline() -> np.ndarray:
    """uint8 [50, 40], 255 = object: an ellipse that fills BOX."""
    y, x = np.mgrid[:50, :40] + 0.5
    middle = (BOX.x0 + BOX.x1) / 2, (BOX.y0 + BOX.y1) / 2
    inside = ((x - middle[0]) / (BOX.x1 - BOX.x0)) ** 2 + ((y - middle[1]) / (BOX.y1 - BOX.y0)) ** 2
    return np.where(inside <= 0.25, 255, 0).astype(np.uint8)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    own = request(4)
    assert own.exemplar is not None
    pixels = {
        "image": own.image,
        "mask": np.asarray(own.edit_mask).astype(np.uint8) * 255,
        "exemplar": own.exemplar,
        "exemplar_mask": outline(),
        "transparent": np.dstack([own.exemplar, outline()]),
        "empty": np.full((50, 40), 90, np.uint8),
        "other": np.full((50, 41), 255, np.uint8),
        "beside": 255 - outline(),
    }
    for name, value in pixels.items():
        Image.fromarray(value).save(tmp_path / f"{name}.png")
    return {name: tmp_path / f"{name}.png" for name in pixels}


@pytest.mark.parametrize("background", EXEMPLAR_BACKGROUNDS)
def test_a_mask_is_the_same_outline_as_an_alpha_channel(files: dict[str, Path], background: str) -> None:
    masked = read_exemplar(files["exemplar"], background, files["exemplar_mask"])
    assert np.array_equal(masked, read_exemplar(files["transparent"], background))
    both = read_exemplar(files["transparent"], background, files["exemplar_mask"])
    assert np.array_equal(masked, both)


@pytest.mark.parametrize(("background", "recipe"), [("white", "anydoor"), ("black", "objectstitch")])
def test_backgrounds_are_framed_as_their_recipes_do(
    files: dict[str, Path], background: str, recipe: str
) -> None:
    how, pixels = load_recipe(recipe).exemplar, np.asarray(Image.open(files["exemplar"]))
    assert how.background == background
    row = EXEMPLAR_BACKGROUNDS[background]
    if how.grow:
        assert min(how.grow) <= row.grow <= max(how.grow)
    plain = {"grow": (row.grow,), "resize": "after", "cut_out": "before"}
    how = how.model_copy(update=plain)
    shown = shown_box(BOX, outline(), how, (40, 50))
    expected, _, _ = bare_exemplar(pixels, shown, outline(), how, np.random.default_rng(0))
    made = read_exemplar(files["exemplar"], background, files["exemplar_mask"])
    assert np.array_equal(made, expected)
    assert made.shape[:2] == ((36, 36) if background == "white" else (48, 36))


def test_grey_levels_of_a_mask_are_shares_and_neutral_is_not_cropped(files: dict[str, Path]) -> None:
    soft = outline() // 5 * 3  # 153 of 255: .6
    Image.fromarray(soft).save(files["exemplar_mask"])
    pixels = np.asarray(Image.open(files["exemplar"])).astype(float)
    colour = np.array(EXEMPLAR_BACKGROUNDS["neutral"].colour)
    made = read_exemplar(files["exemplar"], "neutral", files["exemplar_mask"])
    share = soft[..., None] / 255
    assert np.abs(made - (share * pixels + (1 - share) * colour)).max() <= 0.51
    grey = read_exemplar(files["exemplar"], "grey", files["exemplar_mask"])
    assert (grey[0, 0] == 128).all()


def test_outlines_that_are_missing_or_do_not_fit_are_refused(files: dict[str, Path]) -> None:
    exemplar, transparent = files["exemplar"], files["transparent"]
    for background in ("white", "black", "grey"):
        missing = f"which exemplar_background={background} needs; give an exemplar mask, or use crop"
        with pytest.raises(UserError, match=missing):
            read_exemplar(exemplar, background)
    assert np.array_equal(read_exemplar(exemplar, "neutral"), read_exemplar(exemplar))
    for opened, mask, sentence in (
        (exemplar, "other", "is 41 x 50 pixels, and exemplar .* 40 x 50; give a mask of the exemplar's size"),
        (exemplar, "empty", "has no white .its brightest pixel has 90 of 255., so it shows no object; paint"),
        (transparent, "beside", "shows only transparent parts of exemplar"),
        (exemplar, "nowhere", "nowhere.png does not exist"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_exemplar(opened, "crop", exemplar.with_name(f"{mask}.png"))


@pytest.mark.parametrize("verb", ["edit", "invert"])
def test_an_edit_with_a_mask_is_that_of_an_alpha_channel_and_show_repeats_it(
    verb: str, model_folder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [verb, "--model", str(model_folder), "--image", str(files["image"])]
    command += ["--mask", str(files["mask"]), *STEPS]
    ways = {
        "masked": ["--exemplar", str(files["exemplar"]), "--exemplar-mask", str(files["exemplar_mask"])],
        "alpha": ["--exemplar", str(files["transparent"])],
    }
    for name, words in ways.items():
        white = ["--exemplar-background", "white"]
        assert main([*command, *words, *white, "--out", str(tmp_path / f"{name}-made.png")]) == 0
    plain = [*command, "--exemplar", str(files["exemplar"])]
    assert main([*plain, "--out", str(tmp_path / "plain.png")]) == 0
    made = tmp_path / "masked-made.png"
    pixels = {name: np.asarray(Image.open(tmp_path / f"{name}-made.png")) for name in ways}
    assert np.array_equal(pixels["masked"], pixels["alpha"])
    assert not np.array_equal(pixels["masked"], np.asarray(Image.open(tmp_path / "plain.png")))
    noted = read_provenance(made).exemplar_mask
    assert noted is not None
    assert noted.path == str(files["exemplar_mask"])
    with Image.open(tmp_path / "plain.png") as image:
        assert "exemplar_mask" not in json.loads(image.info["intarsia"]), "hashes of older results stay"
    capsys.readouterr()
    assert main(["show", str(made)]) == 0
    again = shlex.split(capsys.readouterr().out)
    assert main(again[3:]) == 0
    assert (tmp_path / "masked-made-again.png").read_bytes() == made.read_bytes()

    alone = ["--exemplar-mask", str(files["exemplar_mask"]), "--exemplar", str(files["exemplar"])]
    assert main([*command, *alone, "--out", str(files["exemplar_mask"])]) == 2
    assert "would replace the exemplar mask itself" in capsys.readouterr().err
    assert main([*command, *alone[:2], "--out", str(tmp_path / "x.png")]) == 2
    assert "an exemplar mask is given without an exemplar; give the exemplar, too" in capsys.readouterr().err
    Image.fromarray(outline()[::-1]).save(files["exemplar_mask"])
    main(["show", str(made)])
    assert re.search(r"exemplar mask \S+ has changed: the command will make another", capsys.readouterr().err)


def test_a_list_has_a_column(model_folder: Path, files: dict[str, Path], tmp_path: Path) -> None:
    row = {name: f"{name}.png" for name in ("image", "mask", "exemplar")}
    rows = [
        row | {"name": f"r{n}", "exemplar_mask": mask} for n, mask in enumerate(("exemplar_mask.png", ""))
    ]
    rows.append(row | {"name": "r2", "exemplar_mask": "", "exemplar": "transparent.png"})
    with (tmp_path / "jobs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert read_jobs(tmp_path / "jobs.csv")[0].files["exemplar_mask"] == files["exemplar_mask"]
    command = ["batch", str(tmp_path / "jobs.csv"), "--model", str(model_folder), *STEPS]
    assert main([*command, "--exemplar-background", "black", "--out", str(tmp_path / "out")]) == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    records = {line["name"]: line for line in lines}
    assert [records[name]["status"] for name in ("r0", "r1", "r2")] == ["ok", "failed", "ok"]
    assert "exemplar_background=black needs; give an exemplar mask" in records["r1"]["error"]
    made = [np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) for name in ("r0", "r2")]
    assert np.array_equal(*made)
    jobs = tmp_path / "alone.jsonl"
    jobs.write_text(json.dumps({"image": "image.png", "mask": "mask.png", "exemplar_mask": "other.png"}))
    parts = ("exemplar", "text")
    jobs.write_text(json.dumps(json.loads(jobs.read_text()) | {"prompt": "a cup"}))
    assert "an exemplar mask is given without an exemplar" in read_jobs(jobs, parts)[0].error


def test_the_endpoint_takes_a_mask(
    model: EditModel, model_folder: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    shared = pattern(model_folder, MachineSettings(device="cpu"))
    app = Starlette()
    add_api(app, Service(painting_with(model), shared, tmp_path / "out", Limits()), batch_size=1)
    text = {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()}
    body: dict[str, object] = {name: text[name] for name in ("image", "mask", "exemplar")}
    body |= {"num_inference_steps": 2, "fit": "resize", "seed": 4, "exemplar_background": "white"}
    with TestClient(app) as client:
        answers = [
            client.post("/api/edit", json=body | more)
            for more in ({"exemplar_mask": text["exemplar_mask"]}, {"exemplar": text["transparent"]})
        ]
        assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
        pngs = [base64.b64decode(answer.json()["images"][0]["png"]) for answer in answers]
        pixels = [np.asarray(Image.open(io.BytesIO(png))) for png in pngs]
        assert np.array_equal(*pixels)
        for more, sentence in (
            ({}, "the exemplar has no transparent parts that show the object's outline"),
            (
                {"exemplar_mask": text["other"]},
                "the exemplar mask is 41 x 50 pixels, and the exemplar",
            ),
            ({"exemplar_mask": text["empty"]}, "the exemplar mask has no white"),
            ({"exemplar_mask": "%"}, "the exemplar mask is not base64"),
            ({"exemplar_mask": text["other"], "exemplar": None}, "the exemplar is missing"),
        ):
            answer = client.post("/api/edit", json=body | more)
            assert answer.status_code in (400, 422)
            assert sentence in answer.json()["error"]
