"""Read the samples of shards: any of them, at any time, from local files or copies of remote ones."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dataprep.pictures.stores import is_uri
from intarsia.errors import UsageError, UserError
from intarsia.sample import MEMBERS, Sample, SampleMeta, decode_map, decode_meta, map_member
from training.data.cache import ShardCache
from training.data.layouts import BuiltLayout, Entry
from training.data.open_files import OpenFiles, unreadable
from training.data.shards import Shard
from training.option_groups import DataConfig


def open_cache(config: DataConfig, shards: Sequence[Shard]) -> ShardCache | None:
    """The cache for a run's remote shards; None without remote shards.

    Raises:
        UsageError: where it cannot hold the shards that are read at a time, and so would fetch them again
            and again.
    """
    remote = sorted((shard.bytes for shard in shards if shard.is_remote), reverse=True)
    if not remote:
        return None
    needed = sum(remote[: config.window_shards])
    if needed > config.cache_gb * 1e9:
        raise UsageError(
            f"data.cache_gb={config.cache_gb:g} is too small: the shards that are read at a time have "
            f"{needed / 1e9:.3g} GB; raise it, or lower data.window_shards"
        )
    folder = config.cache_dir or Path(tempfile.gettempdir()) / f"intarsia-shards-{os.getuid()}"
    return ShardCache(folder, int(config.cache_gb * 1e9))


class ShardReader:
    """Random access to the samples of many tars.

    Args:
        shards: shards from `find_shards`.
        open_shards: files held open per process.
        cache: copies of remote shards; needed if there are any.
    """

    def __init__(self, shards: Sequence[Shard], open_shards: int, cache: ShardCache | None = None) -> None:
        self.shards = shards
        self.cache = cache
        self.files = OpenFiles(open_shards, self._open)
        self.maps: tuple[str, ...] = ()  # structure maps that are read from members of the samples

    def read(self, shard: int, sample: int, redraw: bool = False) -> Sample:
        """Sample number `sample` of shard number `shard`; of whole pictures without edit mask and exemplar.

        A damaged copy of a remote shard is fetched again, once.

        Args:
            shard, sample: counted from 0.
            redraw: whether something is to be drawn afresh, which an object mask is read for.

        Raises:
            UserError: naming the shard, and the sample where it is that one alone.
        """
        try:
            return self._read(shard, sample, redraw)
        except UserError:
            place = self.shards[shard]
            self.files.close(shard)
            if self.cache is None or not self.cache.drop(place.place, place.bytes, place.sha256):
                raise
        return self._read(shard, sample, redraw)

    def record(self, shard: int, sample: int) -> SampleMeta:
        """The record of a sample, without its pictures where that can be; arguments and errors as `read`."""
        source, name = self.shards[shard], MEMBERS[3]
        if not isinstance(source.layout, BuiltLayout):
            return self.read(shard, sample).meta

        def member_of(descriptor: int, entries: list[Entry]) -> tuple[str, bytes]:
            offset, size = entries[sample].members[name]
            return entries[sample].key, os.pread(descriptor, size, offset)

        key, content = self.files.read(shard, f"shard {source.place}", member_of)
        try:
            return decode_meta({name: content}, key)
        except UserError as error:
            raise UserError(f"shard {source.place}: {error}; {source.layout.remedy}") from None

    def _read(self, number: int, sample: int, redraw: bool) -> Sample:
        shard = self.shards[number]
        layout = shard.layout
        maps = [map_member(name) for name in self.maps]

        def members_of(descriptor: int, entries: list[Entry]) -> tuple[str, dict[str, bytes]]:
            return entries[sample].key, {
                suffix: os.pread(descriptor, size, offset)
                for suffix, (offset, size) in entries[sample].members.items()
                if layout.wants(suffix, redraw) or suffix in maps
            }

        key, members = self.files.read(number, f"shard {shard.place}", members_of)
        try:
            found = layout.decode(members, key)
        except UserError as error:
            raise UserError(f"shard {shard.place}: {error}; {layout.remedy}") from None
        return self._with_maps(found, members, shard) if self.maps else found

    def _with_maps(self, sample: Sample, members: Mapping[str, bytes], shard: Shard) -> Sample:
        try:
            if sample.views:
                raise UserError(f"sample {sample.meta.key} has views, which have no structure maps")
            return replace(sample, maps={name: decode_map(members, name, sample) for name in self.maps})
        except UserError as error:
            raise UserError(
                f"shard {shard.place}: {error}; add the map to every sample, or remove it from "
                "model.structure.maps"
            ) from None

    def _open(self, number: int) -> tuple[int, list[Entry]]:
        shard = self.shards[number]
        descriptor = open_file(shard.place, shard.bytes, shard.sha256, self.cache)
        try:
            entries = shard.layout.entries(descriptor)
            if len(entries) != shard.count:
                raise UserError(f"holds {len(entries)} samples, its manifest says {shard.count}")
        except OSError:
            os.close(descriptor)
            raise
        except UserError as error:
            os.close(descriptor)
            raise UserError(f"shard {shard.place} {error}; {shard.layout.remedy}") from None
        return descriptor, entries


def open_file(place: str, size: int, sha256: str, cache: ShardCache | None) -> int:
    """A descriptor of a local file, or of a remote one's copy.

    Raises:
        UserError: where it cannot be opened or fetched.
    """
    if is_uri(place):
        assert cache is not None  # the function that finds remote shards makes one
        return cache.open(place, size, sha256)
    try:
        return os.open(place, os.O_RDONLY)
    except OSError as error:
        raise unreadable(f"shard {place}", error) from None
