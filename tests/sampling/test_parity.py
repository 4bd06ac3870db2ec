"""Our sampler against diffusers' PaintByExamplePipeline on one model folder.

The two differ on purpose in four places; the test takes diffusers' way in each, through the functions below
`edit`: the mask goes to the latent grid by nearest neighbour, the exemplar is cropped and not squashed, there
is no guidance up to a scale of 1, and the start noise is drawn before the noise of the autoencoder.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, PNDMScheduler
from diffusers.pipelines.deprecated import paint_by_example
from PIL import Image

from intarsia.conditioning import decode_latents, known_channels, mask_to_unit
from intarsia.conditions.condition import Part
from intarsia.weights import read_model
from sampling.canvas.canvas import lay_canvas
from sampling.denoise.condition import Encoder
from sampling.denoise.guidance import guided_model
from sampling.denoise.sampler import denoise, new_noise_scheduler
from sampling.settings import EditSettings
from tests.closeness import longest_sum, relative_error, rounding
from tests.paths import COCO_MINI

pytestmark = [pytest.mark.portable, pytest.mark.long]

PICTURES = sorted((COCO_MINI / "images").glob("*.jpg"))


@pytest.fixture(scope="module")
def pipeline(model_folder: Path) -> Any:
    """The deprecated pipeline, reached by the name under which folders on the Hub refer to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusers.pipelines, "paint_by_example", paint_by_example, raising=False)
        loaded = paint_by_example.PaintByExamplePipeline.from_pretrained(
            model_folder, requires_safety_checker=False
        )
    loaded.set_progress_bar_config(disable=True)
    return loaded


def pipeline_picture(pipeline: Any, inputs: tuple[Any, ...], steps: int, scale: float) -> torch.Tensor:
    """[1, 3, S, S], decoded and not clamped."""
    image, edit_mask, exemplar, seed = inputs
    latents = pipeline(
        example_image=Image.fromarray(exemplar),
        image=Image.fromarray(image),
        mask_image=Image.fromarray(edit_mask),
        num_inference_steps=steps,
        guidance_scale=scale,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images
    with torch.no_grad():
        return pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample


def our_picture(model: Any, pipeline: Any, inputs: tuple[Any, ...], settings: EditSettings) -> torch.Tensor:
    image, edit_mask, exemplar, seed = inputs
    generator = torch.Generator().manual_seed(seed)
    start_noise = torch.randn(1, 4, 32, 32, generator=generator)  # before the autoencoder's
    posterior_noise = torch.randn(1, 4, 32, 32, generator=generator)
    cropped = pipeline.feature_extractor(images=Image.fromarray(exemplar), return_tensors="pt").pixel_values
    pixels, mask = torch.from_numpy(image)[None], torch.from_numpy(edit_mask)[None]
    with torch.no_grad():
        encoder = Encoder(model, torch.device("cpu"))
        tokens = model.exemplar_encoder(model.encode_exemplar(cropped))
        told = Part("exemplar", tokens, model.exemplar_encoder.null_exemplar)
        condition = encoder.condition(pixels, mask, (told,), posterior_noise)
        nearest = F.interpolate(mask_to_unit(mask), (32, 32))
        condition = replace(
            condition,
            channels=known_channels(condition.channels[:, :4], nearest),
        )
        predict = guided_model(model.unet, condition, [settings.guidance_scale])
        scheduler = new_noise_scheduler(model.config.noise, settings.scheduler)
        latents = denoise(predict, scheduler, start_noise, settings.num_inference_steps)
        return decode_latents(model.vae, latents)


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("name", ["plms", "ddim"])
def test_the_same_folder_paints_the_same_picture_in_diffusers(
    pipeline: Any, model_folder: Path, name: str, scale: float
) -> None:
    if name == "ddim":
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    else:
        pipeline.scheduler = PNDMScheduler.from_pretrained(model_folder / "scheduler")
    edit_mask = np.zeros((64, 64), np.uint8)
    edit_mask[11:50, 17:47] = 255
    exemplar = np.asarray(Image.open(PICTURES[-1]).convert("RGB"))
    canvas = lay_canvas(edit_mask > 0, 64, EditSettings())
    image = canvas.fit_image(np.asarray(Image.open(PICTURES[0]).convert("RGB").resize((64, 64))))
    inputs = (image, edit_mask, exemplar, 31)
    expected = pipeline_picture(pipeline, inputs, steps=20, scale=scale)
    settings = EditSettings(num_inference_steps=20, guidance_scale=scale, scheduler=name)
    ours = our_picture(read_model(model_folder), pipeline, inputs, settings)
    assert expected.std() > 0.01, "a picture of nothing would prove nothing"
    networks = [getattr(pipeline, part) for part in ("unet", "vae", "image_encoder")]
    # Guidance multiplies the rounding of two answers.
    assert relative_error(ours, expected) < (1 + 2 * scale) * rounding(longest_sum(*networks))
