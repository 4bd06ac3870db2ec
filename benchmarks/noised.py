"""How near guidance by a noised encoder comes to Bayes' rule, on a mixture whose posterior is known.

    python -m benchmarks.noised

Six exemplars have a mean of their own each, and latents scatter around it. The encoder learns from samples
alone; its gradient is compared with that of the exact classifier, and samples of the exact denoiser are
guided towards an exemplar whose prior is .1. Each of three prompts names two of them, and a further encoder
learns both. An encoder that never saw noise is trained beside these.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from intarsia.architecture import ModelConfig, NoisedConfig
from intarsia.conditions.noised import NoisedEncoder
from intarsia.config import build_config
from sampling.denoise.clip_guidance import ClipGuidance, Wanted, guided_by_clip
from sampling.denoise.sampler import denoise, new_noise_scheduler
from training.objective.noised import contrast_errors

SHAPE, CLASSES, DEVIATION, WANTED = (4, 2, 2), 6, 0.35, 4
PRIOR = torch.tensor([0.3, 0.2, 0.2, 0.1, 0.1, 0.1])
_RNG = torch.Generator().manual_seed(1)
MEANS = 0.85 * torch.randn(CLASSES, *SHAPE, generator=_RNG)
FEATURES = torch.randn(CLASSES, 16, generator=_RNG)  # of the exemplars, as from a frozen tower
PROMPTS = 3  # class c has prompt c % 3
PROMPT_FEATURES = torch.randn(PROMPTS, 8, generator=_RNG)

CONFIG = build_config(
    ModelConfig,
    {
        "image_size": 4,
        "unet": {
            "block_out_channels": [8],
            "down_block_types": ["CrossAttnDownBlock2D"],
            "layers_per_block": 1,
            "cross_attention_dim": 8,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
        },
        "vae": {"block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4},
        "image_encoder": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 5,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        "noised": {"size": "toy", "patch": 1, "dim": 6, "group": 16},
        "condition": "both",
        "text_encoder": {"hidden_size": 8, "num_attention_heads": 2},
    },
    where="benchmarks.noised",
)
LEVELS = new_noise_scheduler(CONFIG.noise, "ddim").alphas_cumprod


def noisy(classes: Tensor, timesteps: Tensor, rng: torch.Generator) -> Tensor:
    """Samples of the classes with the noise of the timesteps, [n, 4, 2, 2]."""
    kept = LEVELS[timesteps].view(-1, 1, 1, 1)
    scatter, noise = torch.randn(2, len(classes), *SHAPE, generator=rng)
    return kept.sqrt() * (MEANS[classes] + DEVIATION * scatter) + (1 - kept).sqrt() * noise


def features_of(part: str, classes: Tensor) -> Tensor:
    """What the frozen tower says of the classes' exemplars, or prompts (text), [n, D]."""
    return FEATURES[classes] if part == "exemplar" else PROMPT_FEATURES[classes % PROMPTS]


def meant_by(part: str, classes: Tensor) -> Tensor:
    """The classes that have the same exemplar, or prompt, as these, bool [n, 6]."""
    every = torch.arange(CLASSES)
    if part == "text":
        every, classes = every % PROMPTS, classes % PROMPTS
    return every == classes[:, None]


def new_encoder(condition: str = "exemplar") -> NoisedEncoder:
    """An encoder that compares with exemplars, prompts (text), or both; float32, untrained."""
    assert CONFIG.noised is not None, "the config has a noised encoder"
    noised = NoisedConfig.model_validate({**CONFIG.noised.model_dump(), "condition": condition})
    return NoisedEncoder(CONFIG.model_copy(update={"noised": noised}))


