"""A checkpoint's tensors: one safetensors file per rank that saved, readable by any number of ranks.

A tensor `KIND/NAME@START` holds consecutive elements of a flattened parameter, from number START on. The
files together hold every element of every kind once; any rank of any run can read just the stretch it needs.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from intarsia.errors import UserError
from training.checkpoint.folder import Written
from training.optimizer.fragments import WEIGHT, Fragment

_CHUNK = 1 << 24  # elements written and hashed at a time
Pieces = list[tuple[str, Tensor]]


def part_name(rank: int, world: int) -> str:
    """The file of one rank."""
    return f"part-{rank:05d}-of-{world:05d}.safetensors"


def pieces_of(fragments: Iterable[Fragment], rank: int, world: int) -> Pieces:
    """What this rank saves, which leaves out the base: (key, 1-D view); nothing is copied."""
    shares = [fragment.share(rank, world) for fragment in fragments if not fragment.of_base]
    return [
        (f"{kind}/{share.name}@{share.start}", view)
        for share in shares
        if share.size
        for kind, view in share.views.items()
    ]


def copy_to_cpu(pieces: Pieces, buffer: Tensor | None) -> tuple[Pieces, Tensor]:
    """A copy that training cannot alter, in one buffer, which can be passed in again.

    Raises:
        RuntimeError: if there is not enough memory.
    """
    total = sum(tensor.numel() for _, tensor in pieces)
    on_gpu = any(tensor.is_cuda for _, tensor in pieces)
    if buffer is None or buffer.numel() != total:
        buffer = torch.empty(total, dtype=torch.float32, pin_memory=on_gpu)
    copies = buffer.split([tensor.numel() for _, tensor in pieces])
    for copy, (_, tensor) in zip(copies, pieces, strict=True):
        copy.copy_(tensor, non_blocking=True)
    if on_gpu:
        torch.cuda.current_stream().synchronize()
    return [(key, copy) for (key, _), copy in zip(pieces, copies, strict=True)], buffer


def write_part(path: Path, pieces: Pieces) -> Written:
    """Write a safetensors file piece by piece, hashing on the way, and sync it.

    Args:
        path: the file.
        pieces: float32, 1-D, on any device.

    Raises:
        OSError: where it cannot be written.
    """
    header, end = {}, 0
    for key, tensor in pieces:
        start, end = end, end + 4 * tensor.numel()
        header[key] = {"dtype": "F32", "shape": [tensor.numel()], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format's alignment
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for content in (len(text).to_bytes(8, "little"), text):
            file.write(content)
            digest.update(content)
        for _, tensor in pieces:
            for chunk in tensor.split(_CHUNK):
                view = memoryview(chunk.to("cpu", torch.float32).contiguous().numpy()).cast("B")
                file.write(view)
                digest.update(view)
        file.flush()
        os.fsync(file.fileno())
    return Written(path.name, 8 + len(text) + end, digest.hexdigest())


class Parts:
    """The part files of a checkpoint, opened for reading; tensors are read on request.

    Args:
        folder: the checkpoint.

    Raises:
        UserError: where a part cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pieces: dict[str, list[tuple[int, str, safe_open]]] = {}
        try:
            for path in sorted(folder.glob("part-*.safetensors")):
                file = safe_open(path, framework="pt")
                for key in file.keys():  # noqa: SIM118 - not a dict
                    whole, _, start = key.rpartition("@")
                    self._pieces.setdefault(whole, []).append((int(start), key, file))
        except (OSError, SafetensorError) as error:
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
