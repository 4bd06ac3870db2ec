"""Load weights from files into modules: safe reading, strict checks, and the names in other formats."""

import logging
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from intarsia.errors import UserError
from intarsia.files import read_json
from intarsia.towers.names import WeightNames, own_prefix

log = logging.getLogger(__name__)
State = dict[str, Tensor]

UNET_PREFIX = "model.diffusion_model."  # of the UNet's names in the latent diffusion authors' files
_SD2_TEXT = "cond_stage_model.model."  # of the text tower's names in Stable Diffusion 2's single files
AVERAGES_PREFIX = "model_ema."  # then the UNet's name after "model.", without its dots

# Exceptions that readers have raised for damaged files.
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
    """The tensors of a .safetensors, .bin or .ckpt file, on the CPU; no code in the file is executed.

    Of an .index.json those of all files that it lists. A training checkpoint's `state_dict` is unpacked.
    Classes of other projects in it (trainers store their own objects next to the weights) are replaced by
    inert objects.

    Raises:
        UserError: if the file is missing, damaged, or has no tensors.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if path.suffix == ".json":
        return _read_parts(path)
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except _UNREADABLE as error:
        raise UserError(
            f"{path} cannot be read as weights ({_first_sentence(error)}); give a complete .safetensors "
            "file, or a pickled file that contains only weights"
        ) from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not state:
        raise UserError(f"{path} contains no named tensors; it is not a file of weights")
    return state


def _read_parts(index: Path) -> State:
    """The tensors of the files that an index lists, each from the file that it names for it."""
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index} lists no weights (no weight_map); download the folder again")
    state: State = {}
    for file in sorted(set(places.values())):
        part = read_weights(index.parent / file)
        lost = [name for name, place in places.items() if place == file and name not in part]
        if lost:
            raise UserError(f"{index.parent / file} has no {lost[0]}, which {index.name} lists there")
        state |= part
    return state


class _Inert:
    """Replacement for any foreign class in a checkpoint; it ignores its arguments."""

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


class WrongGeometry(UserError):
    """Weights or noise levels that do not fit the model's config."""


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> None:
    """Copy `state` into `module`; names and shapes must match exactly, and all values be finite.

    Raises:
        WrongGeometry: if weights are missing, unexpected or of another shape; the message has the number and
            the first name of each kind.
        UserError: if one has a value that is not finite; the message has its name.
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
        raise WrongGeometry(
            f"{where}: the weights do not fit the model, {', '.join(problems)}; give a file and a model "
            "config that belong together"
        )
    check_finite(state, where)
    module.load_state_dict(state)


def check_finite(state: Mapping[str, Tensor], where: Path | str) -> None:
    """Refuse weights with NaN or infinity, which would give no finite loss and black pictures.

    Raises:
        UserError: naming the file, the first such weight, and how many of its values are not finite.
    """
    for name, value in state.items():
        # The sum shows it in a tenth of the time; where finite values overflow, each is looked at.
        if value.is_floating_point() and not torch.isfinite(value.sum()):
            bad = int((~torch.isfinite(value)).sum())
            if bad:
                raise UserError(
                    f"{where}: {bad} of the {value.numel()} values of {name} are NaN or infinite; give "
                    "weights that were saved before that happened, or download the file again"
                )


# Config values that change a network's results but not the shape of any weight.
_SILENT_KEYS = (
    "attention_head_dim",
    "norm_num_groups",
    "scaling_factor",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
)


def check_geometry(module: nn.Module, folder: Path) -> None:
    """Compare a folder's config.json with `module` in the values that no weight shape shows.

    A folder without config.json is accepted.

    Raises:
        UserError: if a value differs; the message names the first one.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    theirs, ours = read_json(path), module.config
    theirs = theirs.get("vision_config", theirs)  # config of a whole CLIPModel
    for key in _SILENT_KEYS:
        own = getattr(ours, key, None)
        own = list(own) if isinstance(own, tuple) else own  # JSON has lists only
        if own is not None and theirs.get(key, own) != own:
            raise UserError(
                f"{path} has {key}={theirs[key]}, the model config {own}; the weights would load but give "
                "other results: copy the file's value to the model config"
            )


