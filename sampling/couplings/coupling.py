"""`Coupling`: what the target branch of an inversion takes from the source branch.

Source and target are rows of one batch. A coupling may replace queries, keys and values of the attention
layers, their maps, features between the layers, and the target's latents after a step; by default it does
nothing. Several couplings act one after the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, cast

from torch import Tensor

from intarsia.errors import UserError
from sampling.couplings.alignment import Alignment
from sampling.settings import COUPLINGS

Row = Literal["source_null", "source", "target_null", "target"]
ROWS: tuple[Row, ...] = ("source_null", "source", "target_null", "target")


@dataclass(frozen=True)
class AttentionLayer:
    """Where a transformer block's attention layer is in the UNet.

    Attributes:
        part: part of the UNet.
        number: number of the block, 0 … count − 1, in the order of the forward pass.
        count: number of all blocks.
        cross: whether it attends to the context, and not to the picture itself.
        coarsest: whether it is among those with the fewest cells outside the middle; in the UNet of Stable
            Diffusion these have a quarter of the latents' side.
    """

    part: Literal["down", "mid", "up"]
    number: int
    count: int
    cross: bool
    coarsest: bool = False

    @property
    def depth(self) -> float:
        """Share of the blocks that come before this one, 0 … 1: limits hold for UNets of any depth."""
        return self.number / self.count


@dataclass(frozen=True)
class Walk:
    """Where the walk down from noise is, and what the batch holds.

    Attributes:
        done: number of steps done, 0 at the noisiest place.
        steps: number of all steps.
        rows: name of a row -> its place in the batch, for the rows that somebody asked for.
        side: height of the latents, in cells.
    """

    done: int
    steps: int
    rows: Mapping[Row, int]
    side: int

    def before(self, share: float) -> bool:
        """Whether fewer than int(share · steps) steps are done; the originals round down, too."""
        return self.done < int(share * self.steps)

    def pairs(self) -> list[tuple[int, int]]:
        """(row of the source, row of the target) with null tokens and with their own, as far as both exist.

        A target row without its counterpart takes the other source row.
        """
        rows = self.rows
        found = []
        for name in ("null", "own"):
            target = rows.get("target_null" if name == "null" else "target")
            first, second = ("source_null", "source") if name == "null" else ("source", "source_null")
            source = rows.get(first, rows.get(second))  # type: ignore[call-overload]
            if target is not None and source is not None:
                found.append((source, target))
        return found


RowLatents = Mapping[Row, Tensor]
Ask = Callable[[RowLatents], None]


class Coupling:
    """A coupling that does nothing; values of the table override what they need.

    Attributes:
        needs: rows of the source branch that must be in the batch.
        cross, own: whether layers of cross- and of self-attention are changed.
        features_of: name of the module whose output `features` changes; empty if none.
        always: whether it acts even where another one acts alone.
    """

    needs: frozenset[Row] = frozenset()
    cross = False
    own = False
    features_of = ""
    always = False

    def values(self, walk: Walk, layer: AttentionLayer, context: Tensor) -> Tensor:
        """Context [B, m, D] of a layer -> what its values are computed from; keys are the context's."""
        return context

    def rows(
        self, walk: Walk, layer: AttentionLayer, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, heads, n, d], keys and values [B, heads, m, d] -> what is attended with."""
        return query, key, value

    def may_see(self, walk: Walk, layer: AttentionLayer, batch: int, cells: int, keys: int) -> Tensor | None:
        """Which keys each of a row's cells may attend to, bool [B, 1, 1 or cells, keys]; None for all."""
        return None

    def reads_maps(self, walk: Walk, layer: AttentionLayer, pixels: int) -> bool:
        """Whether `maps` is to be called; only then does a layer with `pixels` queries compute its map."""
        return False

    def maps(self, walk: Walk, layer: AttentionLayer, maps: Tensor) -> Tensor:
        """Attention maps [B, heads, n, m], softmax over m -> the maps to attend with."""
        return maps

    def features(self, walk: Walk, features: Tensor) -> Tensor:
        """Output [B, C, h, w] of the module `features_of` -> what follows goes on with."""
        return features

    def asks(self, walk: Walk) -> tuple[Row, ...]:
        """Rows with which `before_step` asks the UNet, in the order of their batch; none if it does not."""
        return ()

    def before_step(self, walk: Walk, target: RowLatents, ask: Ask) -> RowLatents:
        """Latents [1, C, h, w] of the target's rows before a step -> what the step begins with.

        `ask` runs the UNet on the rows of `asks`, with latents of the target's; this coupling acts alone in
        it, so that it can read maps, with gradients if they are enabled.
        """
        return target

    def after_step(self, walk: Walk, source: Tensor, target: Tensor) -> Tensor:
        """Latents [1, C, h, w] of source and target after a step -> the target's."""
        return target


@dataclass(frozen=True)
class CouplingInputs:
    """What couplings can be made of.

    Attributes:
        num_tokens: number of tokens that the UNet attends to.
        keep: [1, 1, h, w], 1 where the picture is kept; None without a mask.
        alignment: correspondence of the tokens of source and target; None if there is nothing to align.
    """

    num_tokens: int
    keep: Tensor | None = None
    alignment: Alignment | None = None


@dataclass(frozen=True)
class CouplingRow:
    """A coupling as the table has it.

    Attributes:
        make: function that makes the coupling for one walk.
        fewest_tokens: number of tokens that it needs to have any effect.
        masked: whether it has no meaning without a mask.
    """

    make: Callable[[CouplingInputs], Coupling]
    fewest_tokens: int = 1
    masked: bool = False


def make_couplings(names: Sequence[str], given: CouplingInputs) -> list[Coupling]:
    """New couplings by their names in COUPLINGS, for one walk.

    Args:
        names: names, in the order in which they act.
        given: what they are made of.

    Raises:
        UserError: for one that would have no effect on this model, or needs a mask that is not there.
    """
    check_couplings(names, given.num_tokens, given.keep is not None)
    return [_row(name).make(given) for name in names]


def check_couplings(names: Sequence[str], num_tokens: int, masked: bool) -> None:
    """Refuse couplings that would have no effect on a model, or need a mask that is not there.

    Args:
        names: names of couplings.
        num_tokens: number of tokens that the UNet attends to.
        masked: whether there is a mask.

    Raises:
        UserError: with what to leave out or add.
    """
    for name in names:
        row = _row(name)
        if num_tokens < row.fewest_tokens:
            raise UserError(
                f"the coupling {name} needs {row.fewest_tokens} tokens or more to choose between, and this "
                f"model attends to {num_tokens}, so that its effect would be exactly 0; leave it out, or "
                "train a model with more exemplar tokens"
            )
        if row.masked and not masked:
            raise UserError(
                f"the coupling {name} keeps what is outside the mask; give a mask, or leave it out"
            )


def _row(name: str) -> CouplingRow:
    return cast(CouplingRow, import_module(COUPLINGS[name]).COUPLING)


def needed_rows(couplings: Sequence[Coupling]) -> frozenset[Row]:
    """The rows of the source that some coupling asks for."""
    return frozenset().union(*(coupling.needs for coupling in couplings))
