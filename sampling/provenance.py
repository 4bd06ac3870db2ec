"""Store the inputs and settings of a result in its PNG, and print the command that makes it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from intarsia.errors import UserError
from intarsia.files import fingerprint, sha256_file
from intarsia.model_folder import model_hash
from intarsia.words import counted
from sampling.jobs import COMPUTED_OF, FILES
from sampling.painters.painter import Painter, painter_of
from sampling.settings import EditSettings, ExemplarBackground, InversionSettings, MachineSettings

KEYWORD = "intarsia"  # keyword of the PNG's text entry
PROVENANCE_VERSION = 1
# Folders of models beside the painter's, as in `MachineSettings`.
_PARTNERS = ("noised_clip", "upsampler", "style_tower")
_OPTIONS = {  # settings whose option is not --name VALUE
    "karras": {True: "--karras"},
    "latent_blend": {True: "--latent-blend"},
    "composite": {False: "--no-composite"},
    "regularise": {True: "--regularise"},
}
_ELSEWHERE = ("iopaint_url", "painted_with")  # part of the machine, not of the work
_OPTIONAL = ("mask", "exemplar", "prompt", "structure", *_PARTNERS, "exemplar_mask", *_ELSEWHERE)


@dataclass(frozen=True)
class SourceFile:
    """A file that was read: its path, and the hash of its content."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """Everything that one edit depends on.

    Attributes:
        image, mask, exemplar, exemplar_mask: input files; all but image are None for an edit without them.
        model: model folder and the hash of its weights and configs; for other painters, their fingerprint.
        seed: seed of the noise.
        settings: settings of the edit (`EditSettings.plain()`), or of an inversion (`InversionSettings` and
            those of the canvas, with its prompts and words).
        invert_mask, exemplar_background: options for reading mask and exemplar.
        device, dtype: device and dtype of the model; another device rounds differently.
        libraries: versions of the libraries that affect the numbers.
        painter: name of the painter.
        prompt: prompt of the edit; empty without one.
        structure: sources of structure maps by name: files, or "picture" or "exemplar" without a hash.
        noised_clip: folder of the noised encoder and its hash; None without one.
        iopaint_url: address of the IOPaint server that painted; empty for other painters.
        upsampler: folder of the upsampler and its hash; None without one.
        style_tower: folder of the style tower and its hash; None for results that do not need one.
        painted_with: number of pictures of other requests in the same batch, which changes the rounding.
    """

    image: SourceFile
    mask: SourceFile | None
    exemplar: SourceFile | None
    model: SourceFile
    seed: int
    settings: Mapping[str, Any]
    invert_mask: bool = False
    exemplar_background: ExemplarBackground = "crop"
    device: str = "cpu"
    dtype: str = "float32"
    libraries: Mapping[str, str] = field(default_factory=dict)
    painter: str = "own"
    prompt: str = ""
    structure: Mapping[str, SourceFile] = field(default_factory=dict)
    noised_clip: SourceFile | None = None
    exemplar_mask: SourceFile | None = None
    iopaint_url: str = ""
    upsampler: SourceFile | None = None
    style_tower: SourceFile | None = None
    painted_with: int = 0

    def to_text(self) -> dict[str, str]:
        """The PNG's text entry."""
        return {KEYWORD: json.dumps({"version": PROVENANCE_VERSION, **self._content()}, sort_keys=True)}

    def work(self) -> str:
        """The hash of the work: it depends on the inputs' contents, not on their paths or the machine."""
        content = self._content()
        for name in {*FILES, "model", *_PARTNERS} & content.keys():
            content[name] = getattr(self, name).sha256
        if self.structure:
            content["structure"] = {name: file.sha256 or file.path for name, file in self.structure.items()}
        del content["device"], content["libraries"]
        for name in _ELSEWHERE:
            content.pop(name, None)
        return fingerprint(content)

    def what_painted(self) -> dict[str, str]:
        """The model folder and its hash; for other painters, also their name."""
        if self.painter == "own":
            return asdict(self.model)
        return asdict(self.model) | {"path": f"painter {self.painter} {self.model.path}".strip()}

    def _content(self) -> dict[str, Any]:
        """All fields that say something, so that hashes of older results remain valid."""
        content = asdict(self)
        if self.painter == "own":
            del content["painter"]
        for name in _OPTIONAL:
            if not content[name]:
                del content[name]
        return content


_NOT_YET = SourceFile("", "")


def pattern(
    model: Path | None,
    machine: MachineSettings,
    invert_mask: bool = False,
    exemplar_background: ExemplarBackground = "crop",
    painter: str = "own",
) -> Provenance:
    """The provenance that all edits of one command share, still without files, seed and settings."""
    row = painter_of(painter)
    device, dtype = _computing(machine, row) if row.torch else ("cpu", "float32")
    return Provenance(
        image=_NOT_YET,
        mask=_NOT_YET,
        exemplar=_NOT_YET,
        model=SourceFile(str(model or ""), row.fingerprint(model)),
        seed=0,
        settings={},
        invert_mask=invert_mask,
        exemplar_background=exemplar_background,
        device=device,
        dtype=dtype,
        libraries=row.libraries(),
        painter=painter,
        noised_clip=_folder(machine.noised_clip) if machine.noised_clip else None,
        iopaint_url=machine.iopaint_url if painter == "iopaint" else "",
        upsampler=_folder(machine.upsampler) if machine.upsampler else None,
        style_tower=_folder(machine.style_tower) if machine.style_tower else None,
    )


