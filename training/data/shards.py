"""Data sets of shards and random access to their samples; no torch, so that errors of folders come fast."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataprep.draw.recipe import PBE, Recipe
from dataprep.foreign.fields import EXAMPLE, ForeignFields
from dataprep.foreign.tars import PIPE, expand_tars, index_beside, is_tar_place
from dataprep.pictures.stores import is_uri
from intarsia.config import build_config
from intarsia.errors import UsageError, UserError
from intarsia.files import read_json
from intarsia.sample import (
    MEMBERS,
    Sample,
    SampleMeta,
    check_format,
    decode_map,
    decode_meta,
    map_member,
)
from training.data.cache import ShardCache
from training.data.layouts import BuiltLayout, Entry, IndexedLayout, TarLayout
from training.data.open_files import OpenFiles, unreadable
from training.data.remote import read_shard_file
from training.option_groups import DataConfig


@dataclass(frozen=True)
class Shard:
    """A tar, and what its folder's manifest says of it.

    Attributes:
        folder: folder of the shard, or its address.
        name: name of the tar.
        count: number of its samples.
        bytes: size of the tar; 0 if the manifest has none.
        sha256: hash of its content; "" if the manifest has none.
        whole_pictures: whether it is of profile `source`: box, mask, crop and exemplar are drawn on reading.
        image_size: side of its crops, 0 where the manifest has none.
        recipe: recipe that it was drawn by.
        masks: whether every sample has its box's object mask, so that a recipe can draw from it.
        layout: how its samples lie in it.
        data_set: what `data.shards` names it by.
    """

    folder: str
    name: str
    count: int
    bytes: int = 0
    sha256: str = ""
    whole_pictures: bool = False
    image_size: int = 0
    recipe: Recipe = PBE
    masks: bool = False
    layout: TarLayout = field(default_factory=BuiltLayout)
    data_set: str = ""

    @property
    def identity(self) -> str:
        """What no two shards of a run share: of our own the name, since keys are unique in it."""
        return self.name if isinstance(self.layout, BuiltLayout) else f"{self.name} ({self.sha256[:12]})"

    @property
    def place(self) -> str:
        """Path or address."""
        return f"{self.folder.rstrip('/')}/{self.name}" if self.folder else self.name

    @property
    def is_remote(self) -> bool:
        """Whether it must be fetched before it can be read."""
        return is_uri(self.folder)


def find_shards(folders: Sequence[str]) -> list[Shard]:
    """The shards of one or several shard folders, in the manifests' order.

    Raises:
        UserError: for a folder without manifest, of another format version or out of reach, a shard that is
            missing, a name that appears twice, or folders without any sample.
    """
    for folder, number in Counter(folder.rstrip("/") for folder in folders).items():
        if number > 1:
            raise UserError(f"data.shards names {folder} {number} times; name it once")
    shards = [shard for folder in folders for shard in _shards_of(folder)]
    for name, number in Counter(shard.identity for shard in shards).items():
        if number > 1:
            raise UserError(f"two shard folders hold {name}; build one of them with another --split")
    if not sum(shard.count for shard in shards):
        raise UserError(f"{', '.join(folders)} hold no samples")
    return shards


def find_data(data: DataConfig) -> list[Shard]:
    """The shards of a run: those that `find_shards` finds, or one for each stream.

    Raises:
        UserError: as `find_shards`, or for a stream that is not a tar or does not exist.
    """
    if data.stream is None:
        return find_shards(data.shards)
    for place in data.shards:
        if not is_tar_place(place):
            raise UsageError(
                f"data.shards={place}: data.stream reads tars, patterns and pipes; name these, or leave "
                "data.stream out for a shard folder"
            )
    urls, fields = expand_tars(data.shards), data.stream
    for url in urls:
        if not (is_uri(url) or url.startswith(PIPE) or Path(url).is_file()):
            raise UserError(f"data.shards: {url} does not exist; correct the pattern")
    remedy = "add the field object_mask to data.stream.fields"
    common: dict[str, Any] = {
        "whole_pictures": True,
        "masks": "object_mask" in fields.fields,
        "layout": IndexedLayout("", "", fields, masks_remedy=remedy),
    }
    shares = [(fields.samples + place) // len(urls) for place in range(len(urls))]
    return [Shard("", url, share, data_set=url, **common) for url, share in zip(urls, shares, strict=True)]


def manifests_of(data: DataConfig) -> list[Any]:
    """The manifests of a run's data sets; streams have none."""
    return [] if data.stream else [load_manifest(place) for place in data.shards]


def _shards_of(place: str) -> list[Shard]:
    folder, manifest = _folder_of(place), load_manifest(place)
    check_format(manifest, f"data.shards={place}")
    config = manifest.get("config", {})
    recipe = build_config(Recipe, config.get("recipe") or {}, f"the recipe in {folder}/manifest.json")
    made = _indexed if "foreign" in manifest else _built
    shards = made(folder, manifest, {"recipe": recipe, "data_set": place})
    for shard in shards:
        if shard.is_remote and not shard.bytes:
            raise UserError(f"{folder}/manifest.json does not have the size of {shard.name}; build it again")
        if not shard.is_remote and not Path(shard.place).is_file():
            raise UserError(f"shard {shard.place} is missing; {shard.layout.remedy}")
    return shards


