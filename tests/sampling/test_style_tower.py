"""A style tower: what a model without an encoder of exemplars sees of the picture, for the method style."""

import base64
import json
import shlex
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from intarsia.errors import UsageError, UserError
from intarsia.towers.settings import CLIP_VISION_DEFAULTS, read_clip_vision
from intarsia.weights import save_model
from sampling.canvas.canvas import fit_exemplar
from sampling.cli import main
from sampling.couplings.attention import coupled
from sampling.denoise.condition import Encoder
from sampling.denoise.machine import Machine, open_model
from sampling.denoise.style_tower import StyleTower, read_style_tower
from sampling.methods.coupled_walk import invert_coupled
from sampling.methods.inversion import find_source, new_levels
from sampling.methods.run_inversion import invert_edit, model_denoiser
from sampling.methods.start import encode_start
from sampling.methods.style import Look, ValueStyle, find_style
from sampling.painters.own import painting_with
from sampling.painters.painter import open_painter
from sampling.provenance import Provenance, SourceFile, made_from, pattern, read_provenance
from sampling.settings import EditSettings, InversionSettings, MachineSettings
from sampling.web.choices import ModelFields, page_choices
from sampling.web.server import build_app
from sampling.web.service import Limits, Service
from sampling.web.visitors import visitors_of
from tests.closeness import longest_sum, relative_error, rounding
from tests.sampling.test_api_invert import SAID
from tests.sampling.test_invert_prompts import IMAGE, asked, run
from tests.sampling.tiny import VISION, assert_made_again, tiny_model, write_tower
from tests.text import text_model

NARROW = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 4}
FEW = {"num_inference_steps": 3, "inner_steps": 1}
STYLE = InversionSettings(method="style", guidance_scale=1.5, **FEW)
SAY = ("--source", "a cat", "--target", "a dog", "--method", "style", "--inner-steps", "1")


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tower(tmp_path_factory.mktemp("tower") / "clip")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "model"
    save_model(text_model(1, "text", "model.unet.in_channels=4"), folder)
    return folder


@pytest.fixture(scope="module")
def opened(folder: Path, tower: Path) -> Machine:
    machine = open_model(folder, MachineSettings(device="cpu", style_tower=tower))
    machine.model.requires_grad_(False)
    return machine


def test_what_a_config_leaves_out_is_as_transformers_has_it(tmp_path: Path) -> None:
    theirs = CLIPVisionConfig().to_dict()
    assert {name: theirs[name] for name in CLIP_VISION_DEFAULTS} == CLIP_VISION_DEFAULTS
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "clip", "vision_config": {"patch_size": 16}})
    )
    assert read_clip_vision(tmp_path).patch_size == 16
    assert read_clip_vision(tmp_path).hidden_size == 768


