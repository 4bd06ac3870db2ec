"""Inversion: what each method promises, on a model whose noise is known in closed form and on a tiny one."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from intarsia.architecture import NoiseConfig
from intarsia.weights import save_model
from sampling.canvas.canvas import fit_exemplar
from sampling.cli import main
from sampling.denoise.condition import Encoder
from sampling.denoise.guidance import guided_noise
from sampling.denoise.sampler import new_noise_scheduler
from sampling.methods.inversion import (
    Inverted,
    Levels,
    Tokens,
    ddim_inversion,
    find_source,
    invert,
    most_calls,
    move,
    new_levels,
)
from sampling.methods.run_inversion import model_denoiser
from sampling.settings import InversionMethod, InversionSettings
from tests.closeness import longest_sum, relative_error, rounding
from tests.sampling.tiny import request, tiny_model

NOISE = NoiseConfig()
SHAPE = (2, 4, 6, 6)
WIDTH = 0.3  # deviation of the clean latents about the mean that a token names


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(latents: Tensor, timestep: int, token: Tensor) -> Tensor:
    """E[noise | latents] where clean latents are normal about tanh(token), with a mean for each channel."""
    signal = float(new_noise_scheduler(NOISE, "ddim").alphas_cumprod[timestep])
    mean = torch.tanh(token).transpose(1, 2)[..., None]
    scatter = signal * WIDTH**2 + 1 - signal
    return (1 - signal) ** 0.5 * (latents - signal**0.5 * mean) / scatter


def tokens() -> Tokens:
    return Tokens(*(torch.randn(1, 1, 4, generator=generator(seed)) for seed in (1, 2, 3)))


def clean_latents() -> Tensor:
    mean = torch.tanh(tokens().source).transpose(1, 2)[..., None]
    return mean + WIDTH * torch.randn(SHAPE, generator=generator(9))


def run(keep: Tensor | None = None, denoiser: Callable = gaussian, **options: object) -> Inverted:
    settings = InversionSettings(**options)
    levels = new_levels(NOISE, settings.num_inference_steps)
    noise = torch.randn((settings.num_inference_steps, *SHAPE), generator=generator(5))
    return invert(denoiser, clean_latents(), tokens(), settings, levels, keep, noise)


def error(inverted: Inverted) -> float:
    latents = clean_latents()
    return float((inverted.reconstruction - latents).norm() / latents.norm())


@pytest.mark.portable
@pytest.mark.parametrize("steps", [10, 50])
def test_the_way_up_is_that_of_diffusers_inverse_scheduler(steps: int) -> None:
    levels = new_levels(NOISE, steps)
    peer = diffusers.DDIMInverseScheduler(
        **{k: v for k, v in NOISE.model_dump().items() if k != "rescale_betas_zero_snr"},
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )
    peer.set_timesteps(steps)
    latents, source = clean_latents(), tokens().source
    upwards = ddim_inversion(gaussian, latents, source, levels)
    # The peer's step at t goes from t − Δ to t and takes the noise of t; its timesteps are the lower ends.
    theirs = latents
    for place, timestep in enumerate(levels.timesteps):
        assert relative_error(upwards[place], theirs) < rounding(steps)
        theirs = peer.step(gaussian(theirs, timestep, source.expand(2, -1, -1)), timestep, theirs).prev_sample
    assert relative_error(upwards[-1], theirs) < rounding(steps)


@pytest.mark.portable
def test_a_step_down_is_diffusers_ddim_step() -> None:
    levels = new_levels(NOISE, 20)
    scheduler = new_noise_scheduler(NOISE, "ddim")
    scheduler.set_timesteps(20)
    latents, noise = torch.randn(2, *SHAPE, generator=generator())
    for place in range(levels.steps, 0, -1):
        theirs = scheduler.step(noise, levels.timesteps[place - 1], latents).prev_sample
        ours = move(latents, noise, levels.signal[place], levels.signal[place - 1])
        assert relative_error(ours, theirs) < rounding(10)  # operations of a step


def test_ddim_inversion_comes_back_the_better_the_more_steps_but_not_under_guidance() -> None:
    errors = [error(run(method="ddim", guidance_scale=1, num_inference_steps=n)) for n in (10, 50, 200)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert error(run(method="ddim", guidance_scale=7.5)) > 10 * errors[1]


@pytest.mark.portable
def test_the_direct_source_branch_is_exact_at_any_scale() -> None:
    for scale in (1.0, 7.5):
        assert error(run(method="direct", guidance_scale=scale)) < rounding(50)  # steps


def test_adding_the_difference_back_gives_what_storing_gives() -> None:
    """The published form, an offset at every step, against the stored trajectory that replaces it."""
    settings = InversionSettings(method="direct", num_inference_steps=20)
    nearly = settings.model_copy(update={"offset_scale": 1 - 1e-12})
    levels = new_levels(NOISE, 20)
    one, other = (
        find_source(gaussian, clean_latents().double(), tokens(), s, levels).latents
        for s in (settings, nearly)
    )
    assert one.keys() == other.keys()
    assert max(float((one[place] - other[place]).abs().max()) for place in one) < 1e-9


def test_less_of_the_difference_reconstructs_worse() -> None:
    errors = [error(run(method="direct", offset_scale=share)) for share in (1.0, 0.8, 0.4, 0.0)]
    assert errors == sorted(errors)
    assert errors[-1] == error(run(method="ddim"))


def test_the_offset_leaves_the_target_branch_alone() -> None:
    with_all, with_none = run(method="direct"), run(method="ddim")
    assert torch.equal(with_all.edit, with_none.edit)


def test_optimised_null_tokens_lower_the_error_of_guided_ddim() -> None:
    plain = error(run(method="ddim", num_inference_steps=20))
    assert error(run(method="null-condition", num_inference_steps=20)) < 0.8 * plain


@pytest.mark.portable
def test_the_negative_condition_reconstructs_like_ddim_at_scale_one() -> None:
    expected = run(method="ddim", guidance_scale=1).reconstruction
    for scale in (1.0, 3.0, 7.5):
        got = run(method="negative-condition", guidance_scale=scale)
        assert relative_error(got.reconstruction, expected) < rounding(50)  # steps


@pytest.mark.portable
@pytest.mark.parametrize("strength", [None, 1.0, 0.3])
def test_ddpm_inversion_comes_back_exactly(strength: float | None) -> None:
    assert error(run(method="ddpm", strength=strength)) < rounding(50)  # steps


@pytest.mark.parametrize("method", ["direct", "negative-condition", "ddpm"])
def test_editing_towards_the_source_itself_unguided_changes_next_to_nothing(method: str) -> None:
    settings = InversionSettings(method=method, guidance_scale=1)
    same = Tokens(tokens().source, tokens().source, tokens().null)
    noise = torch.randn((50, *SHAPE), generator=generator(5))
    result = invert(gaussian, clean_latents(), same, settings, new_levels(NOISE, 50), None, noise)
    assert float((result.edit - clean_latents()).norm() / clean_latents().norm()) < 0.1


@pytest.mark.parametrize("method", get_args(InversionMethod))
def test_the_edit_goes_to_the_target_and_its_kept_part_is_the_source_branch(method: str) -> None:
    keep = torch.zeros(SHAPE[0], 1, *SHAPE[2:])
    keep[..., :3] = 1
    result = run(keep, method=method, guidance_scale=3, num_inference_steps=20, strength=1.0)
    assert torch.equal(result.edit[..., :3], result.reconstruction[..., :3])
    target, source = (torch.tanh(token)[0, 0] for token in (tokens().target, tokens().source))
    painted = result.edit[..., 3:].mean((0, 2, 3))
    assert (painted - target).norm() < (painted - source).norm()


def test_a_later_start_stays_nearer_to_the_picture() -> None:
    distances = [
        float((run(method="direct", strength=s).edit - clean_latents()).norm()) for s in (0.2, 0.6, 1.0)
    ]
    assert distances == sorted(distances)


@pytest.mark.parametrize("method", get_args(InversionMethod))
def test_calls_are_announced_and_direct_takes_fewer_than_null_condition(method: str) -> None:
    calls = 0

    def counted(latents: Tensor, timestep: int, token: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return gaussian(latents, timestep, token)

    settings = InversionSettings(method=method, num_inference_steps=10)
    run(denoiser=counted, method=method, num_inference_steps=10)
    assert 0 < calls <= most_calls(settings)
    if method != "null-condition":
        assert calls == most_calls(settings)
        assert calls <= 3 * settings.num_inference_steps


def test_the_levels_are_those_of_the_model() -> None:
    levels = new_levels(NOISE, 50)
    assert isinstance(levels, Levels)
    assert levels.timesteps[0] == 1
    assert levels.timesteps[-1] == 981
    assert all(a > b for a, b in zip(levels.signal, levels.signal[1:], strict=False))


@pytest.mark.portable
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_models_answer_becomes_noise(prediction: str) -> None:
    model = tiny_model(3, f"model.noise.prediction_type={prediction}")
    own = request(1)
    encoder = Encoder(model, torch.device("cpu"))
    pictures = [torch.from_numpy(a)[None] for a in (own.image, own.edit_mask.astype("uint8") * 255)]
    exemplar = torch.from_numpy(fit_exemplar(own.exemplar))
    with torch.no_grad():
        condition = encoder.condition(*pictures, encoder.told([exemplar], [""]), torch.zeros(1, 4, 32, 32))
        latents = torch.randn(2, 4, 32, 32, generator=generator())
        denoiser = model_denoiser(model.unet, condition, model.config.noise)
        answer = denoiser(latents, 501, condition.tokens.expand(2, -1, -1))
        scheduler = new_noise_scheduler(model.config.noise, "ddim")
        scheduler.set_timesteps(2)
        twice = condition.with_tokens(condition.tokens.expand(2, -1, -1))
        said = guided_noise(model.unet, latents, torch.tensor(501), twice, 1.0)
        step = scheduler.step(said, 501, latents)
    signal = float(scheduler.alphas_cumprod[501])
    ours = (latents - (1 - signal) ** 0.5 * answer) / signal**0.5
    assert relative_error(ours, step.pred_original_sample) < rounding(longest_sum(model.unet))


def run_command(tmp_path: Path, *more: str) -> int:
    own, files = request(2, 80, 64), {}
    mask = own.edit_mask.astype("uint8") * 255
    for name, pixels in (("image", own.image), ("mask", mask), ("exemplar", own.exemplar)):
        files[name] = str(tmp_path / f"{name}.png")
        Image.fromarray(pixels).save(files[name])
    save_model(tiny_model(4), tmp_path / "model")
    inputs = [part for name, path in files.items() for part in (f"--{name}", path)]
    base = ["invert", "--model", str(tmp_path / "model"), *inputs, "--out", str(tmp_path / "out.png")]
    return main([*base, "--num-inference-steps", "4", *more])


@pytest.mark.long
def test_the_command_edits_inside_the_mask_alone_and_tells_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(tmp_path, "--method", "all", "--inner-steps", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    figures = {line.split()[0]: line.split() for line in lines[1:-1]}
    assert list(figures) == list(get_args(InversionMethod))
    assert float(figures["direct"][1]) <= 1e-5 < float(figures["ddim"][1])
    assert float(figures["ddpm"][1]) <= 1e-5
    own = request(2, 80, 64)
    for method in figures:
        edited = np.asarray(Image.open(tmp_path / f"out-{method}.png"))
        assert np.array_equal(edited[~own.edit_mask], own.image[~own.edit_mask])
        assert not np.array_equal(edited, own.image)
    assert Image.open(tmp_path / "out.side-by-side.png").height > 5 * 256

    assert main(["show", str(tmp_path / "out-ddpm.png")]) == 0
    again = shlex.split(capsys.readouterr().out)
    assert again[2:4] == ["sampling", "invert"]
    assert "--inner-steps" in again
    assert main(again[3:]) == 0
    assert (tmp_path / "out-ddpm-again.png").read_bytes() == (tmp_path / "out-ddpm.png").read_bytes()


def test_a_coupling_without_effect_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(tmp_path, "--coupling", "p2p") == 1
    printed = capsys.readouterr()
    assert not printed.out, "the table's header follows the model"
    assert (
        "the coupling p2p needs 2 tokens or more to choose between, and this model attends to 1"
        in printed.err
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--strength", "0"], "strength=0.0: Input should be greater than 0"),
        (["--seed", "-1"], "--seed -1 must be 0 or more"),
        (["--out", "a.jpg"], "--out a.jpg must end in .png"),
    ],
)
def test_wrong_options_end_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert run_command(tmp_path, *options) == 2
    assert sentence in capsys.readouterr().err
