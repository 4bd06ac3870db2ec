"""Walk source and target down together, in one batch of the rows that somebody needs.

Without couplings, `methods.inversion.invert` walks the source first and then the target alone; here each step
is one call of the network. Direct inversion with Prompt-to-Prompt needs three rows a step: the source's own,
for its maps, and the target's two. Its latents are known from the way up.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from sampling.couplings.attention import WalkPlace
from sampling.couplings.coupling import ROWS, Coupling, Row, RowLatents, Walk, needed_rows
from sampling.denoise.guidance import guide
from sampling.methods.inversion import (
    Denoiser,
    Inverted,
    Levels,
    SourceBranch,
    Tidy,
    Tokens,
    ddim_inversion,
    find_source,
    most_calls,
    move,
)
from sampling.methods.style import Couple, Look, find_style
from sampling.settings import InversionSettings


def invert_coupled(
    denoiser: Denoiser,
    latents: Tensor,
    tokens: Tokens,
    settings: InversionSettings,
    levels: Levels,
    couplings: Sequence[Coupling],
    couple: Couple,
    noise: Tensor | None = None,
    tidy: Tidy | None = None,
    look: Look | None = None,
) -> Inverted:
    """Reconstruct a picture's latents and edit them, with couplings between the two branches.

    Args:
        denoiser: function that predicts the noise, on the UNet that `couple` couples.
        latents: scaled latents of the picture, float32 [1, C, h, w].
        tokens: tokens of source, target and no exemplar.
        settings: method and its settings.
        levels: noise levels from `new_levels`.
        couplings: couplings, in the order in which they act.
        couple: function that couples the UNet for a walk (`attention.coupled` of that UNet).
        noise: standard normal noise [n, 1, C, h, w] for the method "ddpm".
        tidy: function that makes the noise of the way up more like white noise.
        look: what the method "style" learns from.
    """
    with torch.no_grad():
        what, styled = (denoiser, latents, tokens, settings, levels), None
        if settings.inversion == "style":
            assert look is not None, "style learns from the picture"
            styled, style = find_style(*what, look, couple, tidy)
            couplings = [style, *couplings]
        source = _Source(*what, noise, tidy, styled)
        start = settings.start(levels.steps)
        rows = walked_rows(settings, couplings)
        walk = Walk(0, start, rows, latents.shape[-2])
        here = edit = source.latents[start]
        with couple(couplings, walk) as on_the_way:
            for done, place in enumerate(range(start, 0, -1)):
                now = on_the_way.go(done)
                given = source.tokens(place)
                timestep = levels.timesteps[place - 1]
                latents_of: RowLatents = {row: here if row.startswith("source") else edit for row in ROWS}
                targets: RowLatents = {row: edit for row in rows if row.startswith("target")}
                for coupling in couplings:
                    asked = {row: number for number, row in enumerate(coupling.asks(now))}
                    ask = partial(_ask, denoiser, on_the_way, coupling, asked, latents_of, timestep, given)
                    targets = coupling.before_step(now, targets, ask)
                found = _predict(denoiser, rows, {**latents_of, **targets}, timestep, given)
                edit = targets.get("target_null", targets["target"])
                edit = source.step(edit, _guided(found, "target", settings.guidance_scale), place)
                here, offset = source.below(place, here, found, done)
                edit = edit if offset is None else edit + offset
                for coupling in couplings:
                    edit = coupling.after_step(now, here, edit)
    return Inverted(here, edit)


def walked_rows(settings: InversionSettings, couplings: Sequence[Coupling]) -> dict[Row, int]:
    """The place of each row in the batch of a step down, for those that are needed.

    Args:
        settings: method and its settings.
        couplings: couplings of the walk.
    """
    wanted = needed_rows(couplings) | _own_rows(settings) | {"target"}
    wanted |= {"target_null"} if settings.guidance_scale != 1 else set()
    shared = settings.inversion == "negative-condition" and "source_null" in wanted
    if shared:
        wanted |= {"source"}  # its null tokens are the source's own, so that both are one row
    order = [row for row in ROWS if row in wanted and not (shared and row == "source_null")]
    rows: dict[Row, int] = {row: place for place, row in enumerate(order)}
    return rows | {"source_null": rows["source"]} if shared else rows


def _own_rows(settings: InversionSettings) -> frozenset[Row]:
    """The rows whose noise the source's own step needs, if its latents are not known before."""
    if _knows_source(settings):
        return frozenset()
    alone = settings.inversion == "negative-condition" or settings.guidance_scale == 1
    return frozenset({"source"} if alone else {"source", "source_null"})


def _knows_source(settings: InversionSettings) -> bool:
    """Whether the source's latents are known before the walk down, by the method or from the way up."""
    if settings.inversion == "direct":
        whole = settings.offset_scale == 1.0 and settings.offset_every == 1
        return whole and settings.offset_to == "source"
    return settings.inversion in ("ddpm", "null-condition", "style")