@pytest.mark.portable
@pytest.mark.parametrize("kind", ["vision tower", "whole CLIP", "model folder"])
def test_it_sees_all_tokens_after_the_last_norm(kind: str, tmp_path: Path, tower: Path) -> None:
    """StyleDiffusion's features: CLIP's class and patches, without its projection."""
    theirs = CLIPVisionModel.from_pretrained(tower)
    if kind == "whole CLIP":
        sizes = {key: VISION[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads")}
        vision = theirs.config.to_dict()
        whole = CLIPModel(CLIPConfig(text_config=sizes | {"num_hidden_layers": 1}, vision_config=vision))
        theirs = whole.vision_model
        whole.save_pretrained(tmp_path)
        place = tmp_path
    elif kind == "model folder":
        own = tiny_model(4)
        theirs = own.image_encoder
        save_model(own, tmp_path / "model")
        place = tmp_path / "model/image_encoder"
    else:
        place = tower
    ours = read_style_tower(place, "cpu", torch.float32)
    picture = torch.from_numpy(fit_exemplar(IMAGE))[None]
    pixels = tiny_model(4).normalise(picture)  # 32 × 32, with CLIP's colours
    with torch.no_grad():
        states = theirs(pixel_values=pixels).last_hidden_state
        norm = next(part for name, part in theirs.named_modules() if name.endswith("post_layernorm"))
        wanted, seen = norm(states), ours(picture)
    assert seen.shape == wanted.shape
    assert relative_error(seen, wanted) < rounding(longest_sum(theirs))


@pytest.mark.long
def test_a_style_of_scale_one_and_shift_zero_is_the_models_plain_walk(opened: Machine) -> None:
    model, mask = opened.model, np.full((64, 64), 255, np.uint8)
    start = encode_start(Encoder(model, model.unet.device), asked(), STYLE, IMAGE, mask)
    assert start.features is not None
    assert start.features.shape == (1, 17, 32)
    levels, couple = new_levels(model.config.noise, 3), partial(coupled, model.unet)
    denoiser = model_denoiser(model.unet, start.condition, model.config.noise)
    what, ddim = (denoiser, start.latents, start.tokens), STYLE.model_copy(update={"method": "ddim"})
    one = torch.ones(1, start.tokens.source.shape[1], 32)
    with torch.no_grad():
        plain, same, other = (
            invert_coupled(*what, ddim, levels, [ValueStyle([style] * 3)] if style else [], couple).edit
            for style in (None, (one, 0 * one), (one, one))
        )
        branch, learned = find_style(*what, STYLE, levels, Look(start.features), couple)
        source = find_source(*what, ddim, levels)
    assert relative_error(same, plain) < 1e3 * rounding(3)
    assert relative_error(other, plain) > 1e-3
    assert learned.losses[0][-1] < learned.losses[0][0], "its loss falls"
    errors = [(found.latents[0] - start.latents).norm() for found in (branch, source)]
    assert errors[0] < errors[1]


@pytest.mark.long
def test_a_text_model_learns_a_style_from_the_towers_view(opened: Machine, tmp_path: Path) -> None:
    model = opened.model
    result = invert_edit(model, asked(), STYLE)
    plain = invert_edit(model, asked(), STYLE.model_copy(update={"method": "ddim"}))
    assert result.latent_error < plain.latent_error
    before, model.style_tower = model.style_tower, None
    try:
        again = invert_edit(model, asked(), STYLE.model_copy(update={"method": "ddim"}))
        assert np.array_equal(again.image, plain.image), "other methods do not look at it"
        model.style_tower = read_style_tower(write_tower(tmp_path, seed=5), "cpu", torch.float32)
        assert (invert_edit(model, asked(), STYLE).image != result.image).any(), "another view"
    finally:
        model.style_tower = before


def test_a_tower_of_another_width_is_refused(opened: Machine) -> None:
    model, before = opened.model, opened.model.style_tower
    try:
        model.style_tower = StyleTower(model.config.image_encoder.model_copy(update=NARROW))
        with pytest.raises(UserError, match=r"vectors have 16 numbers, and the model's context 32; give"):
            invert_edit(model, asked(), STYLE)
    finally:
        model.style_tower = before


def test_what_is_not_a_clip_tower_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none has no config.json; give a folder of transformers with CLIP"):
        read_clip_vision(tmp_path / "none")
    Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4)).save_pretrained(
        tmp_path / "dino"
    )
    with pytest.raises(UserError, match=r"config.json has model_type=dinov2; give a folder with CLIP's"):
        read_clip_vision(tmp_path / "dino")
    bad = tmp_path / "bad"
    write_tower(bad)
    content = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps(content | {"num_attention_heads": 5}))
    with pytest.raises(UsageError, match=r"hidden_size=32 is not a multiple of num_attention_heads=5"):
        read_clip_vision(bad)
    (bad / "config.json").write_text(json.dumps(content | {"intermediate_size": 48}))
    with pytest.raises(UserError, match=r"another shape|shape"):
        read_style_tower(bad, "cpu", torch.float32)
    with pytest.raises(UsageError, match="cv2 has no use for --style-tower; leave it out"):
        open_painter("cv2", None, MachineSettings(device="cpu", style_tower=tmp_path))


