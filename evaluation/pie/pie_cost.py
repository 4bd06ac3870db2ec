"""What a way costs on PIE-Bench before anything is spent: rows of the UNet, arithmetic, hours on a GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.pie.pie_ways import Way
from evaluation.reports.tables import Table
from sampling.settings import InversionSettings

if TYPE_CHECKING:
    from intarsia.architecture import ModelConfig


@dataclass(frozen=True)
class Cost:
    """The UNet's work for one picture; the most of null-text and StyleDiffusion, which may stop early.

    Attributes:
        calls: number of calls.
        rows: number of rows in all calls.
        gradients: number of rows whose gradient is computed as well.
    """

    calls: int
    rows: int
    gradients: int = 0


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations, in 10^12; a multiplication and an addition count as two.

    Attributes:
        row: one row of the UNet.
        picture: autoencoder for one picture: one square read, two decoded.
    """

    row: float
    picture: float

    def of(self, cost: Cost) -> float:
        """One picture. A gradient through frozen weights costs as much as the row itself."""
        return self.picture + self.row * (cost.rows + cost.gradients)


def way_cost(settings: InversionSettings, masked: bool) -> Cost:
    """The UNet's work for one picture.

    Args:
        settings: method, couplings and their settings.
        masked: whether the picture has a mask, with which the default coupling is the background.
    """
    import torch

    from sampling.couplings.coupling import CouplingInputs, Walk, make_couplings
    from sampling.methods.coupled_walk import coupled_calls, walked_rows
    from sampling.methods.inversion import most_calls

    steps, method = settings.num_inference_steps, settings.inversion
    start, target = settings.start(steps), 1 if settings.guidance_scale == 1 else 2
    optimised = settings.inner_steps * start if method == "null-condition" else 0
    if method == "style":
        optimised = sum(settings.updates(done, start) for done in range(start))
    # Walked before the edit: DDPM for its noise; null-text with prompt, then `inner_steps` + 1 times without;
    # StyleDiffusion without, then with prompt for each update and once more.
    learned = target * start + optimised
    before = {"ddpm": start, "null-condition": 2 * start + optimised, "style": learned}.get(method, 0)
    up = 0 if method == "ddpm" else steps
    aside = start if settings.offset_to == "own" else 0  # the target's step from the way up, both rows

    alone = settings.coupling is None and masked and settings.is_plain() and method != "style"
    any_inputs = CouplingInputs(2, torch.zeros(1, 1, 1, 1))  # of which every coupling can be made
    couplings = make_couplings(settings.coupling or (), any_inputs)
    walk = Walk(0, start, walked_rows(settings, couplings), 1)
    asked = start * sum(len(coupling.asks(walk)) for coupling in couplings)
    calls = most_calls(settings) if alone else coupled_calls(settings, couplings)
    rows = up + before + 2 * aside + asked + start * len(set(walk.rows.values()))
    return Cost(calls, rows, optimised + asked)


def count_arithmetic(config: "ModelConfig") -> Arithmetic:
    """Count the operations of a model from its geometry, on tensors without content."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from intarsia.conditioning import decode_latents, encode_latents
    from intarsia.model import EditModel

    with torch.device("meta"), torch.no_grad():
        model = EditModel(config)
        channels, side = config.vae.latent_channels, config.latent_size
        latents = torch.empty(1, channels, side, side)
        noisy = torch.empty(1, model.unet.config["in_channels"], side, side)
        tokens = torch.empty(1, config.num_tokens, config.unet.cross_attention_dim)
        with FlopCounterMode(display=False) as row:
            model.unet(noisy, torch.empty(1), tokens)
        with FlopCounterMode(display=False) as read:
            encode_latents(model.vae, torch.empty(1, 3, config.image_size, config.image_size), None)
        with FlopCounterMode(display=False) as decoded:
            decode_latents(model.vae, latents)
    picture = read.get_total_flops() + 2 * decoded.get_total_flops()
    return Arithmetic(row.get_total_flops() / 1e12, picture / 1e12)


def planned_table(
    ways: Sequence[Way], pictures: int, masked: bool, arithmetic: Arithmetic, speeds: Mapping[str, float]
) -> Table:
    """What ways will cost, and their sum.

    Args:
        ways: the ways.
        pictures: number of pictures.
        masked: as for `way_cost`.
        arithmetic: arithmetic of the model.
        speeds: GPU name -> 10^12 operations per second that it reaches.
    """

    def spent(tflop: float) -> list[str]:
        hours = (f"{tflop / speed / 3600:,.3g}" for speed in speeds.values())
        return [f"{tflop / 1e3:,.4g}", *hours]

    body, whole = [], 0.0
    for way in ways:
        cost = way_cost(way.settings, masked)
        one = arithmetic.of(cost)
        whole += one * pictures
        body.append([way.title, f"{cost.calls:,}", f"{cost.rows:,}", f"{one:,.4g}", *spent(one * pictures)])
    header = ["", "UNet calls", "UNet rows", "TFLOP", "PFLOP in all", *(f"hours, {name}" for name in speeds)]
    notes = [
        "calls, rows and TFLOP are of one picture; the most of null-text and StyleDiffusion, which may stop "
        "early"
    ]
    title = f"PIE-Bench, {pictures:,} {'picture' if pictures == 1 else 'pictures'}, planned"
    return Table(title, header, [*body, ["all", "", "", "", *spent(whole)]], notes)
