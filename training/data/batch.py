"""`Batch`: one micro-batch on the CPU, and how samples are put together to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataprep.draw.recipe import Recipe
from dataprep.draw.redraw import redraw_sample
from dataprep.pictures.decode import squash
from dataprep.records import Rejected, RejectReason
from intarsia.architecture import ModelConfig
from intarsia.conditions.structure import structure_channels, trained_sources
from intarsia.errors import UserError
from intarsia.sample import Sample

_ATTEMPTS = 8
_EPOCHS = 1_000_000  # draws of later attempts have numbers beyond any epoch's


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the CPU.

    Attributes:
        positions: int64 [B], places in the global order; they key the noise, too.
        keys: the samples' names.
        image: uint8 [B, H, W, 3] RGB; None, as edit_mask, where their latents are stored.
        edit_mask: uint8 [B, H, W], 255 = repaint.
        exemplar: uint8 [B, 224, 224, 3] RGB; None where its features are stored.
        stored: stored results of the frozen networks, by the names in `encode.Posteriors`.
        texts: prompts of the samples; empty for a model that is not told text.
        structure: structure maps on the grid of latents, uint8 [B, K, h, w]; None for a model without.
        draws: random draws of the samples (`objective.draws.Draws`), where the loader's workers make them.
    """

    positions: Tensor
    keys: list[str]
    image: Tensor | None
    edit_mask: Tensor | None
    exemplar: Tensor | None
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    texts: Sequence[str] = ()
    structure: Tensor | None = None
    draws: Any = None

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; torch's loader calls this."""
        return _pinned(self)


@dataclass(frozen=True)
class Item:
    """One sample of a batch: its pixels, or what is stored of it, or both where the mask is drawn afresh.

    Structure maps, uint8 [K, h, w], are never stored.
    """

    key: str
    sample: Sample | None
    stored: Mapping[str, np.ndarray] = field(default_factory=dict)
    text: str | None = None
    structure: np.ndarray | None = None


def as_item(
    sample: Sample,
    mapped: ModelConfig | None,
    stored: Mapping[str, np.ndarray] | None = None,
    text: str | None = None,
) -> Item:
    """A drawn sample with its structure maps, its prompt and what is stored of it.

    Args:
        sample: sample with its pixels.
        mapped: config of the model; None if it has no maps.
        stored: what is stored.
        text: prompt; None for a model that is not told text.
    """
    structure = None
    if mapped is not None:
        sources = trained_sources(mapped.structure.maps, sample.maps)
        structure = structure_channels(mapped, sources, sample.image, sample.edit_mask)
    return Item(sample.meta.key, sample, stored or {}, text, structure)


def fresh_draw(
    sample: Sample, image_size: int, seed: int, epoch: int, made_by: Recipe, recipe: Recipe | None = None
) -> Sample | Rejected:
    """An epoch's draw from a whole picture; one that leaves no pixel to repaint is drawn again, a few times.

    Args:
        sample: sample with the whole picture.
        image_size: side of the crop, pixels.
        seed: seed of the draws.
        epoch: 0 or more; a further attempt has a number beyond any epoch's.
        made_by: recipe of the shard.
        recipe: recipe to draw by; the shard's if None.
    """
    for attempt in range(_ATTEMPTS):
        drawn = redraw_sample(sample, image_size, seed, epoch + attempt * _EPOCHS, made_by, recipe)
        if isinstance(drawn, Sample):
            window = drawn.meta.window
            maps = {name: squash(window.cut(pixels), image_size) for name, pixels in sample.maps.items()}
            return replace(drawn, maps=maps) if maps else drawn
    return Rejected(RejectReason.EMPTY_MASK, f"{_ATTEMPTS} draws left no pixel to repaint")


def collate_and_draw(draw: Callable[[Tensor], Any], items: Sequence[Any]) -> Batch | UserError:
    """`collate`, with the draws of the samples' positions."""
    batch = collate(items)
    return batch if isinstance(batch, UserError) else replace(batch, draws=draw(batch.positions))


def collate(items: Sequence[tuple[int, Sample | Item] | UserError]) -> Batch | UserError:
    """Samples to a batch; or the first error among them."""
    for item in items:
        if isinstance(item, UserError):
            return item
    positions, parts = zip(*items, strict=True)  # type: ignore[arg-type]
    rows = [part if isinstance(part, Item) else Item(part.meta.key, part) for part in parts]
    samples = [row.sample for row in rows if row.sample is not None]
    pictures = samples if "masked" not in rows[0].stored else []
    return Batch(
        positions=torch.tensor(positions),
        keys=[row.key for row in rows],
        image=_stack([sample.image for sample in pictures]) if pictures else None,
        edit_mask=_stack([sample.edit_mask for sample in pictures]) if pictures else None,
        exemplar=_stack([sample.exemplar for sample in samples]) if samples else None,
        structure=_stack([row.structure for row in rows]) if rows[0].structure is not None else None,
        stored={name: _stack([row.stored[name] for row in rows]) for name in rows[0].stored},
        texts=[row.text for row in rows if row.text is not None],
    )


def _pinned(value: Any) -> Any:
    """A dataclass with all tensors in it, at any depth, in page-locked memory."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, Mapping):
        return {name: _pinned(part) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{name: _pinned(part) for name, part in vars(value).items()})
    return value


def _stack(arrays: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
