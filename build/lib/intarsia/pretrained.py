"""Weights from files into modules: safe reading, strict checks, and the names other people's files use."""

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from intarsia.errors import UserError
from intarsia.files import read_json

log = logging.getLogger(__name__)
State = dict[str, Tensor]

# Kept by old versions of transformers, computed by new ones.
_CLIP_BUFFER = "embeddings.position_ids"
_CLIP_PROBE = "embeddings.class_embedding"
# What damaged files have been seen to raise in their readers.
_UNREADABLE = (
    SafetensorError,
    UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


def read_weights(path: Path) -> State:
    """The tensors of a .safetensors, .bin or .ckpt file, on the CPU; nothing in the file is executed.

    A training checkpoint's `state_dict` is unpacked. Foreign classes in it (trainers leave their own objects
    beside the weights) are read as inert stand-ins.

    Raises:
        UserError: if the file is missing, damaged, or holds no tensors.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except _UNREADABLE as error:
        raise UserError(
            f"{path} cannot be read as weights ({_first_sentence(error)}); give a whole .safetensors "
            "file, or a pickled one with nothing but weights"
        ) from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not state:
        raise UserError(f"{path} holds no named tensors; it is not a file of weights")
    return state


class _Inert:
    """Stands for any foreign class in a checkpoint; it does nothing with what it is given."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        if not zipfile.is_zipfile(path):  # torch's format before 1.6 cannot be searched for classes
            raise
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    with torch.serialization.safe_globals([(_Inert, name) for name in foreign]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0][:120] or type(error).__name__


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> None:
    """Copy `state` into `module`; every weight must be there, none may be left over, all shapes must fit.

    Raises:
        UserError: one sentence with the counts and the first name of each kind of mismatch.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing (first {missing[0]})")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected (first {unexpected[0]})")
    if wrong:
        name = wrong[0]
        shapes = f"{list(state[name].shape)} instead of {list(own[name].shape)}"
        problems.append(f"{len(wrong)} of another shape (first {name}: {shapes})")
    if problems:
        raise UserError(
            f"{where}: the weights do not fit the model, {', '.join(problems)}; give the file and the model "
            "config that belong together"
        )
    module.load_state_dict(state)


# Numbers of a network that change what it computes but not the shape of any weight.
_SILENT_KEYS = (
    "attention_head_dim",
    "norm_num_groups",
    "scaling_factor",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
)


def check_geometry(module: nn.Module, folder: Path) -> None:
    """Compare the config.json beside some weights with `module` where a difference would fit in silence.

    Raises:
        UserError: naming the first number that differs. A folder without config.json has nothing to compare.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    theirs, ours = read_json(path), module.config
    theirs = theirs.get("vision_config", theirs)  # a whole CLIPModel's
    for key in _SILENT_KEYS:
        own = getattr(ours, key, None)
        own = list(own) if isinstance(own, tuple) else own  # as JSON has it
        if own is not None and theirs.get(key, own) != own:
            raise UserError(
                f"{path} says {key}={theirs[key]}, the model config {own}; the weights would fit and compute "
                "something else: put the file's value into the model config"
            )


def tell_other_prediction(folder: Path, prediction_type: str) -> None:
    """Warn where weights that were trained to answer one thing are to be trained for another.

    It may be meant (Lin et al. 2023 make models of velocities out of models of noise), but it takes a while.

    Args:
        folder: with diffusers' scheduler/scheduler_config.json; without one nothing is said.
        prediction_type: what the new model shall answer.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    theirs = read_json(path).get("prediction_type", "epsilon") if path.is_file() else prediction_type
    if theirs != prediction_type:
        log.warning(
            "%s answers %s, and model.noise.prediction_type is %s: it will have to learn that first",
            folder,
            theirs,
            prediction_type,
        )


def weights_file(folder: Path, stem: str, legacy_stem: str | None = None) -> Path:
    """The weights file of a diffusers or transformers folder: safetensors first, full precision first.

    Raises:
        UserError: if the folder holds none of the usual names.
    """
    names = [f"{stem}.safetensors", f"{legacy_stem or stem}.bin"]
    names += [f"{stem}.fp16.safetensors", f"{legacy_stem or stem}.fp16.bin"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} holds no weights; looked for {', '.join(names)}")


def load_image_encoder(image_encoder: nn.Module, folder: Path) -> None:
    """Fill a `CLIPVisionModel` from a folder with a transformers `CLIPVisionModel` or a whole `CLIPModel`.

    Raises:
        UserError: if there is no vision tower in the folder or it does not fit.
    """
    path = weights_file(folder, "model", "pytorch_model") if folder.is_dir() else folder
    check_geometry(image_encoder, path.parent)
    state = read_weights(path)
    prefixes = [name.removesuffix(_CLIP_PROBE) for name in state if name.endswith(_CLIP_PROBE)]
    if len(prefixes) != 1:
        raise UserError(f"{path} holds no CLIP vision tower (no weight named {_CLIP_PROBE})")
    load_vision(image_encoder, without_prefix(state, prefixes[0]), path)


def load_vision(image_encoder: nn.Module, vision: State, where: Path | str) -> None:
    """Fill a `CLIPVisionModel` from weights under their plain names (`embeddings...`, `encoder.layers...`).

    Raises:
        UserError: if a weight is missing, left over or of another shape.
    """
    prefix = vision_prefix(image_encoder)
    load_strictly(
        image_encoder, {prefix + name: v for name, v in vision.items() if name != _CLIP_BUFFER}, where
    )


def vision_prefix(image_encoder: nn.Module) -> str:
    """What this version of transformers writes before the plain names of a `CLIPVisionModel`'s weights."""
    probe = next(name for name in image_encoder.state_dict() if name.endswith(_CLIP_PROBE))
    return probe.removesuffix(_CLIP_PROBE)


def without_prefix(state: State, prefix: str) -> State:
    """The part of `state` below `prefix`, with the prefix cut off."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


# -- the weights of a model folder (the names of the Hub's Paint by Example repository) ------------------


def load_model_folder(model: nn.Module, folder: Path) -> None:
    """Fill the four networks of an `EditModel` from a model folder.

    Raises:
        UserError: if any weight is missing, left over or of another shape. This matters for CLIP: other
            libraries read a folder whose CLIP names they do not know without a word, and leave CLIP random.
    """
    for part in ("unet", "vae"):
        path = weights_file(folder / part, "diffusion_pytorch_model")
        load_strictly(model.get_submodule(part), modern_attention_names(read_weights(path)), path)
    path = weights_file(folder / "image_encoder", "model", "pytorch_model")
    state = read_weights(path)
    load_vision(model.get_submodule("image_encoder"), without_prefix(state, "model.vision_model."), path)
    rest = {name: value for name, value in state.items() if not name.startswith("model.vision_model.")}
    if "uncond_vector" in rest:
        rest["null_exemplar"] = rest.pop("uncond_vector")
    load_strictly(model.get_submodule("exemplar_encoder"), rest, path)


def image_encoder_state(image_encoder: nn.Module, exemplar_encoder: nn.Module) -> State:
    """The weights of a model folder's image_encoder/, under names that every version of the readers knows.

    transformers 5 would write CLIP under flat names, which transformers 4 skips in silence.
    """
    prefix = vision_prefix(image_encoder)
    vision = without_prefix(image_encoder.state_dict(), prefix)
    state = {f"model.vision_model.{name}": v for name, v in vision.items() if name != _CLIP_BUFFER}
    state |= exemplar_encoder.state_dict()
    state["uncond_vector"] = state.pop("null_exemplar")
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def modern_attention_names(state: State) -> State:
    """Rename the autoencoder attention of old diffusers folders (Stable Diffusion 1.4's among them)."""
    names = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    renamed = {}
    for name, value in state.items():
        head, _, leaf = name.rpartition(".")
        parent, _, layer = head.rpartition(".")
        renamed[f"{parent}.{names[layer]}.{leaf}" if layer in names else name] = value
    return renamed
