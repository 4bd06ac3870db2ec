"""Data sets of shards and random access to their samples; no torch, so that errors of folders come fast."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    check_format,
)
from training.data.layouts import BuiltLayout, IndexedLayout, TarLayout
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
