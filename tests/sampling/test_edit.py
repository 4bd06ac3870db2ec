"""Requests to results: alone or together, inside and outside the mask, what is refused."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from intarsia.errors import UserError
from intarsia.model import EditModel
from sampling.canvas.edits import EditRequest
from sampling.canvas.sheets import grid, with_hole
from sampling.editing import edit
from sampling.preview import preview_grid
from sampling.samplers import SAMPLERS
from sampling.settings import EditSettings
from tests.sampling.tiny import request

QUICK = EditSettings(num_inference_steps=4)
SIZES = [(64, 64), (90, 50), (33, 71), (200, 128), (64, 64)]


@pytest.fixture(scope="module")
def requests() -> list[EditRequest]:
    return [request(seed, *size) for seed, size in enumerate(SIZES)]


@pytest.mark.long
def test_a_picture_comes_out_the_same_alone_and_in_any_batch(
    model: EditModel, requests: list[EditRequest]
) -> None:
    alone = [edit(model, [one], QUICK)[0].image for one in requests]
    for batch_size in (2, 5):
        together = edit(model, requests, QUICK.model_copy(update={"batch_size": batch_size}))
        for one, other in zip(alone, together, strict=True):
            # A batched convolution may add in another order; a rounding at .5 can then move by one level.
            difference = np.abs(one.astype(int) - other.image)
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.001
    backwards = edit(model, requests[::-1], QUICK)[::-1]
    assert all(np.abs(a.astype(int) - b.image).max() <= 1 for a, b in zip(alone, backwards, strict=True))


@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_outside_the_mask_the_input_stays_bit_for_bit_and_inside_it_changes(
    model: EditModel, requests: list[EditRequest], scheduler: str
) -> None:
    results = edit(model, requests, EditSettings(num_inference_steps=2, scheduler=scheduler))
    for one, result in zip(requests, results, strict=True):
        assert result.image.shape == one.image.shape
        assert result.image.dtype == np.uint8
        assert (result.image[~one.edit_mask] == one.image[~one.edit_mask]).all()
        assert (result.image[one.edit_mask] != one.image[one.edit_mask]).mean() > 0.5
        assert result.request is one


def test_without_compositing_the_whole_picture_is_the_models(
    model: EditModel, requests: list[EditRequest]
) -> None:
    whole = edit(model, requests[:2], QUICK.model_copy(update={"composite": False}))
    inside = edit(model, requests[:2], QUICK)
    for one, a, b in zip(requests, whole, inside, strict=False):
        assert (a.image[one.edit_mask] == b.image[one.edit_mask]).all()
        assert (a.image[~one.edit_mask] != one.image[~one.edit_mask]).any()


def test_what_lies_in_the_hole_has_no_say(model: EditModel, requests: list[EditRequest]) -> None:
    """At the model's own size, the object that is replaced cannot leak into the result."""
    one = requests[0]
    painted = one.image.copy()
    painted[one.edit_mask] = (255, 0, 0)
    results = edit(model, [one, replace(one, image=painted)], QUICK)
    assert (results[0].image == results[1].image).all()


def test_seed_exemplar_and_guidance_each_change_the_result(
    model: EditModel, requests: list[EditRequest]
) -> None:
    one = requests[0]
    variants = [one, replace(one, seed=9), replace(one, exemplar=requests[1].exemplar)]
    base, other_seed, other_exemplar = (result.image for result in edit(model, variants, QUICK))
    unguided = edit(model, [one], QUICK.model_copy(update={"guidance_scale": 1.0}))[0].image
    for changed in (other_seed, other_exemplar, unguided):
        assert (changed != base).any()


def test_edits_leave_random_state_and_gradients_alone(model: EditModel, requests: list[EditRequest]) -> None:
    before = torch.get_rng_state()
    edit(model, requests[:1], QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_counts_every_step_of_every_batch(model: EditModel, requests: list[EditRequest]) -> None:
    seen: list[tuple[int, int]] = []
    few = EditSettings(num_inference_steps=4, scheduler="ddim", batch_size=2)
    edit(model, requests, few, lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 12) for i in range(12)]  # three batches of four steps


def test_no_requests_give_no_results(model: EditModel) -> None:
    assert edit(model, [], QUICK) == []


def test_parts_of_different_precision_work_together(requests: list[EditRequest], model: EditModel) -> None:
    """Training keeps the frozen parts in another precision than the UNet."""
    exact = edit(model, requests[:1], QUICK)[0].image
    model.vae.double()
    model.image_encoder.double()
    try:
        mixed = edit(model, requests[:1], QUICK)[0].image
    finally:
        model.float()
    assert np.abs(exact.astype(int) - mixed).max() <= 1


def test_a_mask_may_be_all_white_and_may_be_numbers(model: EditModel, requests: list[EditRequest]) -> None:
    one = requests[0]
    everything = replace(one, edit_mask=np.ones(one.edit_mask.shape, np.float32))
    assert (edit(model, [everything], QUICK)[0].image != one.image).mean() > 0.5
    numbers = replace(one, edit_mask=one.edit_mask.astype(np.float32) * 0.5)
    assert (edit(model, [numbers], QUICK)[0].image == edit(model, [one], QUICK)[0].image).all()


def test_masks_that_cannot_be_meant_are_refused_in_words(model: EditModel) -> None:
    one = request(0, 90, 50)
    cases = [
        (np.zeros((50, 90), bool), "the mask marks nothing to repaint"),
        (np.full((50, 90), 0.4, np.float32), "the mask marks nothing to repaint"),
        (np.ones((9, 50), bool), "the mask is 50 x 9 pixels but the picture 90 x 50"),
    ]
    for edit_mask, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            edit(model, [replace(one, edit_mask=edit_mask)], QUICK)
    large = request(0, 640, 640)
    dot = np.zeros((640, 640), bool)
    dot[3, 3] = True
    with pytest.raises(UserError, match="a mask marks too small an area for 64 x 64 pixels"):
        edit(model, [replace(large, edit_mask=dot)], QUICK.model_copy(update={"fit": "resize"}))


def test_broken_weights_are_told_and_not_painted_black(model: EditModel) -> None:
    broken = copy.deepcopy(model)
    broken.unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"not finite \(dtype torch\.float32\); use float32 or bfloat16"):
        edit(broken, [request(0)], QUICK)


# -- preview -----------------------------------------------------------------------------------------------


def test_the_grid_shows_hole_exemplar_edit_and_truth(model: EditModel, requests: list[EditRequest]) -> None:
    results = edit(model, requests[:2], QUICK)
    narrow = grid(results, cell=64)
    wide = grid(results, truths=[one.image for one in requests[:2]], cell=64)
    assert wide.width - narrow.width == 64 + 8
    assert wide.height == narrow.height == 22 + 2 * (64 + 8)
    pixels = np.asarray(wide)
    first_row = slice(22, 22 + 64)
    assert (pixels[first_row, 8:72] == with_hole(requests[0])).all()
    assert (pixels[first_row, 152:216] == results[0].image).all()
    assert (pixels[first_row, 224:288] == requests[0].image).all()


def test_the_hole_is_grey_inside_and_the_picture_outside() -> None:
    one = request(3, 40, 30)
    holed = with_hole(one)
    assert (holed[one.edit_mask] == 128).all()
    assert (holed[~one.edit_mask] == one.image[~one.edit_mask]).all()


def test_a_preview_of_the_same_weights_is_the_same_picture(
    model: EditModel, requests: list[EditRequest]
) -> None:
    one, same = (preview_grid(model, requests[:2], QUICK) for _ in range(2))
    assert one.tobytes() == same.tobytes()
