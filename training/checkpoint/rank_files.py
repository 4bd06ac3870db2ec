"""A checkpoint's tensors: one safetensors file per rank that saved, readable by any number of ranks.

A tensor `KIND/NAME@START` holds consecutive elements of a flattened parameter, from number START on. The
files together hold every element of every kind once; any rank of any run can read just the stretch it needs.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from intarsia.errors import UserError
from intarsia.files import read_json
from training.checkpoint.folder import CHECKPOINT_MANIFEST, Written
from training.optimizer.fragments import WEIGHT, Fragment

_CHUNK = 1 << 24  # elements written and hashed at a time
_PART = "part-"
_LEAST_PINNED = 1 << 22  # elements: 16 MiB
Pieces = list[
    tuple[str, Sequence[Tensor]]
]  # key -> its elements, in one stretch or several one after the other


def part_name(rank: int, world: int) -> str:
    """The file of one rank."""
    return f"{_PART}{rank:05d}-of-{world:05d}.safetensors"


def pieces_of(fragments: Iterable[Fragment], rank: int, world: int) -> Pieces:
    """What this rank saves, which leaves out the base: keys and 1-D views; nothing is copied."""
    shares = [fragment.share(rank, world) for fragment in fragments if not fragment.of_base]
    return [
        (f"{kind}/{share.name}@{share.start}", [view])
        for share in shares
        if share.size
        for kind, view in share.views.items()
    ]


def copy_to_cpu(pieces: Pieces, buffers: list[Tensor]) -> tuple[Pieces, list[Tensor]]:
    """A copy that training cannot alter, in buffers that can be passed in again; they are made where missing.

    Raises:
        RuntimeError: if there is not enough memory.
    """
    sizes = [sum(map(len, stretches)) for _, stretches in pieces]
    on_gpu = any(stretch.is_cuda for _, stretches in pieces for stretch in stretches)
    if sum(map(len, buffers)) < sum(sizes):
        wanted = pinned_sizes(sum(sizes)) if on_gpu else [sum(sizes)]
        buffers = [torch.empty(size, dtype=torch.float32, pin_memory=on_gpu) for size in wanted]
    copies = list(_stretches(buffers, sizes))
    for (_, stretches), targets in zip(pieces, copies, strict=True):
        source = stretches[0] if len(stretches) == 1 else torch.cat(list(stretches))
        for part, target in zip(source.split([len(target) for target in targets]), targets, strict=True):
            target.copy_(part, non_blocking=True)
    if on_gpu:
        torch.cuda.current_stream().synchronize()
    return [(key, targets) for (key, _), targets in zip(pieces, copies, strict=True)], buffers


def pinned_sizes(elements: int) -> list[int]:
    """How many elements each pinned buffer shall have, so that together they hold `elements`.

    torch rounds a pinned buffer up to a power of two: one for 1.35 GB would take 2.15 GB. So each of these is
    one already; no two are alike, and all together have at most 16 MiB too many.
    """
    units = -(-elements // _LEAST_PINNED)
    return [_LEAST_PINNED << bit for bit in reversed(range(units.bit_length())) if units >> bit & 1]


def _stretches(buffers: Sequence[Tensor], sizes: Iterable[int]) -> Iterator[list[Tensor]]:
    """Views of the buffers, one behind the other: for each size those that hold so many elements."""
    left = list(buffers)
    for size in sizes:
        found: list[Tensor] = []
        while size:
            found.append(left[0][:size])
            size -= len(found[-1])
            left[0] = left[0][len(found[-1]) :]
            if not len(left[0]):
                left.pop(0)
        yield found


def write_part(path: Path, pieces: Pieces) -> Written:
    """Write a safetensors file piece by piece, hashing on the way, and sync it.

    Args:
        path: the file.
        pieces: float32, 1-D, on any device.

    Raises:
        OSError: where it cannot be written.
    """
    header, end = {}, 0
    for key, stretches in pieces:
        size = sum(map(len, stretches))
        start, end = end, end + 4 * size
        header[key] = {"dtype": "F32", "shape": [size], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format's alignment
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for content in (len(text).to_bytes(8, "little"), text):
            file.write(content)
            digest.update(content)
        for stretch in chain.from_iterable(stretches for _, stretches in pieces):
            for chunk in stretch.split(_CHUNK):
                view = memoryview(chunk.to("cpu", torch.float32).contiguous().numpy()).cast("B")
                file.write(view)
                digest.update(view)
        file.flush()
        os.fsync(file.fileno())
    return Written(path.name, 8 + len(text) + end, digest.hexdigest())


class Parts:
    """The part files that a checkpoint's manifest lists, opened for reading; tensors are read on request.

    Args:
        folder: the checkpoint.

    Raises:
        UserError: if there is no manifest, or a part cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pieces: dict[str, list[tuple[int, str, safe_open]]] = {}
        try:
            listed = read_json(folder / CHECKPOINT_MANIFEST)["files"]
            for name in sorted(name for name in listed if name.startswith(_PART)):
                file = safe_open(folder / name, framework="pt")
                for key in file.keys():  # noqa: SIM118 - not a dict
                    whole, _, start = key.rpartition("@")
                    self._pieces.setdefault(whole, []).append((int(start), key, file))
        except (OSError, SafetensorError, UserError, KeyError, TypeError) as error:
            raise UserError(f"{folder} cannot be read ({error})") from None

    def has(self, name: str) -> bool:
        """Whether there is a parameter of this name."""
        return f"{WEIGHT}/{name}" in self._pieces

    def sizes(self) -> dict[str, int]:
        """`KIND/NAME` -> how many elements there are of it."""
        return {
            whole: sum(file.get_slice(key).get_shape()[0] for _, key, file in pieces)
            for whole, pieces in self._pieces.items()
        }

    def read(self, kind: str, name: str, start: int, into: Tensor) -> None:
        """Fill the 1-D `into` with the elements of a parameter from number `start` on.

        Raises:
            UserError: where the checkpoint does not hold all of them.
        """
        filled = 0
        for piece, key, file in sorted(self._pieces.get(f"{kind}/{name}", []), key=lambda item: item[0]):
            stored = file.get_slice(key)
            first, last = max(start, piece), min(start + into.numel(), piece + stored.get_shape()[0])
            if first < last:
                into[first - start : last - start] = stored[first - piece : last - piece]
                filled += last - first
        if filled != into.numel():
            raise UserError(
                f"{self.folder} holds {filled} of {into.numel()} elements of {kind}/{name} from {start} on; "
                "it belongs to another model"
            )

    def whole(self, kind: str, name: str, shape: torch.Size) -> Tensor:
        """A whole parameter on the CPU; its plain weight where it has no such kind, as frozen ones."""
        out = torch.empty(shape.numel())
        self.read(kind if f"{kind}/{name}" in self._pieces else WEIGHT, name, 0, out)
        return out.view(shape)
