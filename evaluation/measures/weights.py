"""Where the weights of feature networks come from; nothing is ever fetched by itself.

Looked for in this order: the path given by name; a folder given for all; Hugging Face's cache; torch hub's
cache; for LPIPS' linear weights, an installed `lpips` or `torchmetrics`, which ship them.
"""

import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from intarsia.errors import UsageError, UserError
from intarsia.files import sha256_file

UNLISTED = "~"  # in a recipe, before the fingerprint of weights that are not on the list of published files
FOLDER = "folder"  # the key of a folder that holds several of the files below


class Kept(Protocol):
    """What a store of values knows about files, so that weights are not read to be named."""

    def hash_of(self, path: Path) -> str:
        """The sha256 of a file in hexadecimal."""

    def fact(self, what: str, files: Sequence[Path], find: Callable[[], str]) -> str:
        """A short text that `find` makes of the content of files, made once; `what`: name and version."""


@dataclass(frozen=True)
class WeightSource:
    """Weights that somebody else publishes.

    Attributes:
        title: description for users.
        file: the file, or the folder, by its usual name.
        link: address of the download.
        licence: licence of its publishers.
        hub: repository at Hugging Face that holds the same, if any.
        installed: (package, path in it) of installed packages that ship it.
        hashes: beginnings of the sha256 of the published files, in lower case; empty if none is known.
    """

    title: str
    file: str
    link: str
    licence: str
    hub: str | None = None
    installed: tuple[tuple[str, str], ...] = ()
    hashes: tuple[str, ...] = ()


def _clip(title: str, repository: str, *hashes: str) -> WeightSource:
    name = repository.partition("/")[2]
    link = f"https://huggingface.co/{repository}"
    return WeightSource(f"CLIP {title}", name, link, "MIT", repository, hashes=hashes)


def _vision(title: str, repository: str) -> WeightSource:
    name, link = repository.partition("/")[2], f"https://huggingface.co/{repository}"
    return WeightSource(title, name, link, "Apache-2.0", repository)


def _hash_in(file: str) -> tuple[str]:
    """The first eight digits of the sha256, which torch hub's file names end with."""
    return (Path(file).stem.rpartition("-")[2],)


def _backbone(title: str, file: str) -> WeightSource:
    link = f"https://download.pytorch.org/models/{file}"
    return WeightSource(f"{title}, LPIPS' backbone,", file, link, "BSD-3-Clause", hashes=_hash_in(file))


def _linear(net: str, hash: str) -> WeightSource:
    link = f"https://github.com/richzhang/PerceptualSimilarity/blob/master/lpips/weights/v0.1/{net}.pth"
    places = (
        ("lpips", f"weights/v0.1/{net}.pth"),
        ("torchmetrics", f"functional/image/lpips_models/{net}.pth"),
    )
    title = f"LPIPS' linear weights for {net} (also in the packages lpips and torchmetrics)"
    return WeightSource(title, f"lpips-{net}.pth", link, "BSD-2-Clause", None, places, (hash,))


_FID = "pt_inception-2015-12-05-6726825d.pth"
_DINO = "dino_vitbase8_pretrain"