def trained(
    steps: int,
    sees_noise: bool = True,
    batch: int = 64,
    lr: float = 3e-3,
    condition: str = "exemplar",
) -> NoisedEncoder:
    """An encoder after so many steps."""
    rng, group = torch.Generator().manual_seed(3), CONFIG.noised.group if CONFIG.noised else batch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = new_encoder(condition)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr, weight_decay=0.0)
    blank = torch.zeros(batch, CONFIG.extra_channels, *SHAPE[1:])
    for step in range(steps):
        wave = (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = lr * wave * min(1.0, (step + 1) / 100)
        classes = torch.multinomial(PRIOR, batch, replacement=True, generator=rng)
        timesteps = torch.randint(len(LEVELS) if sees_noise else 1, (batch,), generator=rng)
        seen = encoder.see(noisy(classes, timesteps, rng), timesteps, blank).unflatten(0, (-1, group))
        ways = []
        for part in encoder.parts:
            known = encoder.know(features_of(part, classes), part).unflatten(0, (-1, group))
            ways.append(encoder.scale(part) * seen @ known.transpose(1, 2))
        optimizer.zero_grad()
        contrast_errors(torch.stack(ways)).mean().backward()
        optimizer.step()
    return encoder.eval().requires_grad_(False)


def log_joint(latents: Tensor, timestep: int) -> Tensor:
    """log p(latents, class) up to a constant, [n, 6]."""
    kept = LEVELS[timestep]
    far = (latents[:, None] - kept.sqrt() * MEANS).square().flatten(2).sum(-1)
    return PRIOR.log() - far / (2 * (kept * DEVIATION**2 + 1 - kept))


def exact_gradient(latents: Tensor, timestep: int, classes: Tensor, part: str = "exemplar") -> Tensor:
    """∇ log p(exemplar, or prompt, of the classes | latents)."""
    with torch.enable_grad():
        own = latents.detach().requires_grad_()
        posterior = torch.log_softmax(log_joint(own, timestep), dim=1)
        meant = posterior.masked_fill(~meant_by(part, classes), -math.inf).logsumexp(dim=1)
        return torch.autograd.grad(meant.sum(), own)[0]


def guidance_of(
    encoder: NoisedEncoder, classes: Tensor, scale: float = 1.0, parts: Sequence[str] = ("exemplar",)
) -> ClipGuidance:
    """Guidance towards the classes' exemplars, prompts (text), or both."""
    blank = torch.zeros(len(classes), CONFIG.extra_channels, *SHAPE[1:])
    wanted = [
        Wanted(part, features_of(part, classes), torch.ones(len(classes), dtype=torch.bool)) for part in parts
    ]
    return ClipGuidance(encoder, scale, blank, wanted)


def agreement(
    encoder: NoisedEncoder, timestep: int, samples: int = 1000, parts: Sequence[str] = ("exemplar",)
) -> tuple[float, float]:
    """Cosine between the encoder's and the exact gradient, and their ratio along the exact one.

    With both parts the exact one is the sum of theirs, as the encoder's is.
    """
    rng = torch.Generator().manual_seed(9)
    drawn, wanted = (torch.multinomial(PRIOR, samples, replacement=True, generator=rng) for _ in range(2))
    latents = noisy(drawn, torch.full((samples,), timestep), rng)
    exact = sum(exact_gradient(latents, timestep, wanted, part) for part in parts)
    guidance, right = guidance_of(encoder, wanted, parts=parts), torch.as_tensor(exact).flatten()
    found = guidance.gradient(latents, torch.tensor(timestep)).flatten()
    return float(F.cosine_similarity(right, found, dim=0)), float(right @ found / (right @ right))


def exact_noise(latents: Tensor, timestep: Tensor) -> Tensor:
    """The expected noise, -√(1 − ā) times the score of the mixture."""
    with torch.enable_grad():
        own = latents.detach().requires_grad_()
        evidence = torch.logsumexp(log_joint(own, int(timestep)), dim=1).sum()
        return -(1 - LEVELS[int(timestep)]).sqrt() * torch.autograd.grad(evidence, own)[0]


def share_of_wanted(
    encoder: NoisedEncoder | None,
    scale: float,
    samples: int = 1000,
    steps: int = 50,
    part: str = "exemplar",
) -> float:
    """Share of guided samples nearest to a mean of the wanted exemplar, or prompt (part = text).

    None guides by the exact classifier.
    """
    start = torch.randn(samples, *SHAPE, generator=torch.Generator().manual_seed(5))
    classes, predict = torch.full((samples,), WANTED), exact_noise

    def exactly(latents: Tensor, timestep: Tensor) -> Tensor:
        gradient = exact_gradient(latents, int(timestep), classes, part)
        return exact_noise(latents, timestep) - scale * (1 - LEVELS[int(timestep)]).sqrt() * gradient

    if scale:
        guidance = None if encoder is None else guidance_of(encoder, classes, scale, (part,))
        predict = guided_by_clip(exact_noise, guidance, LEVELS, False) if guidance else exactly
    end = denoise(predict, new_noise_scheduler(CONFIG.noise, "ddim"), start, steps)
    nearest = torch.cdist(end.flatten(1), MEANS.flatten(1)).argmin(dim=1)
    return float(meant_by(part, classes[:1])[0, nearest].float().mean())


def main() -> None:
    """Print the table."""
    scales = (0.0, 1.0, 2.0, 4.0)
    print("| encoder | gradient at t = 300: cosine (ratio) | 600 | 900 | share at W = 0 | 1 | 2 | 4 |")
    print("|---|---|---|---|---|---|---|---|")
    both = trained(6000, condition="both")
    rows = [
        ("exact", None, "exemplar"),
        ("noised", trained(6000), "exemplar"),
        ("never saw noise", trained(6000, sees_noise=False), "exemplar"),
        ("noised, of both: by the exemplar", both, "exemplar"),
        ("noised, of both: by the prompt", both, "text"),
        ("exact, by the prompt", None, "text"),
    ]
    for name, encoder, part in rows:
        row = [name]
        for timestep in (300, 600, 900):
            cosine, ratio = (1.0, 1.0) if encoder is None else agreement(encoder, timestep, parts=[part])
            row.append(f"{cosine:.2f} ({ratio:.2f})")
        row += [f"{share_of_wanted(encoder, scale, part=part):.3f}" for scale in scales]
        print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