def _predict(
    denoiser: Denoiser,
    rows: Mapping[Row, int],
    latents_of: Mapping[Row, Tensor],
    timestep: int,
    given: Mapping[Row, Tensor],
) -> dict[Row, Tensor]:
    """The noise [1, C, h, w] of each row, in one call."""
    order = sorted({place: row for row, place in rows.items()}.items())
    latents = torch.cat([latents_of[row] for _, row in order])
    noise = denoiser(latents, timestep, torch.cat([given[row] for _, row in order]))
    return {row: noise[place : place + 1] for row, place in rows.items()}


def _ask(
    denoiser: Denoiser,
    on_the_way: WalkPlace,
    coupling: Coupling,
    rows: Mapping[Row, int],
    latents_of: Mapping[Row, Tensor],
    timestep: int,
    given: Mapping[Row, Tensor],
    targets: RowLatents,
) -> None:
    """Run the UNet for one coupling alone."""
    with on_the_way.alone(coupling, rows):
        _predict(denoiser, rows, {**latents_of, **targets}, timestep, given)


def _guided(found: Mapping[Row, Tensor], branch: str, scale: float) -> Tensor:
    own = found[branch]  # type: ignore[index]
    null = found.get(f"{branch}_null")  # type: ignore[call-overload]
    return own if scale == 1 or null is None else guide(null, own, scale)


def coupled_calls(settings: InversionSettings, couplings: Sequence[Coupling]) -> int:
    """The largest number of denoiser calls in `invert_coupled`; its arguments."""
    steps = settings.num_inference_steps
    together = settings.start(steps)
    walk = Walk(0, together, walked_rows(settings, couplings), 1)
    asking = together * sum(bool(coupling.asks(walk)) for coupling in couplings)
    if settings.inversion == "style":
        learned = sum(settings.updates(done, together) for done in range(together))
        return steps + learned + together * (2 if settings.guidance_scale == 1 else 3) + asking
    if settings.inversion in ("ddpm", "null-condition"):
        return most_calls(settings) + asking
    return steps + together * (2 if settings.offset_to == "own" else 1) + asking


class _Source:
    """The source branch: known in advance, or stepped down beside the target from rows of the same batch.

    Attributes:
        latents: latents at the places that are known.
        step: function (latents, guided noise, place) -> latents one place below.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        latents: Tensor,
        tokens: Tokens,
        settings: InversionSettings,
        levels: Levels,
        noise: Tensor | None,
        tidy: Tidy | None,
        styled: SourceBranch | None,
    ) -> None:
        self._tokens, self._levels, self._settings = tokens, levels, settings
        start, method = settings.start(levels.steps), settings.inversion
        self._share = settings.offset_scale if method == "direct" else 0.0
        self._scale = 1.0 if method == "negative-condition" else settings.guidance_scale
        self._upwards: list[Tensor] = []
        if styled is not None:
            known = styled
        elif _knows_source(settings):
            known = find_source(denoiser, latents, tokens, settings, levels, noise, tidy)
        else:
            self._upwards = ddim_inversion(denoiser, latents, tokens.source, levels, tidy)
            nulls = dict.fromkeys(range(start + 1), tokens.source) if method == "negative-condition" else {}
            known = SourceBranch({start: self._upwards[start]}, self._ddim, nulls)
        self.latents, self.step, self._nulls = dict(known.latents), known.step, known.nulls
        self._own: dict[int, Tensor] = {}
        if settings.offset_to == "own":
            self._own = {place: self._own_offset(denoiser, place) for place in range(start, 0, -1)}

    def tokens(self, place: int) -> dict[Row, Tensor]:
        """The tokens of each row for the step down from a place."""
        null = self._nulls.get(place, self._tokens.null)
        other = self._tokens.target_null
        if other is None:
            other = self._tokens.null if self._settings.null_to == "source" else null
        own = self._tokens
        return {"source_null": null, "source": own.source, "target_null": other, "target": own.target}

    def below(
        self, place: int, here: Tensor, found: Mapping[Row, Tensor], done: int
    ) -> tuple[Tensor, Tensor | None]:
        """The source's latents one place below, and what the edit is moved by."""
        if not self._upwards:
            return self.latents[place - 1], None
        arrived = self._ddim(here, _guided(found, "source", self._scale), place)
        share = self._share if done % self._settings.offset_every == 0 else 0.0
        offset = share * (self._upwards[place - 1] - arrived)
        to = self._settings.offset_to
        moved = None if to == "source" else offset if to == "both" else share * self._own[place]
        return arrived + offset, moved

    def _own_offset(self, denoiser: Denoiser, place: int) -> Tensor:
        """What separates the edit's own step from the way up, if it stands there."""
        given, here = self.tokens(place), self._upwards[place]
        rows: dict[Row, int] = {"target_null": 0, "target": 1}
        latents_of = dict.fromkeys(rows, here)
        found = _predict(denoiser, rows, latents_of, self._levels.timesteps[place - 1], given)
        guided = _guided(found, "target", self._settings.guidance_scale)
        return self._upwards[place - 1] - self._ddim(here, guided, place)

    def _ddim(self, latents: Tensor, noise: Tensor, place: int) -> Tensor:
        signal = self._levels.signal
        return move(latents, noise, signal[place], signal[place - 1])
