"""StyleDiffusion (Wang et al. 2023): a small network learns of the picture what the values are computed from.

At each place the network takes an image encoder's tokens of the picture to a scale and a shift of the
context, of which cross-attention computes its values; the keys remain the prompt's. It is trained until the
guided source branch follows the way to noise and attends as it did there.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sampling.couplings.attention import WalkPlace
from sampling.couplings.coupling import AttentionLayer, Coupling, Row, Walk
from sampling.denoise.guidance import guide
from sampling.methods.inversion import (
    Denoiser,
    Levels,
    SourceBranch,
    StepRule,
    Tidy,
    Tokens,
    ddim_inversion,
    move,
)
from sampling.settings import InversionSettings

Couple = Callable[[Sequence[Coupling], Walk], AbstractContextManager[WalkPlace]]
Style = tuple[Tensor, Tensor]  # scale and shift of the context, [1, n, D] each


@dataclass(frozen=True)
class Look:
    """What the network learns from.

    Attributes:
        features: tokens of the whole picture, as wide as the context, [1, m, D].
        seed: seed of the network's first weights.
    """

    features: Tensor
    seed: int = 0


@dataclass(eq=False)
class ValueStyle(Coupling):
    """The values of cross-attention are those of the context times a scale plus a shift.

    Attributes:
        styles: scale and shift of each step.
        target_share: share of the steps in which the edit's own context has them as well; the paper's 0.5.
        losses: losses of each step's training.
    """

    styles: Sequence[Style]
    target_share: float = 0.5
    losses: list[list[float]] = field(default_factory=list)
    cross = always = True

    def values(self, walk: Walk, layer: AttentionLayer, context: Tensor) -> Tensor:
        """See `Coupling.values`."""
        named: tuple[Row, ...] = ("source", "target") if walk.before(self.target_share) else ("source",)
        rows = [walk.rows[row] for row in named if row in walk.rows]
        return _styled(context, self.styles[walk.done], rows)


class _Watch(Coupling):
    """A style that is being learned, and the maps that it leads to: those of the coarsest layers."""

    cross = True

    def __init__(self) -> None:
        self.style: Style | None = None
        self._seen: list[Tensor] = []

    def values(self, walk: Walk, layer: AttentionLayer, context: Tensor) -> Tensor:
        """See `Coupling.values`."""
        return context if self.style is None else _styled(context, self.style, [walk.rows["source"]])

    def reads_maps(self, walk: Walk, layer: AttentionLayer, pixels: int) -> bool:
        """See `Coupling.reads_maps`."""
        return layer.coarsest

    def maps(self, walk: Walk, layer: AttentionLayer, maps: Tensor) -> Tensor:
        """See `Coupling.maps`."""
        self._seen.append(maps)
        return maps

    def taken(self) -> list[Tensor]:
        """The maps since the last time, in the order of the forward pass."""
        seen, self._seen = self._seen, []
        return seen


def _styled(context: Tensor, style: Style, rows: Sequence[int]) -> Tensor:
    scale, shift = (part[0].to(context) for part in style)
    changed = context.clone()
    for row in rows:
        changed[row] = context[row] * scale + shift
    return changed


def mapping_network(features: int, tokens: int) -> nn.Sequential:
    """The published network: [1, features, D] -> [1, 2 · tokens, D], the scale and then the shift.

    With 197 features of CLIP and 77 tokens it has 78,540 weights.
    """
    wide = 2 * tokens
    return nn.Sequential(
        nn.Conv1d(features, wide, 1),
        nn.Conv1d(wide, wide, 1),
        nn.BatchNorm1d(wide),
        nn.LeakyReLU(),
        nn.Conv1d(wide, wide, 1),
    )


@torch.no_grad()
def find_style(
    denoiser: Denoiser,
    latents: Tensor,
    tokens: Tokens,
    settings: InversionSettings,
    levels: Levels,
    look: Look,
    couple: Couple,
    tidy: Tidy | None = None,
) -> tuple[SourceBranch, ValueStyle]:
    """The source branch, and the values with which it follows the way to noise.

    The loss is the mean squared error of the latents plus, for each of the coarsest layers, that of its maps
    of cross-attention. Adam's learning rate falls linearly from 1e-2 to 5e-3; each step's network begins
    with the weights of the step before, and stops early at 1e-5 + 2e-5 · (steps done).

    Args:
        denoiser, latents, tokens, settings, levels, tidy: those of `find_source`.
        look: what the network learns from.
        couple: function that couples the UNet of `denoiser` (`attention.coupled`).
    """
    start, watch, side = settings.start(levels.steps), _Watch(), latents.shape[-2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(look.seed)
        network = mapping_network(look.features.shape[1], tokens.source.shape[1])
    network, features = network.to(latents), look.features.to(latents)

    def step(latents: Tensor, noise: Tensor, place: int) -> Tensor:
        return move(latents, noise, levels.signal[place], levels.signal[place - 1])

    with couple([watch], Walk(0, levels.steps, {"source": 0}, side)):
        upwards = ddim_inversion(denoiser, latents, tokens.source, levels, tidy)
        seen = watch.taken()
        each = len(seen) // levels.steps
        downwards, styles, losses = {start: upwards[start]}, list[Style](), list[list[float]]()
        for done, place in enumerate(range(start, 0, -1)):
            first = each * min(place, levels.steps - 1)
            wanted = upwards[place - 1], seen[first : first + each]
            where = denoiser, downwards[place], tokens, levels.timesteps[place - 1], place
            learn = _Learning(*where, settings.guidance_scale, watch, network, features, step)
            losses.append(
                learn.train(
                    wanted,
                    settings.updates(done, start),
                    1e-2 * (1 - done / (2 * start)),
                    1e-5 + done * 2e-5,
                )
            )
            downwards[place - 1], style = learn.arrive()
            styles.append(style)
            watch.taken()
    return SourceBranch(downwards, step), ValueStyle(styles, losses=losses)


class _Learning:
    """One step down, and how the network learns for it."""

    def __init__(
        self,
        denoiser: Denoiser,
        here: Tensor,
        tokens: Tokens,
        timestep: int,
        place: int,
        scale: float,
        watch: _Watch,
        network: nn.Module,
        features: Tensor,
        step: StepRule,
    ) -> None:
        self._denoiser, self._here, self._own, self._timestep = denoiser, here, tokens.source, timestep
        self._place, self._scale, self._watch, self._step = place, scale, watch, step
        self._network, self._features = network, features
        watch.style = None
        self._without = None if scale == 1 else denoiser(here, timestep, tokens.null)
        watch.taken()

    def arrive(self) -> tuple[Tensor, Style]:
        """The latents one place below, and the style that led there."""
        scale, shift = self._network(self._features).chunk(2, dim=1)
        self._watch.style = scale, shift
        noise = self._denoiser(self._here, self._timestep, self._own)
        noise = noise if self._without is None else guide(self._without, noise, self._scale)
        return self._step(self._here, noise, self._place), (scale.detach(), shift.detach())

    def train(
        self, wanted: tuple[Tensor, Sequence[Tensor]], most: int, rate: float, enough: float
    ) -> list[float]:
        """Update the network at most `most` times, until the loss is below `enough`; the losses."""
        weights, losses = list(self._network.parameters()), list[float]()
        adam = torch.optim.Adam(weights, lr=rate)
        for _ in range(most):
            with torch.enable_grad():
                arrived, _ = self.arrive()
                pairs = zip(wanted[1], self._watch.taken(), strict=True)
                loss = F.mse_loss(arrived, wanted[0]) + sum(F.mse_loss(now, then) for then, now in pairs)
                gradients = torch.autograd.grad(loss, weights)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            adam.step()
            losses.append(loss.item())
            if losses[-1] < enough:
                break
        return losses
