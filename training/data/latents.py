"""Stored latents: what the frozen networks make of a shard's samples, computed once and read in their place.

They lie below the shard folder in `latents-HASH`, where HASH begins the hash of everything they depend on
besides the shard: the weights of autoencoder and image encoder, their geometry, and the size of the pictures.
One safetensors file and one sidecar for each shard; the manifest is written last of all.
"""

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataprep.check.verify import LATENTS
from dataprep.pictures.stores import is_uri
from intarsia.errors import UsageError, UserError
from training.data.cache import ShardCache
from training.data.layouts import BuiltLayout
from training.data.open_files import OpenFiles
from training.data.reader import open_file
from training.data.shards import Shard, load_manifest
from training.option_groups import DataConfig

if TYPE_CHECKING:
    pass

LATENTS_VERSION = 1
LATENTS_MANIFEST = "manifest.json"
# What is stored (`encode.Posteriors`) and the tensor of a file that holds it.
STORED = {"image": "image", "masked": "masked", "mask": "mask", "features": "pooled"}
_TYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}


@dataclass(frozen=True)
class StoredSample:
    """The stored latents of one sample.

    Attributes:
        key: key of the sample.
        image: float16 [2, C, h, w], mean and standard deviation of the picture's posterior, unscaled.
        masked: float16 [2, C, h, w], those of the picture with its hole.
        mask: float32 [1, h, w], the edit mask on the grid of latents, 1 = repaint.
        features: features of the exemplar from the frozen tower (`ConditionKind.feature_shape`): float32 of
            one vector, float16 of many; None if they are not read.
    """

    key: str
    image: np.ndarray
    masked: np.ndarray
    mask: np.ndarray
    features: np.ndarray | None = None


def latents_folder(shards: str, digest: str) -> str:
    """Where the latents of a shard folder lie."""
    return f"{shards.rstrip('/')}/{LATENTS}{digest[:12]}"


def latents_name(shard: str) -> str:
    """The file with the latents of a tar."""
    return f"{shard.removesuffix('.tar')}.safetensors"


@dataclass(frozen=True)
class LatentFile:
    """The stored latents of one shard."""

    place: str
    bytes: int
    sha256: str


def find_latents(shards: Sequence[Shard], digest: str, features: bool = True) -> list[LatentFile]:
    """The latents of each shard, made by the networks of hash `digest`.

    Args:
        shards: shards of the run.
        digest: `frozen_hash` of its networks.
        features: whether they must hold the exemplars' features.

    Raises:
        UserError: where they are missing, incomplete, of other networks, or of a shard as it was before.
    """
    entries = {
        folder: _entries_of(folder, digest) for folder in dict.fromkeys(shard.folder for shard in shards)
    }
    found = []
    for shard in shards:
        if not shard.count:
            found.append(LatentFile("", 0, ""))
            continue
        entry = entries[shard.folder].get(shard.name)
        place = f"{latents_folder(shard.folder, digest)}/{latents_name(shard.name)}"
        if entry is None or (entry["shard_sha256"], entry["samples"]) != (shard.sha256, shard.count):
            raise UserError(
                f"the latents {place} are of another {shard.name} than the manifest of {shard.folder} says; "
                f"{_remedy(shard.folder)}"
            )
        if features and not entry.get("tokens", True):
            raise UserError(
                f"data.stored_tokens=true, but {place} was stored without the exemplar's tokens; "
                f"{_remedy(shard.folder)}, or set data.stored_tokens=false"
            )
        if not is_uri(place) and not (Path(place).is_file() and Path(place).stat().st_size == entry["bytes"]):
            raise UserError(f"the latents {place} are missing or cut; {_remedy(shard.folder)}")
        found.append(LatentFile(place, entry["bytes"], entry["sha256"]))
    return found


def _entries_of(folder: str, digest: str) -> dict[str, Any]:
    place = latents_folder(folder, digest)
    if not is_uri(folder) and not (Path(place) / LATENTS_MANIFEST).is_file():
        others = sorted(path.parent.name for path in Path(folder).glob(f"{LATENTS}*/{LATENTS_MANIFEST}"))
        has = (
            f"only {', '.join(others)}, of another autoencoder, image encoder or image size"
            if others
            else "none"
        )
        raise UserError(
            f"data.latents=true, but {folder} holds no finished {Path(place).name} ({has}); {_remedy(folder)}"
        )
    manifest = load_manifest(place)
    if manifest.get("format_version") != LATENTS_VERSION or manifest.get("model") != digest:
        raise UserError(f"{place}/{LATENTS_MANIFEST} is of another model or program; {_remedy(folder)}")
    return {entry["shard"]: entry for entry in manifest["shards"]}