def _built(folder: str, manifest: Mapping[str, Any], common: dict[str, Any]) -> list[Shard]:
    """The shards of a folder that `dataprep build` made."""
    config, kept = manifest.get("config", {}), manifest.get("kept", {})
    every_mask = bool(config.get("object_masks")) and kept.get("masks") == kept.get("samples")
    whole_pictures = config.get("profile") == "source"
    return [
        Shard(
            folder=folder,
            name=entry["url"],
            count=entry["nsamples"],
            bytes=entry.get("filesize", 0),
            sha256=entry.get("sha256", ""),
            whole_pictures=whole_pictures,
            image_size=config.get("image_size", 0),
            masks=every_mask and (config.get("all_boxes", False) or not whole_pictures),
            layout=BuiltLayout(whole_pictures),
            **common,
        )
        for entry in manifest["shardlist"]
    ]


def _indexed(folder: str, manifest: Mapping[str, Any], common: dict[str, Any]) -> list[Shard]:
    """The tars of another program that `dataprep index` described in a folder."""
    fields = build_config(ForeignFields, manifest["foreign"], f"the fields in {folder}/manifest.json")
    shards = []
    for entry in manifest["shardlist"]:
        place = entry["url"]
        if place.startswith("../"):
            place = f"{folder.rstrip('/').rpartition('/')[0] or '.'}/{place[3:]}"
        parent, _, name = place.rpartition("/")
        layout = IndexedLayout(f"{folder.rstrip('/')}/{entry['index']}", name.removesuffix(".tar"), fields)
        shard = Shard(
            folder=parent,
            name=name,
            count=entry["nsamples"],
            bytes=entry["filesize"],
            sha256=entry["sha256"],
            whole_pictures=True,
            masks="object_mask" in fields.fields,
            layout=layout,
            **common,
        )
        local = Path(shard.place)
        if not shard.is_remote and local.is_file() and local.stat().st_size != shard.bytes:
            raise UserError(
                f"{shard.place} has {local.stat().st_size:,} bytes, its index says {shard.bytes:,}; "
                f"{layout.remedy}"
            )
        shards.append(shard)
    return shards


def _folder_of(place: str) -> str:
    """The folder with the manifest of what `data.shards` names: the place itself, or the index of its tars.

    Raises:
        UserError: for a pipe.
    """
    if place.startswith(PIPE):
        raise UserError(
            f"data.shards={place}: a pipe cannot be read from its middle, so that no run could continue "
            "exactly; give the folder or address that it reads from, or set data.stream"
        )
    return index_beside(expand_tars([place])) if is_tar_place(place) else place


def check_size(shards: Sequence[Shard], image_size: int) -> None:
    """Refuse crops of another size than the model takes, before anything is loaded.

    Raises:
        UserError: naming the folder and both remedies.
    """
    for shard in shards:
        if shard.image_size not in (0, image_size) and not shard.whole_pictures:
            raise wrong_size(shard.folder, shard.image_size, shard.image_size, image_size)


def check_recipe(shards: Sequence[Shard], data: DataConfig) -> None:
    """Refuse draws from object masks that the shards do not hold.

    Raises:
        UsageError: naming the folder and the options to build it with.
    """
    for shard in shards:
        fresh = shard.whole_pictures if data.redraw is None else data.redraw
        recipe = data.recipe or (shard.recipe if fresh or shard.whole_pictures else PBE)
        if recipe.needs_object and not shard.masks:
            remedy = shard.layout.masks_remedy.replace("RECIPE", recipe.name)
            raise UsageError(
                f"the recipe {recipe.name} draws from object masks, which not every sample in {shard.folder} "
                f"has; {remedy}, or choose another data.recipe"
            )


def wrong_size(place: str, width: int, height: int, image_size: int) -> UserError:
    """The error for pictures that the model does not take."""
    return UserError(
        f"{place} holds pictures of {width}×{height}, model.image_size is {image_size}; build the shards "
        f"with --image-size {image_size}, or set model.image_size"
    )


def load_manifest(place: str) -> Any:
    """The manifest of a local or remote shard folder, or of the index beside the tars of a pattern.

    Raises:
        UserError: if there is none, or it cannot be reached or is not JSON.
    """
    folder = _folder_of(place)
    path = f"{folder.rstrip('/')}/manifest.json"
    if is_uri(folder):
        try:
            return json.loads(b"".join(read_shard_file(path)))
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON ({error})") from None
        except UserError as error:
            if is_tar_place(place) and "is not there" in str(error):
                raise _not_indexed(place, folder) from None
            raise
    if not Path(path).is_file():
        if is_tar_place(place):
            raise _not_indexed(place, folder)
        several = "; several stand in brackets: data.shards=[A,B]" if "," in folder else ""
        raise UserError(
            f"data.shards={folder} is not a finished shard folder: it has no manifest.json; run, or run "
            f"again, `python -m dataprep build`{several}"
        )
    return read_json(path)


def _not_indexed(place: str, folder: str) -> UserError:
    """The error for tars without an index beside them."""
    if "{" not in place and (Path(place).parent / "manifest.json").is_file():
        return UserError(
            f"data.shards={place} is a single tar; give the folder, or its address, that holds it and its "
            "manifest.json"
        )
    return UserError(
        f"data.shards={place}: these tars have no index ({folder}); run `python -m dataprep index '{place}' "
        f"{EXAMPLE}` with the fields that they have, or set data.stream, which keeps no exact order"
    )


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
        """The record of a sample of `dataprep build`; the arguments and errors are those of `read`."""
        source, name = self.shards[shard], MEMBERS[3]

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
