"""The painters that are pipelines of diffusers: inside the mask they are the pipeline itself, to the bit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
)
from PIL import Image
from safetensors.torch import save_file

from evaluation.cli import main as evaluate
from intarsia import original
from intarsia.errors import UserError
from sampling.canvas.edits import EditRequest
from sampling.cli import main as sample
from sampling.painters.painter import painter_of
from sampling.provenance import read_provenance
from sampling.settings import EditSettings, MachineSettings
from tests.evaluation.exemplar_bench import write_bench, write_weights
from tests.sampling.painter_weights import NO_CHECKER, make_inpainting, make_instruct
from tests.sampling.tiny import request, tiny_config

CPU = MachineSettings(device="cpu")
FEW = EditSettings(num_inference_steps=3)


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inpainting(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_instruct(tmp_path_factory.mktemp("weights"))


def asked(seed: int = 5) -> EditRequest:
    """A picture of the pipeline's size, so that the square is the picture."""
    return replace(request(seed), exemplar=None, prompt="a red dog")


def their_own(kind: Any, folder: Path, own: EditRequest, **options: Any) -> np.ndarray:
    pipeline = kind.from_pretrained(folder, **NO_CHECKER)
    pipeline.set_progress_bar_config(disable=True)
    if "scheduler" in options:
        pipeline.scheduler = options.pop("scheduler")(pipeline.scheduler.config)
    image = Image.fromarray(own.image)
    made = pipeline(
        own.prompt,
        image=image,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(own.seed),
        output_type="np",
        **options,
    ).images[0]
    return (made * 255).round().astype(np.uint8)


def mask_of(own: EditRequest) -> Image.Image:
    return Image.fromarray(np.asarray(own.edit_mask).astype(np.uint8) * 255)


def test_nothing_is_painted_without_a_prompt(inpainting: Path) -> None:
    paint = painter_of("sd1.5").open(inpainting, CPU)
    with pytest.raises(UserError, match="the prompt is missing: a text that says what to paint"):
        paint([replace(asked(), prompt=" ", exemplar=request(5).exemplar)], EditSettings())


@pytest.mark.parametrize("name", ["sd1.5", "instruct_pix2pix"])
def test_a_bench_without_prompts_is_refused(
    name: str, inpainting: Path, instruct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = inpainting if name == "sd1.5" else instruct
    files = {"--bench": write_bench(tmp_path / "bench", 2), "--results": tmp_path / "results"}
    files["--weights"] = write_weights(tmp_path / "weights")
    words = [str(word) for pair in files.items() for word in pair]
    command = ["cocoee", "run", *words, "--without", "inception", "--model", f"{name}:{weights}"]
    assert evaluate([*command, "--store", str(tmp_path / "store")]) == 2
    said = capsys.readouterr().err
    assert f"{name} is told a prompt, and this bench has none; give --model one that is told" in said
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["sd1.5", "sd2"])
def test_inpainting_is_the_pipeline_inside_and_the_picture_outside(name: str, inpainting: Path) -> None:
    own = asked()
    expected = their_own(
        StableDiffusionInpaintPipeline, inpainting, own, mask_image=mask_of(own), height=64, width=64
    )
    [result] = painter_of(name).open(inpainting, CPU)([own], FEW)
    mask = np.asarray(own.edit_mask)
    assert (result.image[mask] == expected[mask]).all()
    assert (result.image[~mask] == own.image[~mask]).all()
    assert (expected[mask] != own.image[mask]).any()


def test_instruct_pix2pix_sees_the_whole_picture(instruct: Path) -> None:
    own = asked()
    expected = their_own(StableDiffusionInstructPix2PixPipeline, instruct, own)
    paint = painter_of("instruct_pix2pix").open(instruct, CPU)
    [whole], [pasted] = paint([own], FEW.model_copy(update={"composite": False})), paint([own], FEW)
    mask = np.asarray(own.edit_mask)
    assert (whole.image == expected).all()
    assert (pasted.image == np.where(mask[..., None], expected, own.image)).all()


def test_settings_reach_the_pipeline(inpainting: Path) -> None:
    own, mask = asked(), np.asarray(asked().edit_mask)
    options = {"mask_image": mask_of(own), "height": 64, "width": 64}
    expected = their_own(
        StableDiffusionInpaintPipeline,
        inpainting,
        own,
        guidance_scale=3.0,
        scheduler=EulerDiscreteScheduler.from_config,
        **options,
    )
    paint = painter_of("sd1.5").open(inpainting, CPU)
    plain = paint([own], FEW)[0].image
    settings = EditSettings(num_inference_steps=3, scheduler="euler", text_guidance_scale=3.0)
    [result] = paint([own], settings)
    assert (result.image[mask] == expected[mask]).all()
    assert (result.image[mask] != plain[mask]).any()
    assert (paint([own], FEW)[0].image == plain).all()  # the folder's own scheduler is back


def test_steps_are_reported_and_end_at_the_total(inpainting: Path) -> None:
    told: list[tuple[int, int]] = []
    requests = [asked(1), asked(2)]
    results = painter_of("sd1.5").open(inpainting, CPU)(requests, FEW, lambda *step: told.append(step))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total in told} == {len(told)}
    alone = painter_of("sd1.5").open(inpainting, CPU)([requests[1]], FEW)[0]
    assert (alone.image == results[1].image).all()


