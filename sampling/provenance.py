"""What a result was made from, written into its PNG, and the command that makes it again."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from intarsia.errors import UserError
from intarsia.files import fingerprint, sha256_file
from sampling.painters.painter import painter_of
from sampling.settings import EditSettings, ExemplarBackground, InversionSettings, MachineSettings

KEYWORD = "intarsia"  # of the PNG's text entry
PROVENANCE_VERSION = 1
_OPTIONS = {  # settings whose option is not --its-name VALUE
    "karras": {True: "--karras"},
    "latent_blend": {True: "--latent-blend"},
    "composite": {False: "--no-composite"},
}


@dataclass(frozen=True)
class SourceFile:
    """A file as it was read: where it lay, and what it held."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """Everything that one edit depends on.

    Attributes:
        image, mask, exemplar: the files.
        model: the model folder and the hash of its weights and configs; what another painter depends on.
        seed: of the noise.
        settings: of the edit, `EditSettings.plain()`; of an inversion, `InversionSettings` and the canvas'.
        invert_mask, exemplar_background: how mask and exemplar were read.
        device, dtype: where the model ran; on another machine the rounding differs.
        libraries: versions of those that the numbers depend on.
        painter: name of what paints.
    """

    image: SourceFile
    mask: SourceFile
    exemplar: SourceFile
    model: SourceFile
    seed: int
    settings: Mapping[str, Any]
    invert_mask: bool = False
    exemplar_background: ExemplarBackground = "crop"
    device: str = "cpu"
    dtype: str = "float32"
    libraries: Mapping[str, str] = field(default_factory=dict)
    painter: str = "own"

    def to_text(self) -> dict[str, str]:
        """The PNG's text entry."""
        return {KEYWORD: json.dumps({"version": PROVENANCE_VERSION, **self._content()}, sort_keys=True)}

    def work(self) -> str:
        """The hash of what has to be done: equal for equal inputs wherever they lie and whatever runs it."""
        content = self._content()
        for name in ("image", "mask", "exemplar", "model"):
            content[name] = getattr(self, name).sha256
        del content["device"], content["libraries"]
        return fingerprint(content)

    def what_painted(self) -> dict[str, str]:
        """The model folder and its hash; of a painter without one, its name and fingerprint."""
        return asdict(self.model) | ({} if self.model.path else {"path": f"painter {self.painter}"})

    def _content(self) -> dict[str, Any]:
        """All fields; of the painter only another one than was there before there were several."""
        content = asdict(self)
        if self.painter == "own":
            del content["painter"]
        return content


_NOT_YET = SourceFile("", "")


def pattern(
    model: Path | None,
    machine: MachineSettings,
    invert_mask: bool = False,
    exemplar_background: ExemplarBackground = "crop",
    painter: str = "own",
) -> Provenance:
    """What all edits of one command have in common; files, seed and settings are still to be put in."""
    from sampling.denoise.machine import pick_device, pick_dtype

    device = pick_device(machine.device)
    dtype = str(pick_dtype(machine.dtype, device)).removeprefix("torch.")
    return Provenance(
        image=_NOT_YET,
        mask=_NOT_YET,
        exemplar=_NOT_YET,
        model=SourceFile(str(model or ""), painter_of(painter).fingerprint(model)),
        seed=0,
        settings={},
        invert_mask=invert_mask,
        exemplar_background=exemplar_background,
        device=device.type,
        dtype=dtype,
        libraries=_libraries(),
        painter=painter,
    )


def made_from(
    shared: Provenance, files: Mapping[str, SourceFile], seed: int, settings: Mapping[str, Any]
) -> Provenance:
    """`shared` with the image, mask and exemplar, seed and settings of one edit."""
    return replace(
        shared,
        image=files["image"],
        mask=files["mask"],
        exemplar=files["exemplar"],
        seed=seed,
        settings=settings,
    )


def source_file(path: Path | str) -> SourceFile:
    """A file with its hash.

    Raises:
        UserError: if it is not there.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    return SourceFile(str(path), sha256_file(path))


def read_provenance(path: Path | str) -> Provenance:
    """What a result's PNG says of itself.

    Raises:
        UserError: if it is no PNG of ours, or one of another version.
    """
    try:
        with Image.open(path) as image:
            image.load()
            text = getattr(image, "text", {}).get(KEYWORD)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, SyntaxError, ValueError):
        raise UserError(f"{path} is not a picture that can be read") from None
    if text is None:
        raise UserError(
            f"{path} does not say how it was made; only the PNGs that `edit`, `batch`, `invert` and the page "
            "write do, and programs that save them again often drop it"
        )
    try:
        content = json.loads(text)
        if content.pop("version") != PROVENANCE_VERSION:
            raise UserError(f"{path} was written by another version of this program")
        for name in ("image", "mask", "exemplar", "model"):
            content[name] = SourceFile(**content[name])
        return Provenance(**content)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: what it says of its making is damaged") from None


def remake_command(provenance: Provenance, out: str) -> str:
    """The shell command that makes the result again, into `out`; options at their defaults are left out."""
    default, command = EditSettings().plain(), "edit"
    if "method" in provenance.settings:
        default, command = default | InversionSettings().model_dump(), "invert"
    words = ["python", "-m", "sampling", command]
    if provenance.painter != "own":
        words += ["--painter", provenance.painter]
    for name in ("model", "image", "mask", "exemplar"):
        if name == "model" and not provenance.model.path:
            continue  # a painter without
        words += [f"--{name}", getattr(provenance, name).path]
    words += ["--out", out, "--seed", str(provenance.seed)]
    for name, value in provenance.settings.items():
        if value == default.get(name):
            continue
        words += [_OPTIONS[name][value]] if name in _OPTIONS else [_option(name), _word(value)]
    if provenance.invert_mask:
        words.append("--invert-mask")
    if provenance.exemplar_background != "crop":
        words += ["--exemplar-background", provenance.exemplar_background]
    words += ["--device", provenance.device, "--dtype", provenance.dtype]
    return shlex.join(words)


def changed_files(provenance: Provenance) -> list[str]:
    """A sentence for each input that is gone or no longer what it was, and for each library."""
    remarks, painter = [], painter_of(provenance.painter)
    for name in ("image", "mask", "exemplar", "model"):
        noted = getattr(provenance, name)
        path = Path(noted.path)  # of a painter without a model: this folder
        if not path.exists():
            remarks.append(f"{name} {path} is not there, seen from this folder: the command cannot run")
        elif noted.sha256 != (painter.fingerprint(path) if name == "model" else sha256_file(path)):
            remarks.append(f"{name} {path} has changed since: the command will make another picture")
    for name, version in _libraries().items():
        noted = provenance.libraries.get(name, version)
        if noted != version:
            remarks.append(f"it was made with {name} {noted}, and {version} is here: rounding may differ")
    return remarks


def _libraries() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "diffusers")}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _word(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_word, value))
    return str(value).removesuffix(".0")  # of a float: the shortest that reads as the same number
