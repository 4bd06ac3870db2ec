"""Edits that a prompt describes: against diffusers' own pipelines, with two scales, and from the commands."""

import base64
import csv
import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionInpaintPipeline
from PIL import Image
from torch import Tensor

from intarsia.conditioning import decode_latents
from intarsia.conditions.condition import Condition, Part
from intarsia.errors import UserError
from intarsia.model import EditModel
from intarsia.weights import read_model, save_model
from sampling import editing
from sampling.canvas.edits import EditRequest, EditResult
from sampling.cli import main
from sampling.denoise.guidance import guided_noise
from sampling.denoise.sampler import image_noise
from sampling.editing import edit
from sampling.jobs import read_jobs
from sampling.painters.own import painting_with
from sampling.preview import preview_grid
from sampling.provenance import pattern, read_provenance
from sampling.settings import EditSettings, MachineSettings
from sampling.web.api import _order
from sampling.web.service import Limits, Service
from tests.closeness import longest_sum, relative_error, rounding
from tests.sampling.tiny import request
from tests.text import make_stable_diffusion, text_model

STEPS = 4
FEW = EditSettings(num_inference_steps=2, scheduler="ddim")


@pytest.fixture(scope="module")
def both() -> EditModel:
    return text_model(4, "both")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Stable Diffusion's folders by the number of their input channels."""
    return {number: make_stable_diffusion(tmp_path_factory.mktemp("sd"), number) for number in (4, 9)}


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "model"
    save_model(text_model(7, "text", "model.unet.input_layout=sd"), folder)
    return folder


def prompted(seed: int, prompt: str = "a red dog") -> EditRequest:
    """The mask follows the cells of the latents, two pixels each: their border is where nearest puts it."""
    own = request(seed)
    mask = np.zeros_like(own.edit_mask)
    mask[16:48, 20:46] = True
    return replace(own, exemplar=None, prompt=prompt, edit_mask=mask)


def their_latents(pipeline: StableDiffusionInpaintPipeline, asked: EditRequest, **options: float) -> Tensor:
    """What diffusers makes of a request from the same noise, [1, 4, 32, 32]."""
    return pipeline(
        asked.prompt,
        image=Image.fromarray(asked.image),
        mask_image=Image.fromarray(asked.edit_mask),
        height=64,
        width=64,
        num_inference_steps=STEPS,
        latents=image_noise(asked.seed, (4, 32, 32), draws=2)[1:],
        generator=torch.Generator().manual_seed(asked.seed),  # its first draw is that of the autoencoder
        output_type="latent",
        **options,
    ).images


def our_latents(
    model: EditModel, asked: EditRequest, settings: EditSettings, patch: pytest.MonkeyPatch
) -> Tensor:
    found = []

    def record(vae: Any, latents: Tensor) -> Tensor:
        found.append(latents)
        return decode_latents(vae, latents)

    patch.setattr(editing, "decode_latents", record)
    edit(model, [asked], settings)
    return found[0]


