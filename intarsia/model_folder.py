"""Recognise a model folder and read its notes; without torch, so that a wrong folder is refused at once."""

from pathlib import Path
from typing import Any, NamedTuple

from intarsia.architecture import CONDITIONS, ModelConfig
from intarsia.config import flatten
from intarsia.errors import UserError
from intarsia.files import fingerprint, read_json, sha256_bytes, sha256_file

INDEX = "model_index.json"
NOTES = "intarsia.json"  # fields without a place in diffusers' files; absent for Paint by Example's model
# Fields of `ModelConfig` that NOTES holds.
_NOTED: Any = {
    "condition": True,
    "exemplar": True,
    "structure": {"maps"},  # a finished model does not depend on its dropout
    "low_res": True,
    "compose": True,
    "unet": {"input_layout"},
}
_NOT_IN_LATENTS = ("structure", "low_res", "compose")  # those on which stored latents do not depend
_OPTIONS = {"compose": "objective.compose"}  # options of a run that are not called model.FIELD
_DEFAULTS = ModelConfig().model_dump(mode="json", include=_NOTED)
# Classes of diffusers that folders may name -> what their models are, without NOTES.
PAINT_BY_EXAMPLE, TEXT_TO_IMAGE = "PaintByExamplePipeline", "StableDiffusionPipeline"
TEXT_INPAINTING = "StableDiffusionInpaintPipeline"
PIPELINES: dict[str, dict[str, Any]] = {
    PAINT_BY_EXAMPLE: {},
    TEXT_TO_IMAGE: {"condition": "text"},
    TEXT_INPAINTING: {"condition": "text", "unet": {"input_layout": "sd"}},
}


class CardWords(NamedTuple):
    """Words of a model card that depend on what the model is told.

    Attributes:
        kind: what it is, after "a" or "an".
        shows: what the repainted part shows.
        options: options of an edit that tell it.
        upsamples: whether it is an upsampler, which another model paints for.
    """

    kind: str
    shows: str
    options: str
    upsamples: bool = False

    def model(self, folder: str) -> str:
        """The options of an edit that name its folder."""
        return f"--model BASE --upsampler {folder}" if self.upsamples else f"--model {folder}"


CARD_WORDS = {
    ("exemplar",): CardWords(
        "exemplar-based editing model", "the object of an exemplar picture", "--exemplar E.png"
    ),
    ("text",): CardWords("editing model that follows a prompt", "what a prompt says", '--prompt "A DOG"'),
    ("exemplar", "text"): CardWords(
        "editing model that follows an exemplar and a prompt",
        "the object of an exemplar picture, as a prompt says",
        '--exemplar E.png --prompt "A DOG"',
    ),
}


def card_words(config: ModelConfig) -> CardWords:
    """The words for a model."""
    words = CARD_WORDS[config.parts]
    if config.low_res is None:
        return words
    return words._replace(
        kind=f"upsampler for an {words.kind}",
        shows=f"{words.shows}, as another model has painted it in a smaller picture",
        upsamples=True,
    )


ADAPTERS = "pytorch_lora_weights.safetensors"  # marks a folder of adapters
NOISED_ENCODER = "noised.json"  # marks that of a noised encoder


def check_model_folder(folder: Path | str) -> None:
    """Refuse a folder that is not a model folder.

    Raises:
        UserError: with the folder and, if its contents are recognised, how to get a model from it.
    """
    folder = Path(folder)
    if (folder / INDEX).is_file():
        return
    if folder.is_file():
        raise UserError(
            f"{folder} is a file, not a model folder; `python -m sampling import {folder} --out DIR` "
            "converts an original checkpoint"
        )
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist")
    raise UserError(f"{folder} is not a model folder: it has no {INDEX}{_way_out(folder)}")


def _way_out(folder: Path) -> str:
    if (folder / "model" / INDEX).is_file():
        return f"; use {folder / 'model'}"
    if (folder / ADAPTERS).is_file():
        return f" but adapters; run python -m sampling merge-lora --lora {folder} --model BASE --out DIR"
    if (folder / NOISED_ENCODER).is_file():
        return f" but a noised encoder; give it as --noised-clip {folder} beside the model that it guides"
    if folder.parent.name == "checkpoints":
        return " but a training checkpoint; the run writes RUN/model when it finishes"
    if (folder / "checkpoints").is_dir():
        return "; a run writes RUN/model when it finishes: run its command again"
    return ""


def notes_of(config: ModelConfig) -> dict[str, Any]:
    """Content of `intarsia.json` for a model; empty for Paint by Example's, then the file is not written."""
    notes = config.model_dump(mode="json", include=_NOTED, exclude_defaults=True)
    return {name: value for name, value in notes.items() if value != {}}


