"""Tars that cannot be read from their middle, through webdataset: approximately shuffled, begun by the epoch.

Each rank reads its own part of the streams, and each loader worker a part of that. Positions are given to
samples as they come, so noise and timesteps are exact while the order of the samples is not.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, islice
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from dataprep.draw.recipe import PBE, Recipe
from dataprep.foreign.fields import StreamFields
from dataprep.foreign.sample import read_foreign
from dataprep.foreign.tars import split_member
from dataprep.records import Rejected, RejectReason
from intarsia.architecture import ModelConfig
from intarsia.conditions.structure import COMPUTED
from intarsia.errors import UsageError, UserError
from intarsia.rng import derive_seed
from intarsia.sample import Sample, SampleMeta
from training.config import BatchShape, TrainConfig
from training.data.batch import Batch, Item, as_item, collate, fresh_draw
from training.data.order import permutation, rank_positions
from training.data.shards import Shard
from training.data.texts import prompt_of, text_of
from training.data.workers import ignore_signals, start_context, watched
from training.option_groups import DataConfig

log = logging.getLogger("training")
_PROBED = 100  # samples after which a stream of which nothing can be used is a mistake
_DRAINED = 1 << 20  # bytes read at once after the last sample
_PIPE_BROKEN = (23, 141)  # exit codes of curl and of a shell whose output nobody reads any more
_PROMISE = (
    "data.stream: samples are shuffled approximately, over %d at a time, and a run that continues reads its "
    "epoch from the start again; `python -m dataprep index` gives tars that can be indexed an exact order"
)


class StreamOrder:
    """What a `DataOrder` says, as far as it is known of streams.

    Args:
        total: about how many samples an epoch has.
    """

    def __init__(self, total: int) -> None:
        self.total = total

    def locate(self, position: int) -> tuple[int, int]:
        """-1, -1: which sample a position takes is not known beforehand."""
        return -1, -1

    def epoch(self, position: int) -> int:
        """How many epochs end before a position."""
        return position // self.total


@dataclass(frozen=True)
class LeftOut:
    """A sample that cannot be used."""

    key: str
    url: str
    rejected: Rejected

    def __str__(self) -> str:
        """Its name and the reason."""
        detail = f" ({self.rejected.detail})" if self.rejected.detail else ""
        return f"sample {self.key} of {self.url}: {self.rejected.reason}{detail}"


@dataclass(frozen=True)
class StreamReader:
    """How samples are made of streams.

    Attributes:
        urls: tars, addresses and pipes.
        stream: what their members mean, and the length of shuffle and epoch.
        image_size: side of the pictures, pixels.
        seed: seed of the run.
        redraw: whether later epochs have draws of their own.
        recipe: recipe to draw by.
        text: kind of the prompts, `DataConfig.text`; None: the model is not told text.
        mapped: config of the model; None if it has no structure maps.
    """

    urls: tuple[str, ...]
    stream: StreamFields
    image_size: int
    seed: int
    redraw: bool
    recipe: Recipe
    text: str | None = None
    mapped: ModelConfig | None = None

    def samples(self, epoch: int, rank: int = 0, world: int = 1, shuffled: bool = True) -> Iterator[Any]:
        """The samples, drawn, or `LeftOut`, of one rank in one epoch; in a loader worker its part of them.

        Raises:
            UserError: for a stream that cannot be read.
        """
        import webdataset

        order = (
            permutation(len(self.urls), self.seed, "streams", epoch) if shuffled else range(len(self.urls))
        )
        stages = [
            webdataset.SimpleShardList([self.urls[number] for number in order]),
            lambda shards: islice(shards, rank, None, world),
            webdataset.split_by_worker,
            self._opened,
        ]
        if shuffled:
            rng, size = Random(derive_seed(self.seed, "stream", epoch, rank)), self.stream.shuffle
            stages.append(webdataset.shuffle(size, initial=size, rng=rng))
        for url, key, members, twice in webdataset.DataPipeline(*stages):
            yield self._drawn(url, key, members, twice, epoch)

    def _opened(
        self, shards: Iterator[dict[str, str]]
    ) -> Iterator[tuple[str, str, dict[str, bytes], list[str]]]:
        """Address, key, members and doubled members of each sample; members without a field are empty."""
        import webdataset

        for shard in shards:
            twice: list[tuple[str, str]] = []
            handler = partial(_on_error, twice)
            stream: Any = None
            try:
                stream = webdataset.gopen(shard["url"])
                files = webdataset.tariterators.tar_file_expander([shard | {"stream": stream}], handler)
                for sample in webdataset.tariterators.group_by_keys(files, handler=handler):
                    key = sample.pop("__key__")
                    members = {
                        suffix: content if suffix in self.stream.suffixes else b""
                        for suffix, content in sample.items()
                        if not suffix.startswith("__")
                    }
                    doubled = [suffix for name, suffix in twice if name == key]
                    yield shard["url"], key, members, doubled
                while stream.read(_DRAINED):  # a command's exit code is known at the end of its output only
                    pass
                stream.close()
            except Exception as error:  # noqa: BLE001 - each kind of stream has errors of its own
                raise UserError(
                    f"the stream {shard['url']} cannot be read ({_cause(error, stream)}); see to it, then "
                    "run the same command again"
                ) from None

    def _drawn(
        self, url: str, key: str, members: dict[str, bytes], twice: list[str], epoch: int
    ) -> Sample | LeftOut:
        doubled = [suffix for suffix in twice if suffix in self.stream.suffixes]
        if doubled:
            return LeftOut(key, url, Rejected(RejectReason.MEMBER_TWICE, ", ".join(doubled)))
        tar = url.rpartition("/")[2].removesuffix(".tar")
        found = read_foreign(members, f"{tar}/{key}", self.stream)
        if isinstance(found, Sample):
            number = epoch if self.redraw else 0
            seed = self.seed if number else found.meta.seed
            found = fresh_draw(found, self.image_size, seed, number, self.recipe)
        return LeftOut(key, url, found) if isinstance(found, Rejected) else found


def _cause(error: Exception, stream: Any) -> str:
    """What webdataset says, without the addresses that it adds; the exit code of a command that failed."""
    process = getattr(stream, "proc", None)
    if process is not None:
        process.stdout.close()
        code = process.wait()
        if code > 0 and code not in _PIPE_BROKEN:
            return f"its command ended with exit {code}"
    text = " ".join(str(error.args[0] if error.args else error).split())
    return f"{type(error).__name__}: {text}"


def _on_error(twice: list[tuple[str, str]], error: Exception) -> bool:
    """Note a name that a tar has twice and go on; anything else is raised."""
    text = str(error.args[0]) if error.args else ""
    name, colon, _ = text.partition(": duplicate file name")
    parts = split_member(name)
    if not colon or parts is None:
        raise error
    twice.append(parts)
    return True


class StreamPart(IterableDataset):
    """The micro-batches of one rank, without end, for torch's DataLoader.

    Args:
        reader: reader of the streams.
        micro: samples of a micro-batch.
        rank, world: ours, and number of ranks.
        epoch: epoch to begin with.
    """

    def __init__(self, reader: StreamReader, micro: int, rank: int, world: int, epoch: int) -> None:
        self.reader, self.micro = reader, micro
        self.rank, self.world, self.epoch = rank, world, epoch

    def __iter__(self) -> Iterator[tuple[Batch, list[LeftOut], list[SampleMeta]] | UserError]:
        """Batches without positions, each with what was left out before it. A UserError is a value.

        For a model that is told text the samples' records come, too: prompts depend on the positions.
        """
        try:
            yield from self._batches()
        except UserError as error:
            yield error

    def _batches(self) -> Iterator[tuple[Batch, list[LeftOut], list[SampleMeta]]]:
        samples: list[Sample] = []
        left: list[LeftOut] = []
        for epoch in count(self.epoch):
            kept, out = 0, 0
            for item in self.reader.samples(epoch, self.rank, self.world):
                if isinstance(item, LeftOut):
                    left.append(item)
                    out += 1
                else:
                    samples.append(item)
                    kept += 1
                if out >= _PROBED and not kept:
                    break
                if len(samples) == self.micro:
                    batch = collate([(0, as_item(sample, self.reader.mapped)) for sample in samples])
                    assert isinstance(batch, Batch)  # there is no error among them
                    yield batch, left, [sample.meta for sample in samples] if self.reader.text else []
                    samples, left = [], []
            if not kept and not out:
                return  # another worker has all the streams
            if not kept:
                raise _unusable(left[-out:])


def _unusable(left: Sequence[LeftOut]) -> UserError:
    counts = ", ".join(
        f"{why} {n}" for why, n in Counter(item.rejected.reason for item in left).most_common()
    )
    return UserError(
        f"data.stream: none of {len(left)} samples can be used ({counts}); {left[0]}; correct "
        "data.stream.fields"
    )


@dataclass
class StreamDataset:
    """The samples of streams; it stands in for a `SampleDataset`.

    Attributes:
        shards: a shard for each stream; their counts add up to the epoch.
        reader: reader of the streams.
        order: length of an epoch.
    """

    shards: list[Shard]
    reader: StreamReader
    order: StreamOrder
    _first: list[Sample] = field(default_factory=list)

    @property
    def mapped(self) -> ModelConfig | None:
        """Config of the model; None if it has no structure maps."""
        return self.reader.mapped

    def spread(self, number: int, places: Sequence[int] | None = None) -> list[Sample]:
        """The first `number` samples of the streams, or those at `places` among them; the same in every call.

        Raises:
            UserError: if there are fewer.
        """
        number = min(number, self.order.total)
        if len(self._first) < number:
            made = (item for item in self.reader.samples(0, shuffled=False) if isinstance(item, Sample))
            self._first = list(islice(made, number))
        if len(self._first) < number:
            raise UserError(
                f"data.stream.samples={self.order.total}, and the streams hold {len(self._first)} samples "
                "that can be used; correct it"
            )
        return self._first[:number] if places is None else [self._first[place] for place in places]

    def item(self, sample: Sample, position: int) -> Item:
        """A sample with all that the model is told of it at a position of the global order."""
        text = prompt_of(sample.meta, self.reader.text, self.reader.seed, position)
        return as_item(sample, self.reader.mapped, text=text)

    def load(
        self,
        config: DataConfig,
        shape: BatchShape,
        rank: int,
        span: range,
        pin_memory: bool = False,
        draw: Callable[[Tensor], Any] | None = None,
    ) -> Iterator[Batch | UserError]:
        """This rank's micro-batches, as `batches` gives them; `draw` is left to the training process.

        Raises:
            UserError: if there are fewer streams than ranks.
        """
        if len(self.reader.urls) < shape.world:
            raise UserError(
                f"data.shards names {len(self.reader.urls)} streams for {shape.world} ranks, and each rank "
                "reads its own; name more, or start fewer ranks"
            )
        part = StreamPart(self.reader, shape.micro, rank, shape.world, self.order.epoch(span.start))
        loader = DataLoader(
            part,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=config.num_workers,
            worker_init_fn=ignore_signals,
            multiprocessing_context=start_context() if config.num_workers else None,
            prefetch_factor=4 if config.num_workers else None,
            pin_memory=pin_memory,
        )
        reasons: Counter[str] = Counter()
        places = islice(rank_positions(span.start, shape, rank), len(span) * shape.accum)
        found = watched(iter(loader))
        for positions in places:
            item = next(found, None)
            if item is None:
                raise UserError("data.stream: the streams hold no samples: no file is named KEY.SUFFIX")
            if isinstance(item, UserError):
                yield item
                return
            batch, left, metas = item
            _note(left, reasons)
            told = zip(metas, positions, strict=False)  # no records without prompts
            texts = [text_of(meta, str(self.reader.text), self.reader.seed, place) for meta, place in told]
            yield replace(batch, positions=torch.tensor(positions), texts=texts)


def _as_it_is(item: Any) -> Any:
    return item


def _note(left: Sequence[LeftOut], reasons: Counter[str]) -> None:
    """A line in the rank's log for each sample that is left out; a warning when they are ten times more."""
    for item in left:
        reasons[item.rejected.reason] += 1
        log.info("left out: %s", item, extra={"file_only": True})
        number = reasons.total()
        if number == 10 ** (len(str(number)) - 1):
            counts = ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common())
            log.warning("%s left out so far (%s), such as %s; logs/ has each", f"{number:,}", counts, item)


def open_streams(config: TrainConfig, shards: list[Shard]) -> StreamDataset:
    """The samples of the run's streams; says what they do not promise.

    Args:
        config: config with data.stream.
        shards: shards from `find_data`.

    Raises:
        UsageError: for structure maps that are not computed from pixels.
    """
    data, stream = config.data, config.data.stream
    files = [name for name in config.model.structure.maps if name not in COMPUTED]
    if files:
        raise UsageError(
            f"model.structure.maps has {', '.join(files)}, which streams do not have; build shards with "
            f"`python -m dataprep build` and add the maps, or take {', '.join(COMPUTED)}"
        )
    assert stream is not None  # the caller has seen it
    log.info(_PROMISE, stream.shuffle)
    reader = StreamReader(
        tuple(shard.data_set for shard in shards),
        stream,
        config.model.image_size,
        config.seed,
        data.redraw is not False,
        data.recipe or PBE,
        data.text if "text" in config.model.parts else None,
        config.model if config.model.structure.maps else None,
    )
    return StreamDataset(shards, reader, StreamOrder(stream.samples))