def weights_file(folder: Path, stem: str, legacy_stem: str | None = None) -> Path:
    """The weights file of a diffusers or transformers folder, or the index of several.

    Safetensors come before pickled files, full precision before half, and the averaged weights (no suffix)
    before those that only a folder for further training has (`.non_ema`).

    Raises:
        UserError: if the folder has no file with one of the usual names.
    """
    old = legacy_stem or stem
    whole = [f"{stem}.safetensors", f"{stem}.safetensors.index.json", f"{old}.bin", f"{old}.bin.index.json"]
    half = [f"{stem}.fp16.safetensors", f"{stem}.safetensors.index.fp16.json"]
    half += [f"{old}.fp16.bin", f"{old}.bin.index.fp16.json"]
    plain = [f"{stem}.non_ema.safetensors", f"{stem}.safetensors.index.non_ema.json", f"{old}.non_ema.bin"]
    for name in (*whole, *half, *plain):
        if (folder / name).is_file():
            if name in plain:
                log.warning("%s has no averaged weights; its plain ones are used (%s)", folder, name)
            return folder / name
    raise UserError(f"{folder} contains no weights; looked for {', '.join((*whole, *half, *plain))}")


def has_averages(state: Iterable[str]) -> bool:
    """Whether these names include averaged weights of a UNet."""
    return any(name.startswith(f"{AVERAGES_PREFIX}diffusion_model") for name in state)


def with_averages(state: State, where: Path | str, option: str) -> State:
    """The weights of a latent diffusion file with the averages in the place of its UNet's plain weights.

    Args:
        state: tensors by name.
        where: path of the file, for messages.
        option: what asked for them, for messages.

    Raises:
        UserError: if the file has none.
    """
    if not has_averages(state):
        raise UserError(f"{where} has no averaged weights (nothing under {AVERAGES_PREFIX}); omit {option}")
    result = dict(state)
    # Remove plain weights even without an average, so that the load fails for an incomplete file.
    for name in state:
        if name.startswith(UNET_PREFIX):
            result.pop(name)
            key = AVERAGES_PREFIX + name.removeprefix("model.").replace(".", "")
            if key in state:
                result[name] = state[key]
    return result


def widen(weight: Tensor, in_channels: int) -> Tensor:
    """A convolution weight [out, in, k, k] with zeros appended along `in` up to `in_channels`."""
    extra = weight.new_zeros(weight.shape[0], in_channels - weight.shape[1], *weight.shape[2:])
    return torch.cat([weight, extra], dim=1)


def load_image_encoder(
    network: nn.Module, tower: WeightNames, title: str, folder: Path, otherwise: str = ""
) -> None:
    """Fill an image tower from a folder of transformers with it, or with a model around it.

    `title` names its kind; `otherwise` is what else to do if the folder has no such tower.

    Raises:
        UserError: if the folder has no such tower or the tower does not fit.
    """
    path = weights_file(folder, "model", "pytorch_model") if folder.is_dir() else folder
    state = read_weights(path)
    prefix = tower.prefix(state.keys())
    if prefix is None:
        raise UserError(
            f"{path} contains no {title} vision tower (no weight named {tower.probe}); name the right "
            f"folder{otherwise}"
        )
    check_geometry(network, path.parent)
    load_tower(network, tower, without_prefix(state, prefix), path)


def load_text_encoder(text_encoder: nn.Module, path: Path) -> None:
    """Fill a text tower from Stable Diffusion.

    Args:
        text_encoder: text tower to fill.
        path: folder in diffusers layout (with text_encoder/), or one file with Stable Diffusion 1's names.

    Raises:
        UserError: if there is no such tower or it does not fit.
    """
    from intarsia.towers.text import TEXT_TOWER  # it imports transformers, which other weights do not need

    where = path
    if path.is_dir():
        where = weights_file(path / "text_encoder", "model", "pytorch_model")
        check_geometry(text_encoder, where.parent)
    state = read_weights(where)
    prefix = TEXT_TOWER.prefix(state.keys())
    if prefix is None and any(name.startswith(_SD2_TEXT) for name in state):
        raise UserError(
            f"{path} is a single file of Stable Diffusion 2, whose text tower has other names (open_clip's); "
            "give its folder in diffusers layout"
        )
    if prefix is None:
        raise UserError(
            f"{path} contains no CLIP text tower (no weight named {TEXT_TOWER.probe}); give Stable Diffusion"
        )
    load_tower(text_encoder, TEXT_TOWER, without_prefix(state, prefix), where)