@pytest.mark.portable
@pytest.mark.parametrize(
    ("channels", "scheduler", "scale"),
    [(9, "plms", 7.5), (9, "ddim", 1.0), (4, "plms", 7.5), (4, "ddim", 3.0)],
)
def test_a_folder_of_diffusers_edits_as_in_diffusers(
    folders: dict[int, Path], channels: int, scheduler: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine channels: the inpainting model. Four: a text-to-image model, the known latents put back."""
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(folders[channels])
    pipeline.set_progress_bar_config(disable=True)
    kind = {"plms": PNDMScheduler, "ddim": DDIMScheduler}[scheduler]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, clip_sample=False)
    asked = prompted(5)
    expected = their_latents(pipeline, asked, guidance_scale=scale)
    model = read_model(folders[channels])
    settings = EditSettings(
        num_inference_steps=STEPS,
        scheduler=scheduler,
        text_guidance_scale=scale,
        known_region="model" if channels == 9 else "replace",
    )
    ours = our_latents(model, asked, settings, monkeypatch)
    assert expected.std() > 0.1
    limit = (1 + 2 * scale) * rounding(longest_sum(model.unet, model.vae, model.text_encoder))
    assert relative_error(ours, expected) < min(limit, 1e-4)
    other = our_latents(model, replace(asked, prompt="a blue cat"), settings, monkeypatch)
    assert relative_error(other, expected) > 1e-3, "a prompt without effect would prove nothing"


def test_a_folder_of_ours_edits_in_diffusers_as_it_is(
    text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(text_folder)
    pipeline.set_progress_bar_config(disable=True)
    model, asked = read_model(text_folder), prompted(6)
    expected = their_latents(pipeline, asked)
    ours = our_latents(model, asked, EditSettings(num_inference_steps=STEPS), monkeypatch)
    assert relative_error(ours, expected) < 16 * rounding(longest_sum(model.unet, model.vae))


def test_a_text_to_image_model_sees_no_picture_and_says_so(folders: dict[int, Path]) -> None:
    model = read_model(folders[4])
    with pytest.raises(UserError, match="4 input channels and cannot see the picture outside the mask; use"):
        edit(model, [prompted(1)], FEW)
    [result] = edit(model, [prompted(1)], FEW.model_copy(update={"known_region": "replace"}))
    assert any("does not see the picture around the mask" in remark for remark in result.remarks)


# -- two scales ------------------------------------------------------------------------------------------


def two_parts(rows: int) -> tuple[Condition, Tensor]:
    rng = torch.Generator().manual_seed(rows)
    shapes = [(rows, 1, 32), (1, 1, 32), (rows, 24, 32), (1, 24, 32), (rows, 5, 16, 16), (rows, 4, 16, 16)]
    exemplar, no_exemplar, text, no_text, channels, latents = (
        torch.randn(shape, generator=rng) for shape in shapes
    )
    parts = (Part("exemplar", exemplar, no_exemplar), Part("text", text, no_text))
    return Condition(parts, channels), latents


@pytest.mark.portable
@torch.no_grad()
def test_the_text_is_added_to_the_exemplar(both: EditModel) -> None:
    """e(0, 0) + w_E (e(E, 0) - e(0, 0)) + w_T (e(E, T) - e(E, 0))."""
    condition, latents = two_parts(3)
    every, when = torch.arange(3), torch.tensor(400)
    nothing, exemplar, whole = (
        condition.select(every, told).predict(both.unet, latents, when)
        for told in ([], ["exemplar"], ["exemplar", "text"])
    )
    assert relative_error(whole, exemplar) > 1e-3
    assert relative_error(exemplar, nothing) > 1e-3
    limit = rounding(longest_sum(both.unet))
    for scales in [(1.0, 1.0), (1.0, 4.0), (3.0, 3.0), (2.0, 5.0), (4.0, 0.0), (0.0, 0.0)]:
        expected = nothing + scales[0] * (exemplar - nothing) + scales[1] * (whole - exemplar)
        answer = guided_noise(both.unet, latents, when, condition, [scales] * 3)
        assert relative_error(answer, expected) < (1 + 2 * sum(scales)) * limit
    mixed = [(1.0, 1.0), (2.0, 5.0), (3.0, 3.0)]
    answer = guided_noise(both.unet, latents, when, condition, mixed)
    alone = [guided_noise(both.unet, latents, when, condition, [scales] * 3) for scales in mixed]
    for row in range(3):
        assert relative_error(answer[row], alone[row][row]) < 15 * limit


@pytest.mark.parametrize(
    ("scales", "rows"),
    [((1.0, 1.0), 2), ((1.0, 7.0), 4), ((3.0, 3.0), 4), ((5.0, 7.5), 6), ((5.0, 1.0), 6)],
)
@torch.no_grad()
def test_branches_that_cancel_out_are_not_computed(
    both: EditModel, scales: tuple[float, float], rows: int
) -> None:
    condition, latents = two_parts(2)
    seen = []
    hook = both.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    guided_noise(both.unet, latents, torch.tensor(5), condition, [scales, scales])
    hook.remove()
    assert seen == [rows]


@pytest.mark.long
def test_what_is_not_told_has_no_scale_and_costs_nothing(both: EditModel) -> None:
    seen = []
    hook = both.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    own = request(2)
    silent, spoken = replace(own, prompt=""), replace(own, exemplar=None, prompt="a dog")
    whole = replace(own, prompt="a dog")

    def painted(asked: EditRequest, **settings: float) -> np.ndarray:
        return edit(both, [asked], FEW.model_copy(update=settings))[0].image

    assert np.array_equal(painted(silent), painted(silent, text_guidance_scale=2.0))
    assert np.array_equal(painted(spoken), painted(spoken, guidance_scale=2.0))
    assert set(seen) == {2}
    assert (painted(whole) != painted(whole, text_guidance_scale=2.0)).any()
    assert (painted(whole) != painted(whole, guidance_scale=2.0)).any()
    assert set(seen) == {2, 3}
    hook.remove()
    together = edit(both, [silent, spoken, whole], FEW)
    for asked, result in zip([silent, spoken, whole], together, strict=True):
        assert np.abs(result.image.astype(int) - painted(asked)).max() <= 1


def test_what_the_model_is_not_told_is_refused(both: EditModel, text_folder: Path) -> None:
    text, plain = read_model(text_folder), text_model(4, "both")
    own = request(1)

    def refused(model: EditModel, asked: EditRequest, settings: EditSettings = FEW) -> str:
        with pytest.raises(UserError) as error:
            edit(model, [asked], settings)
        return str(error.value)

    assert "told a prompt only, and an exemplar is given" in refused(text, own)
    assert "the prompt is missing" in refused(text, replace(own, exemplar=None))
    assert "exemplar and prompt are missing" in refused(plain, replace(own, exemplar=None))
    scale = FEW.model_copy(update={"guidance_scale": 3.0})
    assert (
        "guidance_scale is for the exemplar, which this model is not told; use text_guidance_scale"
        in refused(text, prompted(1), scale)
    )
    remarks = edit(text, [prompted(1, "word " * 20)], FEW)[0].remarks
    assert any("the prompt has 80 tokens, and the model reads the first 22" in remark for remark in remarks)


def test_a_preview_shows_each_condition_alone_and_both(both: EditModel) -> None:
    asked = replace(request(1), prompt="square")
    grid = preview_grid(both, [asked, asked], FEW, [asked.image] * 2)
    alone = preview_grid(both, [replace(asked, prompt="")], FEW, [asked.image])
    assert (grid.width - 8) / 264 == 6, "hole, exemplar, three edits, truth"
    assert (alone.width - 8) / 264 == 4


# -- commands ---------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    own = prompted(3)
    pictures = {
        "image": own.image,
        "mask": own.edit_mask.astype(np.uint8) * 255,
        "exemplar": request(3).exemplar,
    }
    paths = {name: tmp_path / f"{name}.png" for name in pictures}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(paths[name])
    return paths


def words_of(files: dict[str, Path], model: Path, **more: str) -> list[str]:
    given = {name: str(path) for name, path in files.items() if name != "exemplar"} | {"model": str(model)}
    given |= {"out": str(files["image"].with_name("out.png")), "num-inference-steps": "2", "device": "cpu"}
    pairs = (given | {name.replace("_", "-"): value for name, value in more.items()}).items()
    return ["edit", *(word for name, value in pairs for word in (f"--{name}", value))]


def test_a_prompt_edits_and_the_result_says_how(
    text_folder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words_of(files, text_folder, prompt="a red dog", text_guidance_scale="4")) == 0
    made = read_provenance(tmp_path / "out.png")
    assert (made.prompt, made.exemplar, made.settings["text_guidance_scale"]) == ("a red dog", None, 4.0)
    assert main(["show", str(tmp_path / "out.png")]) == 0
    again = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert main(again[3:]) == 0
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "out-again.png").read_bytes()
    assert main(words_of(files, text_folder, prompt="a red dog", text_guidance_scale="1,4")) == 0
    assert {path.name for path in tmp_path.glob("out-t*.png")} == {"out-t1.png", "out-t4.png"}
    assert np.array_equal(*(np.asarray(Image.open(tmp_path / name)) for name in ("out.png", "out-t4.png")))


def test_what_the_command_cannot_tell_the_model_is_refused_before_it_loads(
    text_folder: Path, model_folder: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(model: Path, **more: str) -> str:
        assert main(words_of(files, model, **more)) == 2
        return capsys.readouterr().err

    assert "error: the prompt is missing" in refused(text_folder)
    other = "error: the text 'a \\udcff dog' is not UTF-8 at character 3; check its encoding\n"
    assert refused(text_folder, prompt="a \udcff dog") == other
    assert "remove the exemplar" in refused(text_folder, prompt="x", exemplar=str(files["exemplar"]))
    assert "remove the prompt" in refused(model_folder, prompt="x", exemplar=str(files["exemplar"]))
    assert "the exemplar is missing" in refused(model_folder)
    assert "use text_guidance_scale instead" in refused(text_folder, prompt="x", guidance_scale="5")
    assert "use guidance_scale instead" in refused(
        model_folder, exemplar=str(files["exemplar"]), text_guidance_scale="7.5"
    )


def test_a_list_has_a_column_for_prompts(
    text_folder: Path, model_folder: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    rows = [{"name": "a", "prompt": "a dog"}, {"name": "b", "prompt": ""}, {"name": "c", "prompt": "a cat"}]
    with (tmp_path / "jobs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["name", "prompt", "image", "mask"])
        writer.writeheader()
        writer.writerows(row | {"image": "image.png", "mask": "mask.png"} for row in rows)
    words = ["batch", str(tmp_path / "jobs.csv"), "--model", str(text_folder), "--out", str(tmp_path / "out")]
    words += ["--num-inference-steps", "2", "--device", "cpu"]
    assert main(words) == 1
    records = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert {record["name"]: record["status"] for record in records} == {"a": "ok", "b": "failed", "c": "ok"}
    assert "the prompt is missing" in records[0]["error"]
    assert records[-1]["prompt"] == "a cat"
    before = (tmp_path / "out/a.png").stat().st_mtime_ns
    assert main(words) == 1
    assert (tmp_path / "out/a.png").stat().st_mtime_ns == before
    (tmp_path / "jobs.csv").write_text((tmp_path / "jobs.csv").read_text().replace("a dog", "a bird"))
    assert main(words) == 1
    assert (tmp_path / "out/a.png").stat().st_mtime_ns > before, "another prompt is another edit"
    with pytest.raises(UserError, match="no column exemplar"):
        read_jobs(tmp_path / "jobs.csv")


def test_a_folder_may_have_prompts_maps_and_outlines(files: dict[str, Path], tmp_path: Path) -> None:
    place = tmp_path / "jobs"
    for kind, names in {
        "image": ("a", "b", "c"),
        "mask": ("a", "b", "c"),
        "exemplar": ("a", "b"),
        "exemplar_mask": ("a",),
        "structure": ("b",),
    }.items():
        (place / kind).mkdir(parents=True)
        for name in names:
            (place / kind / f"{name}.png").write_bytes(files["image"].read_bytes())
    (place / "prompt").mkdir()
    (place / "prompt" / "b.txt").write_text("a red dog\n")
    (place / "prompt" / "c.txt").write_bytes("\ufeffein Hündchen".encode())
    found = {job.name: job for job in read_jobs(place, ("exemplar", "text"))}
    assert [job.error for job in found.values()] == ["", "", ""]
    assert [job.prompt for job in found.values()] == ["", "a red dog", "ein Hündchen"]
    assert found["a"].files["exemplar_mask"] == place / "exemplar_mask" / "a.png"
    assert found["b"].structure == {"edges": place / "structure" / "b.png"}
    assert not {"exemplar", "exemplar_mask"} & found["c"].files.keys()
    errors = [job.error for job in read_jobs(place)]
    assert "no picture called c in exemplar/" in errors[2]
    assert "and a prompt is given; remove the prompt" in errors[1]
    (place / "exemplar").rename(tmp_path / "elsewhere")
    assert "exemplar and prompt are missing" in read_jobs(place, ("exemplar", "text"))[0].error
    text_only = read_jobs(place, ("text",))
    assert [job.error for job in text_only][1:] == ["", ""]
    (place / "prompt" / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"b\.txt is not text in UTF-8"):
        read_jobs(place, ("text",))
    (place / "mask").rename(tmp_path / "masks")
    with pytest.raises(UserError, match=r"has no folder mask/; required: image/, mask/$"):
        read_jobs(place, ("text",))


def test_the_endpoint_takes_a_prompt(text_folder: Path, files: dict[str, Path], tmp_path: Path) -> None:
    model = read_model(text_folder)
    shared = pattern(text_folder, MachineSettings(device="cpu"))
    service = Service(painting_with(model), shared, tmp_path / "kept", Limits(), ("text",))
    body = {name: base64.b64encode(files[name].read_bytes()).decode() for name in ("image", "mask")}
    body |= {"prompt": "a red dog", "num_inference_steps": 2, "seed": 3, "scheduler": "ddim"}
    [made] = service.edit(_order(service, json.dumps(body).encode(), batch_size=1))
    alone: EditResult = edit(model, [prompted(3)], FEW)[0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(made.path.read_bytes()))), alone.image)
    assert read_provenance(made.path).prompt == "a red dog"
    for wrong, sentence in (
        ({"prompt": ""}, "the prompt is missing"),
        ({"exemplar": body["image"]}, "remove the exemplar"),
        ({"guidance_scale": 5.0}, "use text_guidance_scale instead"),
    ):
        with pytest.raises(UserError, match=sentence):
            _order(service, json.dumps(body | wrong).encode(), batch_size=1)
