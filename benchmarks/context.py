"""How much of the kept region's style the hole takes, on pictures whose posterior is known.

    python -m benchmarks.context

A picture of 8 x 8 cells has one style, the mean of its cells, and each cell deviates from it by itself. The
network is exact: self-attention takes the mean of the cells, which is all that they say of the style, and
cross-attention reads the style that the token tells. The source's token tells its own style, the target's
another one, as an exemplar from another photograph does. `sampling.methods` walks, as in an inversion.
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial

import torch
from diffusers.models.attention import AttentionMixin
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from intarsia.architecture import NoiseConfig
from sampling.couplings.attention import coupled
from sampling.couplings.coupling import CouplingInputs, make_couplings
from sampling.denoise.sampler import new_noise_scheduler
from sampling.methods.coupled_walk import invert_coupled
from sampling.methods.inversion import Inverted, Tokens, new_levels
from sampling.settings import InversionMethod, InversionSettings

SIDE, HOLE = 8, slice(2, 6)
STYLES = 1.0, -1.0  # of the source, and of what the target's token tells
DEVIATION = 1.0  # standard deviation of a cell around its picture's style
WAYS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "`background`": ("background",),
    "`context`": ("context",),
    "`context,background`": ("context", "background"),
}


class ExactNetwork(nn.Module, AttentionMixin):
    """The expected noise of noisy pictures, by one block with a self- and a cross-attention.

    Args:
        doubt: standard deviation of a picture's style around the style that its token tells.
    """

    def __init__(self, doubt: float) -> None:
        super().__init__()
        block = nn.Module()
        block.attn1, block.attn2 = _mean(), _mean(cross_attention_dim=1)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        self.mid_block = nn.ModuleList([block])
        self.doubt, self.block = doubt, (block.attn1, block.attn2)
        self.levels = new_noise_scheduler(NoiseConfig(), "ddim").alphas_cumprod.double()

    def forward(self, noisy: Tensor, timestep: int, tokens: Tensor) -> Tensor:
        """float64 [B, 1, h, w], tokens [B, 1, 1] -> noise [B, 1, h, w]."""
        cells = noisy.flatten(1)[..., None]
        seen, told = self.block[0](cells), self.block[1](cells, tokens)
        return noise_of(cells, seen, told, self.doubt, float(self.levels[timestep])).view_as(noisy)


def _mean(cross_attention_dim: int | None = None) -> Attention:
    """An attention layer that looks at everything alike, and takes the values as they are."""
    layer = Attention(1, cross_attention_dim, heads=1, dim_head=1)
    for part, weight in ((layer.to_q, 0.0), (layer.to_k, 0.0), (layer.to_v, 1.0), (layer.to_out[0], 1.0)):
        nn.init.constant_(part.weight, weight)
    nn.init.zeros_(layer.to_out[0].bias)
    return layer


def noise_of(cells: Tensor, seen: Tensor, told: Tensor | float, doubt: float, signal: float) -> Tensor:
    """The expected noise of the cells of a noisy picture.

    Args:
        cells: √ā · clean cells + √(1 − ā) · noise, float64 [..., n, 1].
        seen: the mean of all cells, as attention takes it.
        told: style that the token tells.
        doubt: standard deviation of the style around it.
        signal: ā.
    """
    number, root = SIDE * SIDE, math.sqrt(signal)
    variance = signal * DEVIATION**2 + 1 - signal  # of a noisy cell around √ā · style
    trust = number * signal / variance
    style = (told / doubt**2 + trust / root * seen) / (1 / doubt**2 + trust)
    clean = style + root * DEVIATION**2 / variance * (cells - root * style)
    return (cells - root * clean) / math.sqrt(1 - signal)


def kept_cells() -> Tensor:
    """1 outside the hole, float64 [1, 1, h, w]."""
    keep = torch.ones(1, 1, SIDE, SIDE, dtype=torch.float64)
    keep[..., HOLE, HOLE] = 0
    return keep


def source_picture(seed: int = 0) -> Tensor:
    """A picture in the source's style, float64 [1, 1, h, w]."""
    rng = torch.Generator().manual_seed(seed)
    return STYLES[0] + DEVIATION * torch.randn(1, 1, SIDE, SIDE, generator=rng, dtype=torch.float64)


def walk(names: Sequence[str], doubt: float, method: InversionMethod = "direct", steps: int = 50) -> Inverted:
    """Invert the picture and walk down with couplings, without guidance."""
    network = ExactNetwork(doubt).double().requires_grad_(False)
    couplings = make_couplings(names, CouplingInputs(1, kept_cells()))
    source, target = (torch.tensor([[[style]]], dtype=torch.float64) for style in STYLES)
    settings = InversionSettings(method=method, num_inference_steps=steps, guidance_scale=1)
    levels, couple = new_levels(NoiseConfig(), steps), partial(coupled, network)
    tokens = Tokens(source, target, torch.zeros_like(source))
    return invert_coupled(network, source_picture(), tokens, settings, levels, couplings, couple)


def share(found: Inverted, where: Tensor) -> float:
    """The share of the source's style in cells of the edit: 1 = its style, 0 = that of the target's token."""
    moved = (found.edit - found.reconstruction)[where].mean()
    return 1 - float(moved) / (STYLES[1] - STYLES[0])


def exact_share(doubt: float) -> float:
    """The share in the hole's expected style, if what is kept and the token are known."""
    kept = float(kept_cells().sum()) / DEVIATION**2
    return kept / (kept + 1 / doubt**2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    doubts = "how far styles lie from what the tokens tell (default %(default)s)"
    parser.add_argument("--doubts", type=float, nargs="+", default=[1.0, 0.3], metavar="D", help=doubts)
    arguments = parser.parse_args()
    hole = kept_cells() == 0
    print("| couplings | " + " | ".join(f"hole, doubt {d:g} | outside" for d in arguments.doubts) + " |")
    print("|---|" + "---|---|" * len(arguments.doubts))
    for name, names in WAYS.items():
        found = [walk(names, doubt) for doubt in arguments.doubts]
        cells = [f"{share(one, hole):.2f} | {share(one, ~hole):.2f}" for one in found]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("| the truth | " + " | ".join(f"{exact_share(d):.2f} | 1" for d in arguments.doubts) + " |")


if __name__ == "__main__":
    main()
