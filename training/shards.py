"""Shard folders and random access to their samples; no torch, so that a wrong folder is told at once."""

import os
import tarfile
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from intarsia.errors import UserError
from intarsia.files import read_json
from intarsia.sample import MEMBERS, Sample, decode_sample


@dataclass(frozen=True)
class Shard:
    """A tar, and what its folder's manifest says of it.

    Attributes:
        path: of the tar.
        count: its samples.
        sha256: of its content, "" where the manifest has none.
        whole_pictures: whether it is of profile `source`: box, mask, crop and exemplar are drawn on reading.
    """

    path: Path
    count: int
    sha256: str = ""
    whole_pictures: bool = False


def find_shards(folders: Sequence[str]) -> list[Shard]:
    """The shards of one or several shard folders, in the manifests' order.

    Raises:
        UserError: for a folder without manifest, a shard that is missing, a name that comes twice, or folders
            without any sample.
    """
    shards = [shard for folder in folders for shard in _shards_of(folder)]
    for name, number in Counter(shard.path.name for shard in shards).items():
        if number > 1:
            raise UserError(f"two shard folders hold {name}; build one of them with another --split")
    if not sum(shard.count for shard in shards):
        raise UserError(f"{', '.join(folders)} hold no samples")
    return shards


def _shards_of(folder: str) -> list[Shard]:
    if "://" in folder:
        raise UserError(f"data.shards={folder}: only local folders can be read; copy the shards here first")
    if not (Path(folder) / "manifest.json").is_file():
        raise UserError(
            f"data.shards={folder} is no finished shard folder: it holds no manifest.json; run, or run "
            "again, `python -m dataprep build`"
        )
    manifest = read_json(Path(folder) / "manifest.json")
    whole_pictures = manifest.get("config", {}).get("profile") == "source"
    shards = [
        Shard(Path(folder) / entry["url"], entry["nsamples"], entry.get("sha256", ""), whole_pictures)
        for entry in manifest["shardlist"]
    ]
    for shard in shards:
        if not shard.path.is_file():
            raise UserError(f"shard {shard.path} is missing; run the same dataprep build again")
    return shards


class ShardReader:
    """Random access to the samples of many tars; a bounded number of files stays open per process."""

    def __init__(self, shards: Sequence[Shard], open_shards: int) -> None:
        self.shards = shards
        self.open_shards = open_shards
        self._open: OrderedDict[int, tuple[int, list[_Entry]]] = OrderedDict()
        self._owner = os.getpid()

    def read(self, shard: int, sample: int, redraw: bool = False) -> Sample:
        """Sample number `sample` of shard number `shard`; of whole pictures without edit mask and exemplar.

        Args:
            shard, sample: counted from 0.
            redraw: whether something is to be drawn afresh, which an object mask is read for.

        Raises:
            UserError: naming the shard, and the sample where it is that one alone.
        """
        descriptor, entries = self._get(shard)
        entry = entries[sample]
        whole = not self.shards[shard].whole_pictures
        members = {
            suffix: os.pread(descriptor, size, offset)
            for suffix, (offset, size) in entry.members.items()
            if suffix in MEMBERS or redraw or not whole
        }
        try:
            return decode_sample(members, entry.key, whole)
        except UserError as error:
            raise UserError(f"shard {self.shards[shard].path}: {error}") from None

    def _get(self, number: int) -> "tuple[int, list[_Entry]]":
        if self._owner != os.getpid():  # forked: the parent's files are not ours to close
            self._open, self._owner = OrderedDict(), os.getpid()
        if number not in self._open:
            shard = self.shards[number]
            entries = index_tar(shard.path)
            if len(entries) != shard.count:
                raise UserError(
                    f"shard {shard.path} holds {len(entries)} samples, its manifest says {shard.count}; "
                    "run `python -m dataprep verify` on its folder"
                )
            self._open[number] = (os.open(shard.path, os.O_RDONLY), entries)
            if len(self._open) > self.open_shards:
                _, (descriptor, _) = self._open.popitem(last=False)
                os.close(descriptor)
        self._open.move_to_end(number)
        return self._open[number]


@dataclass(frozen=True)
class _Entry:
    key: str
    members: Mapping[str, tuple[int, int]]  # suffix -> offset and size of its content


def index_tar(path: Path) -> list[_Entry]:
    """Where every sample of a tar lies, by walking its headers: the order of the tar.

    Raises:
        UserError: naming a tar that is damaged or cannot be opened.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                samples.setdefault(key, {})[suffix] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"shard {path} cannot be read ({error}); run `python -m dataprep verify` on its folder"
        ) from None
    for key, members in samples.items():
        missing = [suffix for suffix in MEMBERS if suffix not in members]
        if missing:
            raise UserError(
                f"shard {path}: sample {key} has no member {', '.join(missing)}; "
                "run `python -m dataprep verify` on its folder"
            )
    return [_Entry(key, members) for key, members in samples.items()]