def _remedy(folder: str) -> str:
    return f"run `python -m training cache-latents {folder} CONFIG` with this run's config"


class LatentReader:
    """Random access to stored latents, by shard and sample.

    Args:
        files: files of latents, from `find_latents`.
        open_files: limit of open files per process.
        cache: copies of remote files.
        features: whether the exemplars' features are read.
        is_whole: whether what is read is all that training needs of the pixels.
    """

    def __init__(
        self,
        files: Sequence[LatentFile],
        open_files: int,
        cache: ShardCache | None,
        features: bool = True,
        is_whole: bool = True,
    ) -> None:
        self.places = files
        self.is_whole = is_whole
        self.names = [name for name in STORED if features or name != "features"]
        self.cache = cache
        self.files = OpenFiles(open_files, self._open)

    def read(self, shard: int, sample: int) -> StoredSample:
        """What is stored of sample number `sample` of shard number `shard`.

        Raises:
            UserError: naming a file that cannot be read.
        """
        place = f"the latents {self.places[shard].place}"

        def sample_of(descriptor: int, known: "tuple[list[str], dict[str, _Tensor]]") -> StoredSample:
            keys, tensors = known
            arrays = {}
            for name in self.names:
                tensor = tensors[STORED[name]]
                content = os.pread(descriptor, tensor.stride, tensor.start + sample * tensor.stride)
                if len(content) != tensor.stride:
                    raise UserError(f"{place} are cut; run cache-latents again")
                arrays[name] = np.frombuffer(content, tensor.dtype).reshape(tensor.shape)
            return StoredSample(keys[sample], **arrays)

        return self.files.read(shard, place, sample_of)

    def _open(self, number: int) -> "tuple[int, tuple[list[str], dict[str, _Tensor]]]":
        file = self.places[number]
        descriptor = open_file(file.place, file.bytes, file.sha256, self.cache)
        try:
            return descriptor, _read_header(descriptor)
        except (ValueError, KeyError, struct.error) as error:
            os.close(descriptor)
            raise UserError(
                f"the latents {file.place} are damaged ({error}); delete them and run cache-latents again"
            ) from None


@dataclass(frozen=True)
class _Tensor:
    """Where the rows of a tensor lie in its file."""

    dtype: np.dtype
    shape: tuple[int, ...]  # of one row
    start: int
    stride: int


def _read_header(descriptor: int) -> tuple[list[str], dict[str, _Tensor]]:
    """Keys and tensors of a safetensors file: eight bytes of length, then JSON, then the values."""
    (length,) = struct.unpack("<Q", os.pread(descriptor, 8, 0))
    if length > os.fstat(descriptor).st_size:
        raise ValueError("its header ends beyond it")
    header = json.loads(os.pread(descriptor, length, 8))
    keys = json.loads(header.pop("__metadata__")["keys"])
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        rows, *shape = entry["shape"]
        tensors[name] = _Tensor(
            _TYPES[entry["dtype"]], tuple(shape), 8 + length + begin, (end - begin) // max(rows, 1)
        )
    return keys, tensors


def check_redraw(shards: Sequence[Shard], data: DataConfig) -> None:
    """Refuse stored latents of what no two epochs show alike.

    Raises:
        UsageError: for whole pictures that are drawn afresh in each epoch, or tars of another program.
    """
    foreign = next((shard for shard in shards if not isinstance(shard.layout, BuiltLayout)), None)
    if foreign is not None:
        raise UsageError(
            f"latents are stored for shards of `python -m dataprep build`, and {foreign.data_set} is an "
            "index of other tars; set data.latents=false"
        )
    if any(shard.whole_pictures for shard in shards) and data.redraw is not False:
        baked = "data.redraw=false" if data.recipe is None else "data.recipe=null and data.redraw=false"
        raise UsageError(
            f"latents of whole pictures cannot be stored while each epoch crops them anew; set {baked}, or "
            "data.latents=false"
        )
