"""Shards to batches in the exact order of `order.py`: read by offset, uint8 out, nothing random in here."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataprep.draw.pipeline import check_pipeline
from dataprep.draw.recipe import Recipe
from dataprep.draw.redraw import redraw_crop
from dataprep.records import Rejected
from intarsia.architecture import ModelConfig
from intarsia.conditions.structure import COMPUTED
from intarsia.errors import UserError
from intarsia.model_folder import frozen_hash
from intarsia.sample import Sample
from training.config import BatchShape, TrainConfig, stores_features
from training.data.batch import Batch, Item, as_item, collate, collate_and_draw, fresh_draw
from training.data.latents import LatentReader, check_redraw, find_latents
from training.data.mixture import MixedOrder, mixture_of
from training.data.order import DataOrder, rank_positions
from training.data.reader import ShardReader, open_cache
from training.data.shards import Shard, check_recipe, find_data, wrong_size
from training.data.streams import StreamDataset, open_streams
from training.data.texts import prompt_of
from training.data.workers import ignore_signals, start_context, watched
from training.option_groups import DataConfig

if TYPE_CHECKING:
    from intarsia.model import EditModel


class SampleDataset(Dataset):
    """Position -> sample, for torch's DataLoader.

    Args:
        reader: reader of the shards.
        order: order of their samples.
        image_size: side of the pictures, pixels.
        seed: seed of the draws of every epoch but the first, which has the shards' own.
        redraw: whether there are such draws; None: from whole pictures yes, of finished crops no.
        recipe: recipe that all epochs are drawn by; None: each shard's own.
        text: kind of the prompts, `DataConfig.text`; None: the model is not told text.
    """

    def __init__(
        self,
        reader: ShardReader,
        order: DataOrder | MixedOrder,
        image_size: int,
        seed: int,
        redraw: bool | None = None,
        recipe: Recipe | None = None,
        text: str | None = None,
    ) -> None:
        self.reader = reader
        self.order = order
        self.image_size = image_size
        self.seed = seed
        self.redraw = redraw if recipe is None else True
        self.recipe = recipe
        self.text = text
        # Shards that the recipe draws otherwise than they are: what is stored is none of its draws.
        self._other = [recipe is not None and recipe != shard.recipe for shard in reader.shards]
        self.latents: LatentReader | None = None
        self.mapped: ModelConfig | None = None  # the model, if it has structure maps

    @property
    def shards(self) -> Sequence[Shard]:
        """The shards, in the order of their numbers."""
        return self.reader.shards

    def __getitem__(self, position: int) -> tuple[int, Sample | Item] | UserError:
        """The sample at a position of the global order. A UserError is a value: workers would garble it."""
        try:
            shard, index = self.order.locate(position)
            epoch = self.order.epoch(position)
            if self.latents is None:
                sample = self.sample(shard, index, epoch)
                told = self.text is not None or self.mapped is not None
                return position, self.item(sample, position) if told else sample
            return position, self._with_stored(self.latents, (shard, index), epoch, position)
        except UserError as error:
            return error

    def item(self, sample: Sample, position: int, stored: Mapping[str, np.ndarray] | None = None) -> Item:
        """A sample with all that the model is told of it at a position of the global order."""
        text = prompt_of(sample.meta, self.text, self.seed, position)
        return as_item(sample, self.mapped, stored, text)

    def _with_stored(self, latents: LatentReader, place: tuple[int, int], epoch: int, position: int) -> Item:
        """All that is stored, and the pixels and the prompt, which are not.

        Of crops with fresh masks, only their own latents are stored. Structure maps are made of the pixels.
        """
        stored = latents.read(*place)
        if self.redraw:
            return self.item(self.sample(*place, epoch), position, {"image": stored.image})
        arrays = {name: getattr(stored, name) for name in latents.names}
        if not latents.is_whole:
            return self.item(self.sample(*place, epoch), position, arrays)
        if self.mapped is not None:
            return replace(self.item(self.sample(*place, epoch), position, arrays), sample=None)
        if self.text is None:
            return Item(stored.key, None, arrays)
        meta = self.reader.record(*place)
        return Item(stored.key, None, arrays, prompt_of(meta, self.text, self.seed, position))

    def sample(self, shard: int, index: int, epoch: int) -> Sample:
        """Sample `index` of a shard, at the size that the model takes, as `epoch` draws it.

        Raises:
            UserError: where it cannot be read, or the shard's pictures have another size.
        """
        source = self.reader.shards[shard]
        if not (source.whole_pictures if self.redraw is None else self.redraw):
            epoch = 0
        fresh = epoch > 0 or self._other[shard]
        sample = self.reader.read(shard, index, redraw=fresh)
        if source.whole_pictures:
            return self._draw(sample, epoch, source)
        height, width = sample.image.shape[:2]
        if (height, width) != (self.image_size, self.image_size):
            raise wrong_size(f"shard {source.place}", width, height, self.image_size)
        if not fresh:
            return sample
        return redraw_crop(sample, self._seed(sample, epoch), epoch, source.recipe, self.recipe)

    def _seed(self, sample: Sample, epoch: int) -> int:
        """The run's seed; in the first epoch data prep's, so that every run validates on the same draws."""
        return self.seed if epoch else sample.meta.seed

    def _draw(self, sample: Sample, epoch: int, shard: Shard) -> Sample:
        """This epoch's draw; one that leaves no pixel to repaint is drawn again, under a further number."""
        seed = self._seed(sample, epoch)
        drawn = fresh_draw(sample, self.image_size, seed, epoch, shard.recipe, self.recipe)
        if isinstance(drawn, Rejected):
            raise UserError(f"shard {shard.place}: sample {sample.meta.key}: {drawn.detail}")
        return drawn

    def spread(self, number: int, places: Sequence[int] | None = None) -> list[Sample]:
        """`number` samples, or all, spread evenly over the shards, in their order, as the shards have them.

        Args:
            number: number of samples in all.
            places: places among them; None = all.
        """
        counts = [shard.count for shard in self.shards]
        ends = np.cumsum(counts)
        total = int(ends[-1])
        samples = []
        for place in range(min(number, total)) if places is None else places:
            index = place * total // min(number, total)
            shard = int(np.searchsorted(ends, index, side="right"))
            samples.append(self.sample(shard, index - int(ends[shard]) + counts[shard], epoch=0))
        return samples

    def load(
        self,
        config: DataConfig,
        shape: BatchShape,
        rank: int,
        span: range,
        pin_memory: bool = False,
        draw: Callable[[Tensor], Any] | None = None,
    ) -> Iterator[Batch | UserError]:
        """As `batches`, with an error as a value."""
        positions = islice(rank_positions(span.start, shape, rank), len(span) * shape.accum)
        loader = DataLoader(
            self,
            batch_sampler=positions,  # type: ignore[arg-type]
            num_workers=config.num_workers,
            collate_fn=collate if draw is None else partial(collate_and_draw, draw),
            worker_init_fn=ignore_signals,
            multiprocessing_context=start_context() if config.num_workers else None,
            prefetch_factor=4 if config.num_workers else None,
            pin_memory=pin_memory,
        )
        yield from watched(iter(loader))


