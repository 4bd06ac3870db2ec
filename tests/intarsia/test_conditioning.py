"""The conditioning arithmetic against its definition and against peers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import BitImageProcessor, CLIPImageProcessor, SiglipImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from intarsia.conditioning import (
    decode_latents,
    encode_latents,
    image_to_unit,
    known_channels,
    latent_mask,
    mask_image,
    mask_to_unit,
    normalise_exemplar,
    unit_to_image,
)
from intarsia.towers.settings import TOWERS
from tests.closeness import longest_sum, relative_error, rounding
from tests.sampling.tiny import tiny_model

pytestmark = pytest.mark.portable


def test_every_level_survives_the_way_to_the_unit_range_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 16, 3)
    unit = image_to_unit(levels)
    assert unit.shape == (1, 3, 16, 16)
    assert (unit.min(), unit.max()) == (-1, 1)
    assert torch.equal(unit_to_image(unit), levels)
    assert torch.equal(unit_to_image(unit * 3), unit_to_image((unit * 3).clamp(-1, 1)))


def test_the_latent_mask_reads_between_pixels_3_and_4_of_each_cell() -> None:
    for pixel in range(64):
        edit_mask = torch.zeros(1, 1, 64, 64)
        edit_mask[..., pixel] = 1  # one column
        seen = latent_mask(edit_mask, (8, 8))[0, 0, 0]
        expected = torch.zeros(8)
        if pixel % 8 in (3, 4):
            expected[pixel // 8] = 0.5
        assert torch.equal(seen, expected)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_binary_mask_has_quarters_on_the_latent_grid(seed: int) -> None:
    edit_mask = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (2, 1, 64, 128))).float()
    cells = latent_mask(edit_mask, (8, 16))
    assert set(cells.unique().tolist()) <= {0, 0.25, 0.5, 0.75, 1}
    mean_of_four = edit_mask.unflatten(3, (16, 8)).unflatten(2, (8, 8))[:, :, :, 3:5, :, 3:5].mean((3, 5))
    assert torch.equal(cells, mean_of_four)


def test_the_hole_is_mid_grey_and_the_rest_untouched() -> None:
    image = torch.rand(1, 3, 8, 8) * 2 - 1
    edit_mask = mask_to_unit(torch.tensor([[[255] * 4 + [0] * 4] * 8], dtype=torch.uint8))
    masked = mask_image(image, edit_mask)
    assert (masked[..., :4] == 0).all()
    assert torch.equal(masked[..., 4:], image[..., 4:])


def test_behind_the_noisy_latents_come_the_masked_image_and_then_the_keep_mask() -> None:
    masked = torch.full((2, 4, 8, 8), 7.0)
    edit_mask = torch.zeros(2, 1, 8, 8)
    edit_mask[..., :2, :] = 1
    channels = known_channels(masked, edit_mask)
    assert channels.shape == (2, 5, 8, 8)
    assert torch.equal(channels[:, :4], masked)
    assert (channels[:, 4, :2] == 0).all(), "0 = repaint for the UNet"
    assert (channels[:, 4, 2:] == 1).all(), "1 = keep for the UNet"


# DINOv2's published folders name transformers' `BitImageProcessor` with ImageNet's mean and deviation.
PROCESSORS = {
    "clip": CLIPImageProcessor(),
    "dinov2": BitImageProcessor(image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD),
    "siglip": SiglipImageProcessor(),
}


@pytest.mark.parametrize("name", TOWERS)
def test_the_exemplar_is_normalised_as_the_towers_own_processor_does(name: str) -> None:
    exemplar = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    expected = PROCESSORS[name](images=Image.fromarray(exemplar), return_tensors="pt").pixel_values
    row = TOWERS[name]
    ours = normalise_exemplar(torch.from_numpy(exemplar)[None], 224, row.mean, row.deviation)
    assert relative_error(ours, expected) < rounding(1)


def test_an_exemplar_for_a_smaller_encoder_keeps_its_mean() -> None:
    exemplar = torch.full((1, 224, 224, 3), 100, dtype=torch.uint8)
    colours = TOWERS["clip"].mean, TOWERS["clip"].deviation
    small, whole = (normalise_exemplar(exemplar, side, *colours) for side in (32, 224))
    assert small.shape == (1, 3, 32, 32)
    ours, expected = (pixels.double().mean((2, 3)) for pixels in (small, whole))
    assert relative_error(ours, expected) < rounding(2 * 14)  # pixels that a triangle 7 times as wide reaches


def test_latents_are_the_scaled_posterior_of_the_autoencoder() -> None:
    vae = tiny_model().vae
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(image).latent_dist
        drawn = posterior.sample(torch.Generator().manual_seed(7)) * 0.18215
        noise = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(7))
        limit = rounding(longest_sum(vae))
        assert relative_error(encode_latents(vae, image, noise), drawn) < limit
        assert relative_error(encode_latents(vae, image, None), posterior.mode() * 0.18215) < limit
        assert relative_error(decode_latents(vae, drawn), vae.decode(drawn / 0.18215).sample) < limit


@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_latent_masks_of_any_size(size: tuple[int, int]) -> None:
    assert latent_mask(torch.ones(1, 1, size[0] * 8, size[1] * 8), size).shape == (1, 1, *size)