def _computing(machine: MachineSettings, painter: Painter) -> tuple[str, str]:
    """Device and dtype of a painter that computes with PyTorch."""
    from sampling.denoise.device import pick_device, pick_dtype

    device = pick_device(machine.device)
    dtype = pick_dtype("float32" if painter.float32 else machine.dtype, device)
    return device.type, str(dtype).removeprefix("torch.")


def _folder(path: Path) -> SourceFile:
    return SourceFile(str(path), model_hash(path))


def made_from(
    shared: Provenance,
    files: Mapping[str, SourceFile],
    seed: int,
    settings: Mapping[str, Any],
    prompt: str = "",
    structure: Mapping[str, SourceFile] | None = None,
) -> Provenance:
    """`shared` completed with the files, seed, settings, prompt and sources of structure maps of one edit.

    A server's partners that have no part in this result, and no option in its command, are left out.
    """
    method = settings.get("method")  # None for an edit from noise
    return replace(
        shared,
        noised_clip=shared.noised_clip if method is None else None,
        upsampler=shared.upsampler if method is None else None,
        style_tower=shared.style_tower if method == "style" else None,
        image=files["image"],
        mask=files.get("mask"),
        exemplar=files.get("exemplar"),
        exemplar_mask=files.get("exemplar_mask"),
        seed=seed,
        settings=settings,
        prompt=prompt,
        structure=structure or {},
    )


def map_files(structure: Mapping[str, Path]) -> dict[str, SourceFile]:
    """Sources of structure maps (`jobs.structure_sources`), files with their hash.

    Raises:
        UserError: for a file that does not exist.
    """
    return {
        name: SourceFile(str(path), "") if str(path) in COMPUTED_OF else source_file(path)
        for name, path in structure.items()
    }


def source_file(path: Path | str) -> SourceFile:
    """A file with its hash.

    Raises:
        UserError: if it does not exist.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    return SourceFile(str(path), sha256_file(path))


def read_provenance(path: Path | str) -> Provenance:
    """The provenance stored in a result's PNG.

    Raises:
        UserError: if the file is not one of our PNGs, or was written by another version.
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
            f"{path} does not record how it was made; only PNGs written by `edit`, `batch`, `invert` and the "
            "page do, and other programs often remove the record when they save them again"
        )
    try:
        content = json.loads(text)
        if content.pop("version") != PROVENANCE_VERSION:
            raise UserError(f"{path} was written by another version of this program")
        for name in (*FILES, "model", *_PARTNERS):
            if name in content or name in ("image", "model"):
                content[name] = SourceFile(**content[name])
        structure = content.pop("structure", {})
        content["structure"] = {name: SourceFile(**file) for name, file in structure.items()}
        return Provenance(**{"mask": None, "exemplar": None} | content)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: the record of how it was made is damaged") from None


def remake_command(provenance: Provenance, out: str) -> str:
    """The shell command that makes the result again as `out`; options with default values are omitted."""
    default, command = EditSettings().plain(), "edit"
    if "method" in provenance.settings:
        default, command = default | InversionSettings().model_dump(), "invert"
    words = ["python", "-m", "sampling", command]
    if provenance.painter != "own":
        words += ["--painter", provenance.painter]
    for name in ("model", *FILES):
        noted = getattr(provenance, name)
        if noted is not None and noted.path:  # a painter may have no model, an edit no exemplar
            words += [_option(name), noted.path]
    words += ["--prompt", provenance.prompt] if provenance.prompt else []
    words += ["--out", out, "--seed", str(provenance.seed)]
    for name, value in provenance.settings.items():
        if value == default.get(name):
            continue
        words += [_OPTIONS[name][value]] if name in _OPTIONS else [_option(name), _word(value)]
    for name in _PARTNERS:
        if (folder := getattr(provenance, name)) is not None:
            words += [_option(name), folder.path]
    words += ["--iopaint-url", provenance.iopaint_url] if provenance.iopaint_url else []
    if provenance.structure:
        words += ["--structure", *(f"{name}={file.path}" for name, file in provenance.structure.items())]
    if provenance.invert_mask:
        words.append("--invert-mask")
    if provenance.exemplar_background != "crop":
        words += ["--exemplar-background", provenance.exemplar_background]
    if painter_of(provenance.painter).torch:
        words += ["--device", provenance.device, "--dtype", provenance.dtype]
    return shlex.join(words)


def changed_files(provenance: Provenance) -> list[str]:
    """One sentence for each input that is missing or has changed, and for each library with a new version."""
    remarks, painter = [], painter_of(provenance.painter)
    prints = {"model": painter.fingerprint, **dict.fromkeys(_PARTNERS, model_hash)}
    names = (*FILES, "model", *_PARTNERS)
    noted_files = {name: getattr(provenance, name) for name in names}
    noted_files |= {f"map {name}": file for name, file in provenance.structure.items() if file.sha256}
    for name, noted in noted_files.items():
        if noted is None or (name == "model" and painter.named):
            continue
        called = name.replace("_", " ")
        path = Path(noted.path)  # for a painter without a model: the current folder
        if not path.exists():
            remarks.append(f"{called} {path} does not exist, seen from this folder: the command cannot run")
        elif noted.sha256 != prints.get(name, sha256_file)(path):
            remarks.append(f"{called} {path} has changed: the command will make another picture")
    if provenance.painted_with:
        remarks.append(
            f"it was painted in one batch with {counted(provenance.painted_with, 'picture')} of other "
            "requests: rounding may differ"
        )
    for name, version in painter.libraries().items():
        before = provenance.libraries.get(name, version)
        if before != version:
            remarks.append(
                f"it was made with {name} {before}, but {version} is installed: rounding may differ"
            )
    return remarks


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _word(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_word, value))
    return str(value).removesuffix(".0")  # shortest text for a float
