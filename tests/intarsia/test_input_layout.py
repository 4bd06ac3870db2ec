"""The two orders of the UNet's input channels: Paint by Example's, and Stable Diffusion's for inpainting."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intarsia.conditioning import known_channels, latent_mask, mask_to_unit, told_mask
from tests.closeness import relative_error, rounding


def random_mask(rng: torch.Generator) -> Tensor:
    """A binary mask uint8 [2, 64, 64] that reaches the border of the picture."""
    cells = torch.rand(2, 1, 8, 8, generator=rng) < 0.5
    return (F.interpolate(cells.float(), (64, 64), mode="nearest")[:, 0] * 255).to(torch.uint8)


def test_both_layouts_tell_the_same_five_facts() -> None:
    """Masked image, and where to repaint: the same numbers in another order, the mask inverted."""
    rng = torch.Generator().manual_seed(0)
    masked, edit_mask = torch.randn(2, 4, 8, 8, generator=rng), mask_to_unit(random_mask(rng))
    grid = latent_mask(edit_mask, (8, 8))
    assert torch.equal(grid, latent_mask(edit_mask, (8, 8), "sd"))  # the mask follows the cells
    pbe, sd = known_channels(masked, grid), known_channels(masked, grid, "sd")
    assert torch.equal(torch.cat([1 - pbe[:, 4:], pbe[:, :4]], dim=1), sd)
    assert not torch.equal(pbe, sd)


def test_stable_diffusion_is_told_a_binary_mask_by_its_nearest_pixel() -> None:
    soft = torch.zeros(1, 16, 16, dtype=torch.uint8)
    soft[:, 4], soft[:, 5:8], soft[:, 8], soft[:, 9] = 127, 255, 128, 127
    binary = told_mask(soft, "sd")
    assert torch.equal(told_mask(soft), soft)
    assert binary[0, :, 0].tolist() == [0] * 5 + [255] * 4 + [0] * 7
    # 16 pixels to 4 cells: cell i is pixel 4 i; Paint by Example's is the mean of 4 i + 1 and 4 i + 2.
    assert latent_mask(mask_to_unit(binary), (4, 4), "sd")[0, 0, :, 0].tolist() == [0, 0, 1, 0]
    assert latent_mask(mask_to_unit(binary), (4, 4))[0, 0, :, 0].tolist() == [0, 1, 0, 0]


@pytest.mark.portable
def test_the_polarity_cannot_be_folded_into_the_weights() -> None:
    """W_mask · m = -W_mask · (1 - m) + the sum of W_mask, except along the border, which is padded with 0."""
    rng = torch.Generator().manual_seed(1)
    theirs, ours = (nn.Conv2d(9, 32, 3, padding=1) for _ in range(2))
    with torch.no_grad():
        for param in theirs.parameters():
            param.copy_(torch.randn(param.shape, generator=rng))
        noisy, mask, masked = theirs.weight.split([4, 1, 4], dim=1)
        ours.weight.copy_(torch.cat([noisy, masked, -mask], dim=1))
        ours.bias.copy_(theirs.bias + mask.sum(dim=(1, 2, 3)))
    latents, masked_latents = torch.randn(2, 2, 4, 16, 16, generator=rng)
    grid = latent_mask(mask_to_unit(random_mask(rng)), (16, 16))
    right = theirs(torch.cat([latents, known_channels(masked_latents, grid, "sd")], dim=1))
    folded = ours(torch.cat([latents, known_channels(masked_latents, grid)], dim=1))
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert relative_error(folded[inside], right[inside]) < rounding(9 * 9)
    assert relative_error(folded, right) > 0.1  # the border