def load_tower(network: nn.Module, tower: WeightNames, weights: State, where: Path | str) -> None:
    """Fill a tower from weights with plain names (`embeddings...`), of any version of transformers.

    Raises:
        UserError: if a weight is missing, unexpected or of another shape.
    """
    prefix = own_prefix(tower, network)
    named = tower.published({name: v for name, v in weights.items() if name not in tower.stale})
    own = [name.removeprefix(prefix) for name in network.state_dict()]
    load_strictly(network, {prefix + name: v for name, v in tower.current(named, own).items()}, where)


def without_prefix(state: State, prefix: str) -> State:
    """The entries of `state` that begin with `prefix`, with the prefix removed."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


# -- the weights of a model folder (the names of the Hub's Paint by Example repository) ------------------


def load_model_folder(model: Any, folder: Path) -> None:
    """Fill the networks of an `EditModel` from a model folder, and read its tokenizer.

    A UNet gets zeros for structure maps and a low-resolution picture that the folder's was not told.

    Raises:
        UserError: if any weight is missing, unexpected or of another shape. This matters for CLIP: other
            libraries silently leave CLIP random if they do not recognise the weight names of a folder.
    """
    for part in ("unet", "vae") if model.unet is not None else ("vae",):
        path = weights_file(folder / part, "diffusion_pytorch_model")
        state = modern_attention_names(read_weights(path))
        if part == "unet":
            _widen_for_more(state, model)
        load_strictly(model.get_submodule(part), state, path)
    if model.image_encoder is not None:
        path = weights_file(folder / "image_encoder", "model", "pytorch_model")
        load_image_encoder_state(model, read_weights(path), path)
    if model.text_encoder is not None:
        load_text_encoder(model.text_encoder, folder)
        from intarsia.towers.tokenizer import read_tokenizer

        model.tokenizer = read_tokenizer(folder)


def _widen_for_more(state: State, model: Any) -> None:
    """Append zeros for (some) structure maps and the low-resolution picture to the weights of a UNet."""
    weight, config = state.get("conv_in.weight"), model.config
    if weight is None or not config.unet.in_channels <= weight.shape[1] < config.in_channels:
        return
    state["conv_in.weight"] = widen(weight, config.in_channels)
    if config.low_res and "class_embedding.weight" not in state:
        state["class_embedding.weight"] = weight.new_zeros(model.unet.class_embedding.weight.shape)


def load_image_encoder_state(model: Any, state: State, path: Path | str) -> None:
    """Fill an `EditModel`'s image tower, and exemplar encoder if it has one, from a folder's image_encoder/.

    Raises:
        UserError: if any weight is missing, unexpected or of another shape.
    """
    prefix = f"model.{model.tower.folder_prefix}"
    load_tower(model.image_encoder, model.tower, without_prefix(state, prefix), path)
    if model.exemplar_encoder is None:
        return
    rest = {name: value for name, value in state.items() if not name.startswith(prefix)}
    if "uncond_vector" in rest:
        rest["null_exemplar"] = repeat_null(rest.pop("uncond_vector"), model)
    load_strictly(model.exemplar_encoder, rest, path)


def repeat_null(null: Tensor, model: Any) -> Tensor:
    """The null tokens in a file, for an `EditModel`; a single one is repeated for each of its tokens."""
    own = model.exemplar_encoder.null_exemplar
    return null.expand(own.shape) if null.shape == (1, 1, own.shape[-1]) else null


def image_encoder_state(model: Any) -> State:
    """The weights of a model folder's image_encoder/, with names that all versions of the readers support.

    transformers 5 would write flat CLIP names, which transformers 4 silently skips.
    """
    prefix = f"model.{model.tower.folder_prefix}"
    state = {prefix + name: v for name, v in model.tower.weights(model.image_encoder).items()}
    state |= model.exemplar_encoder.state_dict()
    state["uncond_vector"] = state.pop("null_exemplar")
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def modern_attention_names(state: State) -> State:
    """Rename the autoencoder's attention weights of old diffusers folders, such as Stable Diffusion 1.4's."""
    names = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

    def modern(name: str) -> str:
        *parents, layer, leaf = ["", *name.split(".")]
        return ".".join([*parents[1:], names[layer], leaf]) if layer in names else name

    return {modern(name): value for name, value in state.items()}