@pytest.mark.parametrize("size", [(131, 77), (300, 260)])
def test_any_size(size: tuple[int, int], inpainting: Path) -> None:
    own = replace(request(2, *size), exemplar=None, prompt="a red dog")
    [result] = painter_of("sd1.5").open(inpainting, CPU)([own], FEW)
    mask = np.asarray(own.edit_mask)
    assert (result.image[~mask] == own.image[~mask]).all()
    assert (result.image[mask] != own.image[mask]).any()


def single_file(folder: Path, path: Path) -> None:
    """The weights of a folder in one file, by the names of latent diffusion."""
    own = StableDiffusionInpaintPipeline.from_pretrained(folder, **NO_CHECKER)
    config = tiny_config("model.unet.in_channels=9")
    state = {
        original.UNET_PREFIX + original._unet_name(k, config): v for k, v in own.unet.state_dict().items()
    }
    for name, value in own.vae.state_dict().items():
        called = original._vae_name(name, config)
        pointwise = "attn_1" in called and value.ndim == 2
        state[f"first_stage_model.{called}"] = value[..., None, None] if pointwise else value
    prefix = "cond_stage_model.transformer.text_model."
    state |= {
        prefix + name.removeprefix("text_model."): v for name, v in own.text_encoder.state_dict().items()
    }
    save_file({name: value.contiguous() for name, value in state.items()}, path)


def test_a_single_file_paints_as_its_folder(inpainting: Path, tmp_path: Path) -> None:
    file = tmp_path / "sd-v1-5-inpainting.safetensors"
    single_file(inpainting, file)
    own = asked()
    [folders] = painter_of("sd1.5").open(inpainting, CPU)([own], FEW)
    for path in inpainting.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".txt"):
            copy = tmp_path / file.stem / path.relative_to(inpainting)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    [files] = painter_of("sd1.5").open(file, CPU)([own], FEW)
    assert (files.image == folders.image).all()
    before = painter_of("sd1.5").fingerprint(file)
    file.write_bytes(file.read_bytes() + b" ")
    assert painter_of("sd1.5").fingerprint(file) != before


def test_edit_finds_the_folder_and_notes_it(inpainting: Path, tmp_path: Path) -> None:
    own = asked()
    Image.fromarray(own.image).save(tmp_path / "image.png")
    mask_of(own).save(tmp_path / "mask.png")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "stable-diffusion-inpainting").symlink_to(inpainting)
    out = tmp_path / "out.png"
    command = ["edit", "--model", "sd1.5", "--model-dir", str(tmp_path / "models"), "--prompt", own.prompt]
    command += ["--image", str(tmp_path / "image.png"), "--mask", str(tmp_path / "mask.png")]
    command += ["--out", str(out), "--seed", str(own.seed), "--num-inference-steps", "3", "--device", "cpu"]
    assert sample(command) == 0
    [result] = painter_of("sd1.5").open(inpainting, CPU)([own], FEW)
    assert (np.asarray(Image.open(out)) == result.image).all()
    noted = read_provenance(out)
    assert (noted.painter, noted.prompt) == ("sd1.5", "a red dog")
    assert noted.model.sha256 == painter_of("sd1.5").fingerprint(inpainting)


def test_wrong_weights(inpainting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = asked()
    Image.fromarray(own.image).save(tmp_path / "image.png")
    mask_of(own).save(tmp_path / "mask.png")
    (tmp_path / "bare.safetensors").touch()
    (tmp_path / "odd.bin").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionInpaintPipeline", "unet": ["diffusers", "Nothing"]})
    )
    said = {
        "sd1.5": "sd1.5 needs its weights: give --model sd1.5:PATH, a folder in diffusers' layout",
        f"sd2:{tmp_path}/none": "none does not exist; give a folder in diffusers' layout, or a single file",
        f"sd2:{tmp_path}": "is not a folder in diffusers' layout: it has no model_index.json",
        f"sd2:{tmp_path}/odd.bin": "must end in .safetensors or .ckpt, or be a folder in diffusers' layout",
        f"sd2:{tmp_path}/bare.safetensors": "has weights only: put the configs and the tokenizer of sd2's",
        f"instruct_pix2pix:{inpainting}": "is for StableDiffusionInpaintPipeline; instruct_pix2pix needs",
        f"sd1.5:{tmp_path}/broken": "cannot be loaded as diffusers' StableDiffusionInpaintPipeline",
    }
    rest = ["--image", str(tmp_path / "image.png"), "--mask", str(tmp_path / "mask.png"), "--prompt", "a dog"]
    for model, sentence in said.items():
        code = sample(["edit", "--model", model, *rest, "--out", str(tmp_path / "out.png")])
        shown = capsys.readouterr().err
        assert code in (1, 2) and sentence in shown, shown
    assert (
        sample(["edit", "--model", f"sd2:{inpainting}", *rest[:4], "--out", str(tmp_path / "out.png")]) == 2
    )
    assert "the prompt is missing" in capsys.readouterr().err
