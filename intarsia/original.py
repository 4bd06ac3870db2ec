"""Checkpoints of the original Paint by Example: one file with the weight names of latent diffusion.

The mapping between its names and ours is reversible: a checkpoint that is read and written again has the same
tensors, bit for bit. Tests compare the UNet and the autoencoder with diffusers' importer; diffusers has no
exporter.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from intarsia.architecture import ModelConfig, NoiseConfig
from intarsia.errors import UserError
from intarsia.model import EditModel
from intarsia.pretrained import UNET_PREFIX, State, WrongGeometry, load_strictly, repeat_null, with_averages
from intarsia.towers.names import own_prefix

_VAE = "first_stage_model."
_COND = "cond_stage_model."
_VISION = f"{_COND}transformer.vision_model."
_NULL = "learnable_vector"
_CONV_IN = f"{UNET_PREFIX}input_blocks.0.0.weight"
_PROBE = f"{_COND}mapper.resblocks.0.ln_1.weight"  # only Paint by Example has a mapper

# Our names on the left, the original names on the right.
_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_MAPPER = {
    "norm1": "ln_1",
    "norm3": "ln_2",
    "attn1.to_out.0": "attn.c_proj",
    "ff.net.0.proj": "mlp.c_fc",
    "ff.net.2": "mlp.c_proj",
}
_ENCODER_TOP = {"final_layer_norm": f"{_COND}final_ln", "proj_out": "proj_out"}
_QKV = ("to_q", "to_k", "to_v")


@dataclass(frozen=True)
class OriginalPlace:
    """The location of one of our weights in an original checkpoint.

    Attributes:
        name: name of the tensor in the checkpoint.
        third: index of the third of its rows, if query, key and value are one tensor there; None = all rows.
    """

    name: str
    third: int | None = None


def original_places(model: EditModel) -> dict[str, OriginalPlace]:
    """The location of every weight of the model, by its name in `model.state_dict()`."""
    vision = f"image_encoder.{own_prefix(model.tower, model.image_encoder)}"
    places = {}
    for name in model.state_dict():
        # The first word of a name is the network.
        part, _, rest = name.partition(".")
        if part == "unet":
            places[name] = OriginalPlace(UNET_PREFIX + _unet_name(rest, model.config))
        elif part == "vae":
            places[name] = OriginalPlace(_VAE + _vae_name(rest, model.config))
        elif part == "image_encoder":
            places[name] = OriginalPlace(_VISION + name.removeprefix(vision))
        else:
            places[name] = _encoder_place(rest)
    return places


def to_original(model: EditModel) -> State:
    """The `state_dict` of an original checkpoint: weights, CLIP's position ids and the noise levels.

    Raises:
        UserError: for a model with another condition, another tower than CLIP, queries, structure maps
            or composed input, which the checkpoint's code does not have.
    """
    _refuse_other_exemplars(model.config)
    own = model.state_dict()
    # Query, key and value share one name there; our state dict lists them in the order of the thirds.
    joined: dict[str, list[Tensor]] = defaultdict(list)
    for name, place in original_places(model).items():
        joined[place.name].append(own[name])
    state = {name: torch.cat(pieces) if len(pieces) > 1 else pieces[0] for name, pieces in joined.items()}
    for name in filter(_is_pointwise, state):
        state[name] = state[name][..., None, None]
    if (state[_NULL] == state[_NULL][:, :1]).all():  # as the authors write it, for any number of tokens
        state[_NULL] = state[_NULL][:, :1].clone()
    positions = state[f"{_VISION}embeddings.position_embedding.weight"].shape[0]
    state[f"{_VISION}embeddings.position_ids"] = torch.arange(positions)[None]
    return state | noise_buffers(model.config.noise)


def from_original(
    model: EditModel, state: State, where: Path | str, averaged: bool = False, new_null: bool = False
) -> None:
    """Fill a model from the `state_dict` of an original checkpoint; every weight must be present.

    Args:
        model: model with the checkpoint's geometry.
        state: tensors by name; if they include noise levels, these must equal the model's.
        where: path of the file, for messages.
        averaged: whether to use the UNet's averaged weights (`model_ema.*`) instead of the plain ones.
        new_null: whether the null exemplar, which an early checkpoint does not have, begins at zero.

    Raises:
        UserError: if it is another kind of checkpoint, has other noise levels, no averaged weights or no null
            exemplar, or a weight is missing, unexpected or of another shape.
    """
    _refuse_other_kinds(state, where)
    _refuse_other_noise(state, model.config.noise, where)
    if averaged:
        state = with_averages(state, where, "--ema")
    if new_null or _NULL not in state:
        state = _with_new_null(state, model.config.unet.cross_attention_dim, where, new_null)
    state = {**state, _NULL: repeat_null(state[_NULL], model)}
    places = original_places(model)
    known = {place.name for place in places.values()}
    # Unknown weights of the four networks keep their names, so that `load_strictly` reports them.
    ours = {
        name: value
        for name, value in state.items()
        if name.startswith((UNET_PREFIX, _VAE, _COND, "proj_out.", _NULL))
        and name not in known
        and not name.endswith("position_ids")
    }
    # The opposite of `to_original`: flatten 1x1 convolutions, and split query, key and value.
    for name, place in places.items():
        if place.name in state:
            value = state[place.name]
            value = value[..., 0, 0] if _is_pointwise(place.name) and value.ndim == 4 else value
            ours[name] = value if place.third is None else value.chunk(3)[place.third]
    load_strictly(model, ours, where)


def noise_buffers(noise: NoiseConfig) -> State:
    """The noise levels that an original checkpoint stores, float32 [num_train_timesteps] each.

    They are computed in float64, as in the original code: betas with evenly spaced square roots,
    ā_t = Π (1 − β), and the posterior q(x_{t−1} | x_t, x_0) of Ho et al. 2020 (equations 6 and 7).
    """
    betas = np.linspace(noise.beta_start**0.5, noise.beta_end**0.5, noise.num_train_timesteps) ** 2
    alphas = 1.0 - betas
    product = np.cumprod(alphas)
    before: np.ndarray = np.append(1.0, product[:-1])
    variance = betas * (1.0 - before) / (1.0 - product)
    levels = {
        "betas": betas,
        "alphas_cumprod": product,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(product),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - product),
        "log_one_minus_alphas_cumprod": np.log(1.0 - product),
        "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / product),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / product - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1.0 - product),
        "posterior_mean_coef2": (1.0 - before) * np.sqrt(alphas) / (1.0 - product),
    }
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in levels.items()}


def _refuse_other_exemplars(config: ModelConfig) -> None:
    exemplar = config.exemplar
    for name, value, holds in (
        ("condition", config.condition, config.condition == "exemplar"),
        ("exemplar.encoder", exemplar.encoder, exemplar.encoder == "clip"),
        ("exemplar.tokens", exemplar.tokens, exemplar.tokens != "resampled"),
        ("exemplar.layer", exemplar.layer, exemplar.layer == -1),
        ("structure.maps", ",".join(config.structure.maps), not config.structure.maps),
        ("low_res", f"{{factor: {config.low_res.factor}}}" if config.low_res else "", config.low_res is None),
        ("compose", "true", not config.compose),
    ):
        if not holds:
            raise UserError(
                f"an original checkpoint cannot hold a model with {name}={value}; use --format diffusers"
            )


def _with_new_null(state: State, width: int, where: Path | str, wanted: bool) -> State:
    if not wanted:
        raise UserError(
            f"{where} has no {_NULL}, as early checkpoints of Paint by Example: without a null exemplar "
            "there is no guidance; --new-null-exemplar begins one of zeros, which training has to learn "
            "(until then sample with --guidance-scale 1)"
        )
    if _NULL in state:
        raise UserError(f"{where} has a null exemplar ({_NULL}); omit --new-null-exemplar")
    return {**state, _NULL: torch.zeros(1, 1, width)}


def _refuse_other_kinds(state: State, where: Path | str) -> None:
    if _PROBE in state:
        return
    if _CONV_IN not in state:
        raise UserError(
            f"{where} is not an original Paint by Example checkpoint (no {_CONV_IN}); give its .ckpt or a "
            ".safetensors with the same names"
        )
    channels = state[_CONV_IN].shape[1]
    if channels == 9:
        raise UserError(
            f"{where} is a text-guided inpainting model without exemplar encoder. Its input channels are "
            "latents, mask (1 = repaint), masked image; ours are latents, masked image, mask (1 = keep), and "
            "inverting the mask is not exact at the picture's border. Train from the 4-channel Stable "
            "Diffusion instead (model.init.stable_diffusion)"
        )
    raise UserError(
        f"{where} is a text-to-image model with {channels} input channels and no exemplar encoder; to train "
        f"from it, set model.init.stable_diffusion={where}"
    )


def _refuse_other_noise(state: State, noise: NoiseConfig, where: Path | str) -> None:
    # Weights-only files have no noise levels; float16 files round them.
    theirs = state.get("betas")
    ours = noise_buffers(noise)["betas"]
    if theirs is None or (theirs.shape == ours.shape and torch.allclose(theirs.float(), ours, rtol=1e-3)):
        return
    raise WrongGeometry(
        f"{where} has {len(theirs)} noise levels with betas from {theirs[0]:g} to {theirs[-1]:g}, the model "
        f"config {len(ours)} from {ours[0]:g} to {ours[-1]:g}; copy the file's values to model.noise"
    )


def _is_pointwise(name: str) -> bool:
    """Whether it is an attention weight of the autoencoder: a 1x1 convolution there, a matrix here."""
    return ".mid.attn_1." in name and name.endswith(".weight") and not name.endswith(".norm.weight")


def _unet_name(name: str, config: ModelConfig) -> str:
    layers = config.unet.layers_per_block
    for ours, theirs in _UNET_TOP.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        way, level, kind, layer, rest = match.groups()
        side = "input_blocks" if way == "down" else "output_blocks"
        # One level has `layers` blocks and a down-sampler, or layers + 1 blocks; input block 0 is conv_in.
        index = int(level) * (layers + 1) + int(layer) + (way == "down")
        return f"{side}.{index}.{int(kind == 'attentions')}.{_block_name(kind, rest)}"
    if match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(int(match[1]) + 1) * (layers + 1)}.0.op.{match[2]}"
    if match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):
        level = int(match[1])
        # The up-sampler belongs to the level's last block, after its resnet and its attention, if any.
        after_attention = config.unet.up_block_types[level].startswith("CrossAttn")
        return f"output_blocks.{level * (layers + 1) + layers}.{1 + after_attention}.conv.{match[2]}"
    match = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name)
    assert match, name
    place = 1 if match[1] == "attentions" else 2 * int(match[2])  # resnet, attention, resnet
    return f"middle_block.{place}.{_block_name(match[1], match[3])}"


def _block_name(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    layer, _, leaf = rest.rpartition(".")
    return f"{_RESNET[layer]}.{leaf}"


def _vae_name(name: str, config: ModelConfig) -> str:
    top = len(config.vae.block_out_channels) - 1
    if match := re.match(r"(.*)\.mid_block\.attentions\.0\.(.*)\.(weight|bias)", name):
        return f"{match[1]}.mid.attn_1.{_VAE_ATTENTION[match[2]]}.{match[3]}"
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    # The original counts the up levels from the finest one, diffusers from the deepest.
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{top - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{top - int(m[1])}.upsample", name)
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _encoder_place(name: str) -> OriginalPlace:
    if name == "null_exemplar":
        return OriginalPlace(_NULL)
    # The leaf is weight or bias; the rest is the layer.
    layer, _, leaf = name.rpartition(".")
    if layer in _ENCODER_TOP:
        return OriginalPlace(f"{_ENCODER_TOP[layer]}.{leaf}")
    match = re.fullmatch(r"mapper\.blocks\.(\d+)\.(.*)", layer)
    assert match, name
    block = f"{_COND}mapper.resblocks.{match[1]}"
    inner = match[2].removeprefix("attn1.")
    if inner in _QKV:
        return OriginalPlace(f"{block}.attn.c_qkv.{leaf}", third=_QKV.index(inner))
    return OriginalPlace(f"{block}.{_MAPPER[match[2]]}.{leaf}")