# -- commands, records and servers -----------------------------------------------------------------------


@pytest.mark.long
def test_the_command_learns_a_style_and_its_result_can_be_made_again(
    folder: Path, tower: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path, *SAY, "--style-tower", str(tower)) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("style ")
    assert read_provenance(tmp_path / "out.png").style_tower is not None
    assert_made_again(tmp_path / "out.png", capsys)
    assert run(folder, tmp_path, *SAY[:4], "--method", "ddim") == 0
    assert read_provenance(tmp_path / "out.png").style_tower is None


@pytest.mark.long
def test_a_changed_tower_is_noted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = write_tower(tmp_path / "clip")
    assert run(folder, tmp_path, *SAY, "--style-tower", str(own)) == 0
    write_tower(own, seed=1)
    assert main(["show", str(tmp_path / "out.png")]) == 0
    assert f"style tower {own} has changed: the command will make another picture" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "named", "code", "sentence"),
    [
        ("style", None, 2, "this model has none; give a folder of CLIP's vision tower, --style-tower"),
        ("direct", "tower", 2, "--style-tower is for --method style; leave it out"),
        ("all", "tower", 2, "--style-tower is for --method style; leave it out"),
        ("style", "nowhere", 1, "nowhere has no config.json; give a folder of transformers"),
    ],
)
def test_the_command_refuses_in_a_sentence(
    folder: Path,
    tower: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    named: str | None,
    code: int,
    sentence: str,
) -> None:
    place = str(tower if named == "tower" else tmp_path / "nowhere")
    more = ["--style-tower", place] if named else []
    assert run(folder, tmp_path, "--target", "a dog", "--method", method, *more) == code
    assert sentence in capsys.readouterr().err


@pytest.mark.long
def test_a_server_names_it_at_its_start_and_a_visitor_never(
    opened: Machine, folder: Path, tower: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = pattern(folder, MachineSettings(device="cpu", style_tower=tower))
    service = Service(painting_with(*opened), shared, tmp_path / "out", Limits(), ("text",))
    app = build_app(service, visitors_of("127.0.0.1"), None, 1)
    body = SAID | {"method": "style", "inner_steps": 1}
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        assert "style" in client.get("/page/choices").json()["choices"]["invert.method"]
        refused = client.post("/api/invert", json=body | {"style_tower": str(tower)})
        assert (refused.status_code, "style_tower" in refused.json()["error"]) == (400, True)
        answer = client.post("/api/invert", json=body)
        assert answer.status_code == 200, answer.text
    (tmp_path / "made.png").write_bytes(base64.b64decode(answer.json()["png"]))
    assert main(["show", str(tmp_path / "made.png")]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[words.index("--style-tower") + 1] == str(tower)
    assert main(words[3:]) == 0
    ours, theirs = (np.asarray(Image.open(tmp_path / name)) for name in ("made.png", "made-again.png"))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_without_it_the_page_does_not_offer_the_method() -> None:
    plain, with_tower = (
        page_choices(ModelFields(("text",)), Limits(), None, True, tower)["choices"]["invert.method"]
        for tower in (False, True)
    )
    assert set(with_tower) - set(plain) == {"style"}


def test_a_record_has_the_partners_that_its_command_takes() -> None:
    """A server's noised encoder, upsampler and style tower: each has a part in some results only."""
    one = SourceFile("a", "b")
    partners = {name: SourceFile(name, name) for name in ("noised_clip", "upsampler", "style_tower")}
    shared = Provenance(one, None, None, one, 0, {}, **partners)
    cases = [(EditSettings().plain(), {"noised_clip", "upsampler"}), (STYLE.plain(), {"style_tower"})]
    for settings, kept in [*cases, (InversionSettings().plain(), set())]:
        made = made_from(shared, {"image": one}, 0, settings)
        assert {name for name in partners if getattr(made, name)} == kept
