"""Stable Diffusion's original weight names, made out of diffusers' names: the importer's way back."""

import re

from torch import Tensor, nn

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_unet_state(unet: nn.Module) -> dict[str, Tensor]:
    """The state dict of a `UNet2DConditionModel` under model.diffusion_model."""
    layers = unet.config.layers_per_block
    attended = {"up": [bool(getattr(block, "attentions", None)) for block in unet.up_blocks]}

    def rename(name: str) -> str:
        for new, old in _UNET_TOP.items():
            if name.startswith(f"{new}."):
                return old + name.removeprefix(new)
        if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
            way, level, kind, layer, rest = match.groups()
            side = "input_blocks" if way == "down" else "output_blocks"
            index = int(level) * (layers + 1) + int(layer) + (way == "down")
            return f"{side}.{index}.{_inner(kind, rest)}"
        if match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
            return f"input_blocks.{(int(match[1]) + 1) * (layers + 1)}.0.op.{match[2]}"
        if match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):
            level = int(match[1])
            place = 2 if attended["up"][level] else 1
            return f"output_blocks.{level * (layers + 1) + layers}.{place}.conv.{match[2]}"
        match = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name)
        assert match, name
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{place}." + _inner(match[1], match[3]).split(".", 1)[1]

    return {f"model.diffusion_model.{rename(name)}": value for name, value in unet.state_dict().items()}


def original_vae_state(vae: nn.Module) -> dict[str, Tensor]:
    """The state dict of an `AutoencoderKL` under first_stage_model; attention is 1x1 convolutions."""
    levels = len(vae.config.block_out_channels)
    state = {}
    for name, value in vae.state_dict().items():
        if match := re.match(r"(.*)\.mid_block\.attentions\.0\.(.*)\.(weight|bias)", name):
            shaped = value[..., None, None] if value.ndim == 2 else value
            state[f"{match[1]}.mid.attn_1.{_VAE_ATTENTION[match[2]]}.{match[3]}"] = shaped
            continue
        old = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        old = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", old)
        old = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", old)
        old = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", old)
        old = re.sub(
            r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", old
        )
        state[old.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")] = value
    return {f"first_stage_model.{name}": value for name, value in state.items()}


def _inner(kind: str, rest: str) -> str:
    if kind == "attentions":
        return f"1.{rest}"
    layer, _, leaf = rest.rpartition(".")
    return f"0.{_RESNET[layer]}.{leaf}"