RunDataset: TypeAlias = SampleDataset | StreamDataset


def open_dataset(config: TrainConfig) -> RunDataset:
    """The samples of the run's shards, in the run's order; `use_latents` adds what is stored of them.

    Raises:
        UserError: for folders that hold no readable shards, or a cache that is too small for them.
    """
    shards = find_data(config.data)
    check_recipe(shards, config.data)
    if config.data.recipe is not None:
        check_pipeline(config.data.recipe)
    if config.data.stream:
        return open_streams(config, shards)
    if config.data.latents:
        check_redraw(shards, config.data)
    order = order_of(config, shards)
    reader = ShardReader(shards, config.data.open_shards, open_cache(config.data, shards))
    size, data = config.model.image_size, config.data
    text = data.text if "text" in config.model.parts else None
    dataset = SampleDataset(reader, order, size, config.seed, data.redraw, data.recipe, text)
    if maps := config.model.structure.maps:
        dataset.mapped = config.model
        reader.maps = tuple(name for name in maps if name not in COMPUTED)
    return dataset


def order_of(config: TrainConfig, shards: Sequence[Shard]) -> DataOrder | MixedOrder:
    """The order of a run's samples: all shards as one data set, or each folder by its weight."""
    mixture, window = mixture_of(config.data, config.seed), config.data.window_shards
    if mixture is None:
        return DataOrder([shard.count for shard in shards], config.seed, window)
    counts = [[shard.count for shard in shards if shard.data_set == place] for place in config.data.shards]
    for place, numbers in zip(config.data.shards, counts, strict=True):
        if not sum(numbers):
            raise UserError(f"data.shards: {place} holds no samples, so that it can have no share; remove it")
    firsts = [0, *np.cumsum([len(numbers) for numbers in counts])[:-1].tolist()]
    return MixedOrder([DataOrder(numbers, config.seed, window) for numbers in counts], firsts, mixture)


def use_latents(config: TrainConfig, dataset: RunDataset, model: "EditModel") -> None:
    """Let a run with `data.latents` read what is stored for the networks of its model.

    Raises:
        UserError: where that is missing, incomplete, or of other networks or shards.
    """
    if config.data.latents and isinstance(dataset, SampleDataset):  # streams have none
        features, told = stores_features(config), "exemplar" in config.model.parts
        files = find_latents(dataset.reader.shards, frozen_hash(model), features)
        cache, number = dataset.reader.cache, config.data.open_shards
        dataset.latents = LatentReader(files, number, cache, features, is_whole=features or not told)


def batches(
    config: DataConfig,
    dataset: RunDataset,
    shape: BatchShape,
    rank: int,
    span: range,
    pin_memory: bool = False,
    draw: Callable[[Tensor], Any] | None = None,
) -> Iterator[Batch]:
    """This rank's micro-batches of the optimizer steps that start at the positions in `span`.

    Args:
        config: the number of workers is used.
        dataset: dataset to read.
        shape: shape of the batches.
        rank: ours.
        span: first and last position, in strides of the global batch.
        pin_memory: whether batches come in page-locked memory.
        draw: (positions) -> draws, made by the workers; None leaves `Batch.draws` empty.

    Raises:
        UserError: for a sample that cannot be read, or a worker that ends.
    """
    for batch in dataset.load(config, shape, rank, span, pin_memory, draw):
        if isinstance(batch, UserError):
            raise batch
        yield batch