WEIGHT_SOURCES = {
    # CLIP: pytorch_model.bin and model.safetensors, as the Hub lists them.
    "clip-b32": _clip(
        "ViT-B/32",
        "openai/clip-vit-base-patch32",
        "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
    ),
    "clip-b16": _clip("ViT-B/16", "openai/clip-vit-base-patch16"),
    "clip-l14": _clip(
        "ViT-L/14",
        "openai/clip-vit-large-patch14",
        "f1a17cdbe0f36fec524f5cafb1c261ea3bbbc13e346e0f74fc9eb0460dedd0d3",
        "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
    ),
    "inception": WeightSource(
        "FID's InceptionV3",
        _FID,
        f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{_FID}",
        "Apache-2.0",
        hashes=_hash_in(_FID),
    ),
    "dino-b8": WeightSource(
        "DINO ViT-B/8",
        f"{_DINO}.pth",
        f"https://dl.fbaipublicfiles.com/dino/{_DINO}/{_DINO}.pth",
        "Apache-2.0",
        "facebook/dino-vitb8",
    ),
    "dino-s16": _vision("DINO ViT-S/16", "facebook/dino-vits16"),
    "dinov2-b14": _vision("DINOv2 ViT-B/14", "facebook/dinov2-base"),
    "dinov2-l14": _vision("DINOv2 ViT-L/14", "facebook/dinov2-large"),
    "dreamsim": WeightSource(
        "DreamSim as TorchScript, which docs/evaluation.md shows how to make,",
        "dreamsim.pt",
        "https://github.com/ssundaram21/dreamsim",
        "MIT",
    ),
    "mixture": WeightSource(
        "Paint by Example's Gaussian mixture, from its pickle to npz as docs/evaluation.md shows,",
        "coco-mixture.npz",
        "https://github.com/Fantasy-Studio/Paint-by-Example",
        "CreativeML OpenRAIL-M",
    ),
    "alex": _backbone("AlexNet", "alexnet-owt-7be5be79.pth"),
    "vgg": _backbone("VGG-16", "vgg16-397923af.pth"),
    "squeeze": _backbone("SqueezeNet 1.1", "squeezenet1_1-b8a52dc0.pth"),
    "lpips-alex": _linear("alex", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
    "lpips-vgg": _linear("vgg", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
    "lpips-squeeze": _linear("squeeze", "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76"),
}


def parse_weights(options: Sequence[str]) -> dict[str, Path]:
    """The `--weights` of a command line: each a folder for all, or NAME=PATH.

    Raises:
        UsageError: for a name that does not exist, or a path that does not.
    """
    given: dict[str, Path] = {}
    for option in options:
        name, equals, path = option.rpartition("=")
        if equals and name not in WEIGHT_SOURCES:
            raise UsageError(
                f"--weights {option}: no weights are named {name!r}; valid: {', '.join(WEIGHT_SOURCES)}"
            )
        if not Path(path).exists():
            raise UsageError(f"--weights {option}: {path} does not exist")
        if not equals and not Path(path).is_dir():
            raise UsageError(f"--weights {option}: a single file needs a name, as in NAME={path}")
        given[name if equals else FOLDER] = Path(path)
    return given


def find_weights(name: str, given: Mapping[str, Path] | None = None) -> Path:
    """The file or folder of the weights `name`.

    Args:
        name: key of `WEIGHT_SOURCES`.
        given: name -> path from the user; the entry "folder" is a folder to search.

    Raises:
        UserError: if they are not found, with the file, the address of the download and the option.
    """
    source, given = WEIGHT_SOURCES[name], given or {}
    if name in given:
        if not given[name].exists():
            raise UserError(f"{given[name]}, given for {name}, does not exist")
        return given[name]
    places = [given[FOLDER] / source.file] if FOLDER in given else []
    places += _caches(source)
    for place in places:
        if place.exists():
            return place
    fetch = f"run `hf download {source.hub}`, or get it from" if source.hub else "get it from"
    raise UserError(
        f"{source.title} ({source.file}) is not on this machine: {fetch} {source.link} ({source.licence}), "
        f"and pass it with --weights {name}=PATH or in a folder with --weights FOLDER"
    )


def is_published(name: str, file: Path, kept: Kept | None = None) -> bool:
    """Whether a file of the weights `name` is one of those that their publishers offer, by its sha256."""
    hashes = WEIGHT_SOURCES[name].hashes
    return bool(hashes) and hash_of(file, kept).startswith(hashes)


def hash_of(file: Path, kept: Kept | None) -> str:
    """The sha256 of a file in hexadecimal; one that has not changed is read once where something is kept."""
    return sha256_file(file) if kept is None else kept.hash_of(file)


def fact_of(what: str, files: Sequence[Path], find: Callable[[], str], kept: Kept | None) -> str:
    """A short text that `find` makes of the content of files, which is made once where something is kept.

    An index of weights does not say what is in them: then it is made each time. Where a file is missing,
    `find` says so.
    """
    if kept is None or any("index" in file.name or not file.is_file() for file in files):
        return find()
    return kept.fact(what, files, find)


def fingerprint_weights(state: Mapping[str, object]) -> str:
    """12 hexadecimal digits that two sets of weights share only if they are equal.

    Args:
        state: name -> tensor.
    """
    from torch import Tensor

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        assert isinstance(tensor, Tensor)
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()[:12]


def _caches(source: WeightSource) -> list[Path]:
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    torch_home = Path(os.environ.get("TORCH_HOME", home / "torch"))
    places = [torch_home / "hub" / "checkpoints" / source.file]
    if source.hub:
        places.insert(0, _snapshot(source.hub))
    for package, inside in source.installed:
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            places.append(Path(spec.origin).parent / inside)
    return places


def _snapshot(repository: str) -> Path:
    """The folder of a repository in Hugging Face's cache; one that does not exist where it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return Path(repository).absolute() / "not in the cache"
