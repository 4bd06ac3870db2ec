"""Guidance by a noised encoder: Bayes' rule on a mixture, and the same step for noise and velocity."""

import pytest
import torch
from torch import Tensor

from benchmarks import noised
from sampling.denoise.clip_guidance import guided_by_clip


@pytest.fixture(scope="module")
def encoder() -> noised.NoisedEncoder:
    return noised.trained(1200)


@pytest.mark.whole
@pytest.mark.portable
def test_its_gradient_is_that_of_the_exact_classifier(encoder: noised.NoisedEncoder) -> None:
    """Seen after 6,000 steps (`python -m benchmarks.noised`): cosines of .88 and .91, ratios of .83, .88."""
    for timestep in (600, 900):
        cosine, ratio = noised.agreement(encoder, timestep)
        assert cosine > 0.7
        assert 0.5 < ratio < 1.3


@pytest.mark.whole
@pytest.mark.portable
def test_guided_samples_show_the_exemplar(encoder: noised.NoisedEncoder) -> None:
    """Seen after 6,000 steps: shares of .10, .92 and 1.00 of the samples at W = 0, 1 and 2."""
    shares = [noised.share_of_wanted(encoder, scale, samples=200, steps=25) for scale in (0.0, 1.0, 2.0)]
    assert 0.03 < shares[0] < 0.2
    assert shares[1] > 0.6
    assert shares[2] > 0.85


@pytest.fixture(scope="module")
def of_both() -> noised.NoisedEncoder:
    return noised.trained(1200, condition="both")


@pytest.mark.whole
@pytest.mark.portable
def test_an_encoder_of_both_gives_the_gradient_of_exemplar_prompt_and_their_sum(
    of_both: noised.NoisedEncoder,
) -> None:
    """Each of three prompts names two of the six classes, so its gradient differs from the exemplar's."""
    for parts in (["exemplar"], ["text"], ["exemplar", "text"]):
        for timestep in (600, 900):
            cosine, ratio = noised.agreement(of_both, timestep, parts=parts)
            assert cosine > 0.6, parts
            assert 0.4 < ratio < 1.3, parts


@pytest.mark.whole
@pytest.mark.portable
def test_guided_samples_show_what_the_prompt_names(of_both: noised.NoisedEncoder) -> None:
    """The wanted prompt names classes whose priors are .2 and .1."""
    shares = [
        noised.share_of_wanted(of_both, scale, samples=200, steps=25, part="text") for scale in (0.0, 1.0)
    ]
    assert 0.2 < shares[0] < 0.4
    assert shares[1] > 0.7


def test_the_exact_classifier_brings_all_samples_home() -> None:
    assert noised.share_of_wanted(None, 1.0, samples=100, steps=25) > 0.95


def test_velocity_takes_the_same_step_as_noise() -> None:
    """ε = √(1 − ā) x_t + √ā v, so that both give one x_0; where no signal is left, nothing is guided."""
    torch.manual_seed(0)
    encoder = noised.NoisedEncoder(noised.CONFIG).double().eval().requires_grad_(False)
    latents = torch.randn(3, *noised.SHAPE, dtype=torch.float64)
    guidance = noised.guidance_of(encoder, torch.tensor([0, 1, 2]), scale=3.0)
    levels = noised.LEVELS.double().clone()
    levels[-1] = 0.0
    noise = torch.randn_like(latents)

    def guided(prediction: Tensor, timestep: Tensor, velocity: bool) -> Tensor:
        return guided_by_clip(lambda *_: prediction, guidance, levels, velocity)(latents, timestep)

    for timestep in map(torch.tensor, (100, 500, 900)):
        kept = levels[timestep]
        velocity = (noise - (1 - kept).sqrt() * latents) / kept.sqrt()
        changed = (1 - kept).sqrt() * latents + kept.sqrt() * guided(velocity, timestep, True)
        expected = guided(noise, timestep, False)
        assert torch.allclose(changed, expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(expected, noise)
    last = torch.tensor(len(levels) - 1)
    assert torch.equal(guided(noise, last, True), noise)


def test_rows_do_not_depend_on_each_other_and_those_without_exemplar_stay() -> None:
    torch.manual_seed(0)
    encoder = noised.NoisedEncoder(noised.CONFIG).eval().requires_grad_(False)
    latents, timestep = torch.randn(2, *noised.SHAPE), torch.tensor(500)
    guidance = noised.guidance_of(encoder, torch.tensor([0, 1]))
    both = guidance.gradient(latents, timestep)
    alone = noised.guidance_of(encoder, torch.tensor([1])).gradient(latents[1:], timestep)
    assert torch.allclose(both[1:], alone, rtol=1e-4, atol=1e-6)
    guidance.wanted[0].told[0] = False
    without = guidance.gradient(latents, timestep)
    assert not without[0].any()
    assert torch.allclose(without[1], both[1], rtol=1e-4, atol=1e-6)
