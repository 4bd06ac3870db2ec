"""Edits with structure maps: from the picture, the exemplar and files, by every door."""

import base64
import csv
import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from intarsia.conditions.structure import structure_channels
from intarsia.errors import UsageError, UserError
from intarsia.model import EditModel
from intarsia.weights import save_model
from sampling.cli import main
from sampling.denoise.condition import Encoder
from sampling.editing import edit
from sampling.jobs import read_jobs, structure_sources
from sampling.methods.run_inversion import invert_picture
from sampling.painters.own import painting_with
from sampling.preview import preview_grid
from sampling.provenance import pattern, read_provenance
from sampling.settings import EditSettings, InversionSettings, MachineSettings
from sampling.web.api import add_api
from sampling.web.service import Limits, Service
from tests.sampling.tiny import request, tiny_model

QUICK = EditSettings(num_inference_steps=2, fit="resize")
STEPS = ("--num-inference-steps", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def mapped() -> EditModel:
    """A model whose weights for edges and depth are not zero any more."""
    model = tiny_model(2, "model.structure.maps=[edges,depth]")
    with torch.no_grad():
        model.unet.conv_in.weight[:, 9:] = model.unet.conv_in.weight[:, 4:6]
    return model


@pytest.fixture(scope="module")
def folder(mapped: EditModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mapped") / "model"
    save_model(mapped, path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    own = request(4)
    pixels = {
        "image": own.image,
        "mask": np.asarray(own.edit_mask).astype(np.uint8) * 255,
        "exemplar": own.exemplar,
        "depth": (own.image[..., 0] // 2 + 60).astype(np.uint8),
    }
    for name, value in pixels.items():
        Image.fromarray(value).save(tmp_path / f"{name}.png")
    return {name: tmp_path / f"{name}.png" for name in pixels}


def test_each_source_has_its_own_effect_and_none_is_the_model_without(mapped: EditModel) -> None:
    own = replace(request(4), guidance_scale=1.0)
    depth = own.image[..., 0] // 2 + 60
    sources = [{}, {"edges": "picture"}, {"edges": "exemplar"}, {"depth": depth}, {"edges": depth}]
    results = [edit(mapped, [replace(own, structure=source)], QUICK)[0].image for source in sources]
    assert all((one != other).any() for n, one in enumerate(results) for other in results[:n])
    assert np.array_equal(edit(mapped, [own], QUICK)[0].image, results[0])
    plain = tiny_model(2)
    assert np.array_equal(edit(plain, [own], QUICK)[0].image, results[0]), "blank maps are no maps"
    together = edit(mapped, [replace(own, structure=source) for source in sources], QUICK)
    for alone, one in zip(results, together, strict=True):
        assert np.abs(alone.astype(int) - one.image).max() <= 1


def test_sampling_shows_what_training_shows(mapped: EditModel) -> None:
    own = request(4)
    edit_mask = np.asarray(own.edit_mask).astype(np.uint8) * 255
    maps = structure_channels(mapped.config, {"edges": "picture"}, own.image, edit_mask)
    batch = [torch.from_numpy(part)[None] for part in (own.image, edit_mask)]
    size = mapped.config.latent_size
    exemplar, noise = torch.zeros(1, 224, 224, 3, dtype=torch.uint8), torch.zeros(1, 4, size, size)
    encoder = Encoder(mapped, torch.device("cpu"))
    shown = encoder.condition(*batch, exemplar, noise, torch.from_numpy(maps)[None]).channels
    assert torch.equal(shown[0, 5:], torch.from_numpy(maps).float() / 255)
    assert shown[0, 5].any()
    assert not encoder.condition(*batch, exemplar, noise).channels[0, 5:].any()


def test_a_map_of_another_size_and_a_model_without_are_refused(mapped: EditModel, model: EditModel) -> None:
    own = request(4)
    small = replace(own, structure={"depth": np.zeros((10, 20), np.uint8)})
    with pytest.raises(
        UserError, match="the map depth is 20 x 10 pixels but the picture 64 x 64; give a map"
    ):
        edit(mapped, [small], QUICK)
    with pytest.raises(UserError, match="the model has no structure maps; leave out --structure"):
        edit(model, [replace(own, structure={"edges": "picture"})], QUICK)


def test_inversion_leaves_the_maps_blank_and_previews_show_both(mapped: EditModel) -> None:
    own = request(4)
    method = InversionSettings(method="negative-condition", num_inference_steps=2)
    assert invert_picture(mapped, own, method, EditSettings()).image.shape == own.image.shape
    grids = [
        preview_grid(mapped, [replace(own, structure=source)], QUICK) for source in ({}, {"edges": "picture"})
    ]
    assert grids[1].width == grids[0].width * 4 // 3 - 2


def test_the_words_of_a_command() -> None:
    assert structure_sources(["edges", "depth=d.png"]) == {"edges": Path("picture"), "depth": Path("d.png")}
    assert structure_sources(["exemplar"]) == {"edges": Path("exemplar")}
    assert structure_sources(["a.png", "pose=exemplar"], Path("/x")) == {
        "edges": Path("/x/a.png"),
        "pose": Path("exemplar"),
    }
    for words, sentence in (
        (["lines=a.png"], "'lines' is not one of edges, depth, pose, segmentation"),
        (["edges", "a.png"], "edges has two sources; give one"),
    ):
        with pytest.raises(UsageError, match=sentence):
            structure_sources(words)


def test_a_result_says_its_maps_and_the_command_makes_the_same_bytes(
    folder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [w for name in ("image", "mask", "exemplar") for w in (f"--{name}", str(files[name]))]
    command = ["edit", "--model", str(folder), *words, *STEPS]
    maps = ["--structure", "edges", f"depth={files['depth']}"]
    for name, more in (("with", maps), ("without", [])):
        assert main([*command, "--out", str(tmp_path / f"{name}.png"), *more]) == 0
    made = tmp_path / "with.png"
    assert made.read_bytes() != (tmp_path / "without.png").read_bytes()
    with Image.open(tmp_path / "without.png") as image:
        assert "structure" not in json.loads(image.info["intarsia"])
    assert read_provenance(made).structure["edges"].path == "picture"
    capsys.readouterr()
    assert main(["show", str(made)]) == 0
    again = shlex.split(capsys.readouterr().out)
    assert main(again[3:]) == 0
    assert (tmp_path / "with-again.png").read_bytes() == made.read_bytes()
    assert main([*command, "--out", str(files["depth"]), *maps]) == 2
    assert "would replace the map depth itself" in capsys.readouterr().err
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(files["depth"])
    main(["show", str(made)])
    assert "map depth " in (said := capsys.readouterr().err)
    assert "has changed: the command will make another picture" in said


def test_a_list_has_a_column(folder: Path, files: dict[str, Path], tmp_path: Path) -> None:
    row = {name: files[name].name for name in ("image", "mask", "exemplar")}
    rows = [
        row | {"name": f"r{n}", "structure": s} for n, s in enumerate(("edges;depth=depth.png", "", "no.png"))
    ]
    with (tmp_path / "jobs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert read_jobs(tmp_path / "jobs.csv")[0].structure["depth"] == files["depth"]
    command = ["batch", str(tmp_path / "jobs.csv"), "--model", str(folder), *STEPS]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    records = {line["name"]: line for line in lines}
    assert [records[name]["status"] for name in ("r0", "r1", "r2")] == ["ok", "ok", "failed"]
    assert "no.png does not exist" in records["r2"]["error"]
    one, other = ((tmp_path / "out" / f"{name}.png").read_bytes() for name in ("r0", "r1"))
    assert one != other
    assert main([*command, "--out", str(tmp_path / "edges"), "--structure", "edges"]) == 1
    assert (tmp_path / "edges" / "r1.png").read_bytes() not in (one, other)


def test_the_endpoint_takes_maps(mapped: EditModel, folder: Path, tmp_path: Path) -> None:
    own = request(4)
    service = Service(
        painting_with(mapped), pattern(folder, MachineSettings(device="cpu")), tmp_path / "out", Limits()
    )
    app = Starlette()
    add_api(app, service, batch_size=1)

    def text(pixels: np.ndarray) -> str:
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        return base64.b64encode(content.getvalue()).decode()

    depth = (own.image[..., 0] // 2 + 60).astype(np.uint8)
    body = {"image": text(own.image), "mask": text(np.asarray(own.edit_mask)), "exemplar": text(own.exemplar)}
    body |= {"num_inference_steps": 2, "fit": "resize", "guidance_scale": 1, "seed": 4}
    told = {"edges": "picture", "depth": depth}
    expected = edit(mapped, [replace(own, structure=told)], QUICK.model_copy(update={"guidance_scale": 1.0}))
    with TestClient(app) as client:
        answer = client.post("/api/edit", json=body | {"structure": told | {"depth": text(depth)}})
        assert answer.status_code == 200, answer.text
        with Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]["png"]))) as image:
            assert np.array_equal(np.asarray(image), expected[0].image)
        for structure, sentence in (
            ({"lines": "picture"}, "structure has 'lines', which is not one of edges, depth"),
            ({"depth": "picture"}, "depth is not computed from pixels"),
            ({"depth": text(depth[:10])}, "the map depth is 64 x 10 pixels but the picture 64 x 64"),
            ({"depth": "%"}, "the map depth is not base64"),
        ):
            answer = client.post("/api/edit", json=body | {"structure": structure})
            assert answer.status_code in (400, 422)
            assert sentence in answer.json()["error"]
        # "picture" says where the map comes from; the sentence about another input keeps its word.
        low = body | {"mask": text(np.full((10, 64), 255, np.uint8)), "structure": {"edges": "picture"}}
        sentence = "the mask is 64 x 10 pixels but the picture 64 x 64; give a mask of the same size"
        assert client.post("/api/edit", json=low).json() == {"error": sentence}
        deep = text(depth.astype(np.uint16) * 257)
        answer = client.post("/api/edit", json=body | {"structure": {"depth": deep}})
        assert "the map depth has 16 bits per channel; they become 8" in answer.json()["images"][0]["notes"]
