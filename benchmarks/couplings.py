"""What couplings promise, in figures: switched off they change nothing, and they never change the source.

    python -m benchmarks.couplings

A small random UNet in double precision takes the four rows of a step in one batch.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from sampling.couplings.attention import coupled
from sampling.couplings.context import SharedContext
from sampling.couplings.coupling import Coupling, Row, Walk, needed_rows
from sampling.couplings.masactrl import MutualSelfAttention
from sampling.couplings.plug_and_play import PlugAndPlay
from sampling.couplings.prompt_to_prompt import Alignment, PromptToPrompt

SIDE, TOKENS, WIDTH, STEPS = 16, 7, 12, 10
ROWS: tuple[Row, ...] = ("source_null", "source", "target_null", "target")
TURNED: tuple[Row, ...] = ("target", "source_null", "target_null", "source")


def small_unet() -> UNet2DConditionModel:
    """A random UNet of three levels whose maps of attention are not flat, float64."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(8, 16, 16),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if ".to_q." in name or ".to_k." in name:
                weight *= 6
    return unet.double().eval().requires_grad_(False)


def place_of(done: int = 5, rows: Sequence[Row] = ROWS) -> Walk:
    """A place of a walk of STEPS steps whose batch has these rows."""
    return Walk(done, STEPS, {row: place for place, row in enumerate(rows)}, SIDE)


def batch_of(rows: Sequence[Row] = ROWS, equal: bool = False) -> tuple[Tensor, Tensor]:
    """Latents [B, 4, SIDE, SIDE] and tokens [B, TOKENS, WIDTH]; `equal`: the same for source and target."""
    rng = torch.Generator().manual_seed(1)
    latents = {name: torch.randn(4, SIDE, SIDE, generator=rng).double() for name in ("source", "target")}
    tokens = {
        name: torch.randn(TOKENS, WIDTH, generator=rng).double() for name in ("null", "source", "target")
    }
    if equal:
        latents["target"], tokens["target"] = latents["source"], tokens["source"]
    states = torch.stack([latents[row.removesuffix("_null")] for row in rows])
    return states, torch.stack([tokens["null" if row.endswith("null") else row] for row in rows])


def noise_by_row(
    unet: UNet2DConditionModel, couplings: Sequence[Coupling], where: Walk, equal: bool = False
) -> dict[Row, Tensor]:
    """What the coupled UNet predicts for each row."""
    rows = list(where.rows)
    latents, tokens = batch_of(rows, equal)
    with coupled(unet, couplings, where):
        noise = unet(latents, 500, encoder_hidden_states=tokens).sample
    return dict(zip(rows, noise, strict=True))


def same_tokens(blend: Tensor | None = None, share: float = 1.0) -> Alignment:
    """Each token of the target takes `share` of its map from the source's token of the same place."""
    return Alignment(share * torch.eye(TOKENS), torch.full((TOKENS,), 1 - share), blend)


ON: dict[str, Callable[[], Coupling]] = {
    "masactrl": lambda: MutualSelfAttention(0, 0),
    "pnp": lambda: PlugAndPlay(1, 1, 0),
    "context": SharedContext,
    "p2p": lambda: PromptToPrompt(same_tokens(), 1, 1),
}
OFF: dict[str, Callable[[], Coupling]] = {
    "masactrl": lambda: MutualSelfAttention(1.0, 0),
    "pnp": lambda: PlugAndPlay(0, 0),
    "context": lambda: SharedContext(torch.zeros(1, 1, SIDE, SIDE)),
    "p2p": lambda: PromptToPrompt(same_tokens(share=0.0), 1, 0),
}


def largest(one: dict[Row, Tensor], other: dict[Row, Tensor], *rows: Row) -> float:
    """The largest difference in the rows; without rows in all."""
    return max(float((one[row] - other[row]).abs().max()) for row in rows or one)


def between_equal_rows(unet: UNet2DConditionModel, coupling: Coupling) -> float:
    """The largest difference of target and source where both have the same latents and tokens."""
    found = noise_by_row(unet, [coupling], place_of(), equal=True)
    if "source" in needed_rows([coupling]):
        return float((found["target"] - found["source"]).abs().max())
    return float((found["target_null"] - found["source_null"]).abs().max())


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=str(__doc__).partition("\n")[0]).parse_args()
    unet = small_unet()
    plain = noise_by_row(unet, [], place_of())
    print("| coupling | off | source's rows | equal rows | another order | target |")
    print("|---|---|---|---|---|---|")
    for name, make in ON.items():
        found = noise_by_row(unet, [make()], place_of())
        figures = (
            largest(plain, noise_by_row(unet, [OFF[name]()], place_of())),
            largest(plain, found, "source", "source_null"),
            between_equal_rows(unet, make()),
            largest(found, noise_by_row(unet, [make()], place_of(rows=TURNED))),
        )
        target = largest(plain, found, "target")
        print(f"| `{name}` | {' | '.join(f'{one:.0e}' for one in figures)} | {target:.2f} |", flush=True)


if __name__ == "__main__":
    main()
