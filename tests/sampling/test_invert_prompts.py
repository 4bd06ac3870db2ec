"""Inversion with prompts: from a picture and two prompts, by function and by command."""

import shlex
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from intarsia.errors import UserError
from intarsia.model import EditModel
from intarsia.weights import save_model
from sampling.cli import main
from sampling.denoise.condition import Encoder
from sampling.methods.request import InversionRequest
from sampling.methods.run_inversion import InversionResult, invert_edit
from sampling.methods.start import encode_start
from sampling.settings import InversionSettings
from tests.closeness import relative_error, rounding
from tests.sampling.tiny import request, tiny_model
from tests.text import text_model

STEPS = 3
IMAGE = request(1).image


@pytest.fixture(scope="module")
def model() -> EditModel:
    return text_model(1, "text", "model.unet.in_channels=4").eval()


@pytest.fixture(scope="module")
def folder(model: EditModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts") / "model"
    save_model(model, folder)
    return folder


def asked(**more: Any) -> InversionRequest:
    return InversionRequest(IMAGE, **{"source_prompt": "a round cat", "target_prompt": "a round dog"} | more)


def made(model: EditModel, asked: InversionRequest, **settings: Any) -> InversionResult:
    own: dict[str, Any] = {"num_inference_steps": STEPS, "inner_steps": 2} | settings
    return invert_edit(model, asked, InversionSettings(**own))


@pytest.mark.parametrize(
    ("coupling", "rows"),
    [("p2p", 1 + 3), ("masactrl", 1 + 4), ("context", 1 + 4), ("pnp", 1 + 3), ((), 1 + 2)],
)
def test_two_prompts_edit_a_picture_without_a_mask(
    model: EditModel, coupling: str | tuple[str, ...], rows: int
) -> None:
    result = made(model, asked(), coupling=coupling)
    assert result.latent_error == 0
    assert (result.calls, result.rows) == (2 * STEPS, rows * STEPS)
    assert result.background_psnr is None
    assert result.image.shape == IMAGE.shape
    assert (result.image != result.reconstruction).any()


@pytest.mark.parametrize("masked", [False, True])
def test_the_object_of_masactrl_is_that_of_words_or_mask(model: EditModel, masked: bool) -> None:
    more = {"edit_mask": request(1).edit_mask} if masked else {"words": (("cat", "dog"),)}
    plain, found = (
        made(model, asked(**more), coupling=(name, "p2p")) for name in ("masactrl", "masactrl-masks")
    )
    assert found.rows == plain.rows == (1 + 4) * STEPS
    assert (found.image != plain.image).any()


def test_the_names_for_prompts_are_the_general_methods(model: EditModel) -> None:
    for name, general in (("null-text", "null-condition"), ("negative-prompt", "negative-condition")):
        one, other = (made(model, asked(), method=method) for method in (name, general))
        assert np.array_equal(one.image, other.image)
        assert one.rows == other.rows


def test_weights_a_negative_prompt_and_a_caption_have_an_effect(model: EditModel) -> None:
    plain = made(model, asked(), coupling="p2p").image
    for more in (
        {"reweight": (("dog", 4.0),)},
        {"negative_prompt": "ugly"},
        {"caption": "an animal"},
    ):
        assert (made(model, asked(**more), coupling="p2p").image != plain).any(), more


def test_a_caption_that_is_the_source_prompt_changes_only_rounding(model: EditModel) -> None:
    """The direction from source to target, added to the source, is the target."""
    plain = made(model, asked()).image.astype(int)
    captioned = made(model, asked(caption="a round cat")).image
    assert np.abs(captioned - plain).max() <= 1


@pytest.mark.portable
def test_a_direction_is_the_mean_of_several_sentences(model: EditModel) -> None:
    """Pix2pix-zero's: what the mean of the target's sentences has more than that of the source's."""
    encoder = Encoder(model, model.unet.device)
    several = {"source_prompt": "a cat | a photo of a cat|", "target_prompt": "a dog|one dog|the dog"}
    request = asked(caption="an animal", **several)
    mask = np.full((64, 64), 255, np.uint8)
    start = encode_start(encoder, request, InversionSettings(), request.image, mask)
    [part] = encoder.told(
        [None] * 6, ["a cat", "a photo of a cat", "a dog", "one dog", "the dog", "an animal"]
    )
    direction = part.tokens[2:5].mean(0) - part.tokens[:2].mean(0)
    assert relative_error(start.tokens.target[0], part.tokens[5] + direction) < rounding(6)
    assert torch.equal(start.tokens.source[0], part.tokens[5])
    one = encode_start(encoder, asked(), InversionSettings(), IMAGE, mask)
    [part] = encoder.told([None, None], ["a round cat", "a round dog"])
    assert torch.equal(one.tokens.source, part.tokens[:1]), "one sentence is itself, to the bit"
    assert torch.equal(one.tokens.target, part.tokens[1:])


def test_without_a_caption_a_stroke_is_text_and_a_long_sentence_has_a_note(model: EditModel) -> None:
    assert asked(target_prompt="a|b").prompts()["target prompt"] == "a|b"
    result = made(model, asked(caption="x", target_prompt="a dog|" + "a dog " * 10), coupling="pix2pix-zero")
    assert any("the target prompt has 40 tokens" in remark for remark in result.remarks)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"words": (("cat", "bird"),)}, "'bird' is not in the target prompt 'a round dog'"),
        ({"words": (("c", "dog"),)}, "'c' is not in the source prompt 'a round cat'"),
        ({"target_prompt": ""}, "the target prompt is missing"),
        ({"exemplar": IMAGE}, "this model takes prompts only, and an exemplar is given; remove it"),
        ({"caption": "x", "source_prompt": ""}, "a caption needs a source prompt"),
        ({"caption": "x", "words": (("cat", "dog"),)}, "both branches have the caption"),
    ],
)
def test_what_does_not_fit_is_refused(model: EditModel, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        made(model, asked(**more), coupling="p2p")


def test_settings_that_do_not_fit_the_model_are_refused(model: EditModel) -> None:
    with pytest.raises(UserError, match="background keeps what is outside the mask; give a mask"):
        made(model, asked(), coupling="background")
    with pytest.raises(UserError, match="act on attention to words; add the coupling p2p"):
        made(model, asked(reweight=(("dog", 2.0),)))
    with pytest.raises(UserError, match="alignment=similar compares exemplars"):
        made(model, asked(), alignment="similar")
    with pytest.raises(
        UserError, match="same number of words, and 'a round cat' has 3, 'a dog' 2; use refine"
    ):
        made(model, asked(target_prompt="a dog"), coupling="p2p", alignment="replace")
    with pytest.raises(ValueError, match="offset_every=2 is for the method direct, not for ddim"):
        InversionSettings(method="ddim", offset_every=2)
    exemplars = tiny_model(2)
    own = request(1)
    with pytest.raises(UserError, match="takes an exemplar only, and a source prompt"):
        made(exemplars, InversionRequest(own.image, own.edit_mask, own.exemplar, source_prompt="a cat"))
    with pytest.raises(UserError, match=r"null-text is for models with prompts; .* use null-condition"):
        made(exemplars, InversionRequest(own.image, own.edit_mask, own.exemplar), method="null-text")
    with pytest.raises(UserError, match=r"the mask is missing: .* give a mask, or a source exemplar"):
        made(exemplars, InversionRequest(own.image, None, own.exemplar))
    with pytest.raises(UserError, match="attends to 1, so that its effect would be exactly 0"):
        made(exemplars, InversionRequest(own.image, own.edit_mask, own.exemplar), coupling="p2p")


def test_a_long_prompt_is_cut_with_a_note(model: EditModel) -> None:
    result = made(model, asked(target_prompt="a dog " * 10), coupling="p2p")
    assert any(
        "the target prompt has 40 tokens, and the model reads the first 22" in r for r in result.remarks
    )
    with pytest.raises(UserError, match="'tail' is not in the target prompt"):
        made(model, asked(target_prompt="a dog " * 10 + "tail", words=(("cat", "tail"),)), coupling="p2p")


def test_a_source_exemplar_takes_the_place_of_the_mask() -> None:
    own = request(1)
    result = made(tiny_model(2), InversionRequest(own.image, None, own.exemplar, own.image))
    assert result.background_psnr is None
    assert (result.image != result.reconstruction).any()


def test_exemplars_of_many_tokens_correspond_by_place_or_by_likeness() -> None:
    several, own = tiny_model(2, "model.exemplar.tokens=class+patches"), request(1)
    towards = InversionRequest(own.image, None, own.exemplar, own.image)
    edits = {
        name: made(several, towards, coupling=coupling, alignment=name).image
        for name, coupling in ((None, ()), ("same", "p2p"), ("similar", "p2p"))
    }
    assert all((edits[one] != edits[other]).any() for one, other in combinations(edits, 2))
    same = InversionRequest(own.image, None, own.exemplar, own.exemplar)
    result = made(several, same, method="ddim", coupling="p2p", alignment="same")
    assert np.abs(result.image.astype(int) - result.reconstruction).max() <= 1


@pytest.mark.parametrize(
    ("settings", "exact"),
    [
        ({"offset_to": "both"}, True),
        ({"offset_to": "own"}, True),
        ({"offset_every": 3}, False),
        ({"regularise": True}, True),
        ({"steps_offset": 0}, True),
    ],
)
def test_ablations_reconstruct_as_they_should(
    model: EditModel, settings: dict[str, Any], exact: bool
) -> None:
    result = made(model, asked(), coupling="context", **settings)
    assert (result.latent_error < 1e-5) == exact
    assert (result.image != made(model, asked(), coupling="context").image).any()


def test_a_target_with_its_own_offsets_is_pulled_to_the_picture(model: EditModel) -> None:
    def change(**settings: str) -> float:
        result = made(model, asked(), **settings)
        return float(np.abs(result.image.astype(int) - result.reconstruction).mean())

    assert change(offset_to="own") < 0.05 * change(), "what remains is float32's rounding"


# -- the command ------------------------------------------------------------------------------------------


def run(folder: Path, tmp_path: Path, *more: str) -> int:
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    words = ["invert", "--model", str(folder), "--image", str(tmp_path / "image.png")]
    words += ["--out", str(tmp_path / "out.png"), "--num-inference-steps", "2", "--device", "cpu"]
    return main([*words, *more])


def test_the_command_edits_by_prompts_and_its_result_can_be_made_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ("--source", "a cat, red", "--target", "a dog, red", "--words", "cat=dog", "--reweight", "dog=2")
    assert run(folder, tmp_path, *said, "--coupling", "p2p", "--alignment", "replace", "--regularise") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["direct", "0.00e+00", "-"]
    assert Image.open(tmp_path / "out.side-by-side.png").width < 4 * 256
    assert main(["show", str(tmp_path / "out.png")]) == 0
    again = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert {"--words", "--reweight", "--regularise", "--alignment"} <= set(again)
    assert main(again[3:]) == 0
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "out-again.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "the target prompt is missing"),
        (("--target", "a dog", "--coupling", "background"), "keeps what is outside the mask; give a mask"),
        (("--target", "a dog", "--words", "a=dog"), "act on attention to words; add the coupling p2p"),
        (("--target", "a dog", "--alignment", "same"), "alignment=same compares exemplars"),
        (
            ("--target", "a dog", "--coupling", "p2p", "--reweight", "dog=nan"),
            "the factor of 'dog' is nan; give a finite number",
        ),
        (
            ("--target", "a dog", "--coupling", "p2p", "--compile"),
            "a compiled UNet cannot be coupled, and p2p does that; leave --compile out",
        ),
        (
            ("--target", "a dog", "--coupling", "masactrl-masks"),
            "needs to know where the object is; give words",
        ),
    ],
)
def test_the_command_refuses_in_a_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], sentence: str
) -> None:
    assert run(folder, tmp_path, *options) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--words", "cat"), ("--reweight", "cat=dog")])
def test_pairs_that_cannot_be_read_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    with pytest.raises(SystemExit):
        run(folder, tmp_path, "--target", "a dog", option, value)
    assert f"{value!r} must be" in capsys.readouterr().err


def test_a_setting_without_effect_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "--target", "a dog", "--num-inference-steps", "1"
    assert run(folder, tmp_path, *said, "--method", "ddim", "--offset-scale", "0.5") == 0
    assert "note: offset_scale=0.5 is for the method direct, and changes nothing here" in (
        capsys.readouterr().err
    )
    assert run(folder, tmp_path, *said, "--offset-scale", "0.5", "--alignment", "replace") == 0
    noted = capsys.readouterr().err
    assert "alignment=replace is for the coupling p2p, and changes nothing here" in noted
    assert "offset_scale" not in noted
    assert run(folder, tmp_path, *said, "--method", "all", "--inner-steps", "1") == 0
    assert "inner_steps" not in capsys.readouterr().err