def read_notes(folder: Path) -> dict[str, Any]:
    """Content of a model folder's `intarsia.json`, as fields of `ModelConfig`.

    Without the file, they follow from the class of diffusers that the folder names.

    Raises:
        UserError: if the file has other content, or the condition is unknown.
    """
    path = folder / NOTES
    if not path.is_file() and (folder / INDEX).is_file():
        return PIPELINES.get(read_json(folder / INDEX).get("_class_name"), {})
    notes = read_json(path) if path.is_file() else {}
    if not isinstance(notes, dict) or not set(notes) <= set(_NOTED):
        raise UserError(f"{path} does not describe a model; it may have been written by a later version")
    if notes.get("condition", "exemplar") not in CONDITIONS:
        raise UserError(
            f"{path} has condition={notes['condition']!r}; this version supports {', '.join(CONDITIONS)}"
        )
    return notes


def check_same_notes(config: ModelConfig, folder: Path, exactly: bool = False) -> None:
    """Refuse to start a model from weights of another kind, whose shapes may fit.

    A model with patches may start from one without, because the encoder's weights are for any number of
    tokens; a model may have structure maps after those of the folder, and then a low-resolution picture,
    whose weights begin at zero; and it may learn to compose.

    Args:
        config: config of the new model.
        folder: model folder with its initial weights.
        exactly: whether that is refused, too: adapters change the folder's weights, not its kind.

    Raises:
        UserError: if a field differs; the message has the field and both values.
    """
    theirs, ours = (flatten(_completed(notes)) for notes in (read_notes(folder), notes_of(config)))
    if (
        not exactly
        and ours["exemplar.tokens"] in ("patches", "class+patches")
        and theirs["exemplar.tokens"] == "class"
    ):
        theirs["exemplar.tokens"] = ours["exemplar.tokens"]
    theirs["compose"] = theirs["compose"] or (ours["compose"] and not exactly)
    maps = theirs["structure.maps"]
    if not exactly and theirs["low_res"] is None:  # its channels are the last ones
        theirs["low_res"] = ours["low_res"]
        if ours["structure.maps"][: len(maps)] == maps:
            theirs["structure.maps"] = ours["structure.maps"]
    for name in theirs | ours:
        if theirs.get(name) != ours.get(name):
            raise UserError(
                f"{folder} has {name}={_yaml(theirs.get(name))}, the model config {_yaml(ours.get(name))}; "
                f"set {_OPTIONS.get(name, f'model.{name}')}={_yaml(theirs.get(name))}"
            )


def _yaml(value: Any) -> Any:
    """A value as an override has it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"[{','.join(value)}]" if isinstance(value, list) else value


def _completed(notes: dict[str, Any]) -> dict[str, Any]:
    """Notes with the defaults of what they leave out, and of a low-resolution picture its factor alone."""
    whole = {
        name: {**value, **notes.get(name, {})} if isinstance(value, dict) else notes.get(name, value)
        for name, value in _DEFAULTS.items()
    }
    factor = (whole["low_res"] or {}).get("factor")
    return whole | {"low_res": None if factor is None else f"{{factor: {factor}}}"}


def is_upsampler(folder: Path) -> bool:
    """Whether the model in a folder is an upsampler; only its notes are read."""
    return read_notes(folder).get("low_res") is not None


def parts_of(folder: Path) -> tuple[str, ...]:
    """What the model in a folder is told: exemplar, text (`ModelConfig.parts`); only its notes are read."""
    return CONDITIONS[read_notes(folder).get("condition", "exemplar")].parts


def model_hash(folder: Path | str) -> str:
    """The sha256 of a model folder, computed from the names and hashes of its weights and config files.

    Cards and other files that do not affect the model's results are ignored.
    """
    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".bin", ".json"))
    return fingerprint({str(path.relative_to(folder)): sha256_file(path) for path in files})


def frozen_hash(model: Any, *more: Any) -> str:
    """The sha256 of what stored latents depend on: frozen networks, their geometry, and what they are asked.

    Weights are taken in bfloat16, so that networks which compute in half precision have the hash of their
    own exact weights.

    Args:
        model: an `EditModel`.
        more: further networks to include, on which stored latents do not depend.
    """
    import torch

    config = model.config
    parts = [config.image_size, config.vae.model_dump(mode="json"), config.image_encoder.fields()]
    later = {name: note for name, note in notes_of(config).items() if name not in _NOT_IN_LATENTS}
    parts += later.values()
    networks = [network for network in (model.vae, model.image_encoder) if network is not None]
    for network in [*networks, *more]:
        for name, value in sorted(network.state_dict().items()):
            if value.is_floating_point():
                plain = value.detach().to("cpu", torch.bfloat16).contiguous()
                flat = plain.view(torch.int16).numpy().reshape(-1)
                parts.append([name, sha256_bytes(memoryview(flat).cast("B"))])
    return fingerprint(parts)
