"""The edit model: 9-channel UNet, autoencoder, CLIP vision tower and the exemplar encoder on top of it."""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from intarsia.architecture import ImageEncoderConfig, ModelConfig
from intarsia.attention import shorten_attention
from intarsia.pretrained import load_image_encoder, load_model_folder, tell_other_prediction, vision_prefix
from intarsia.stable_diffusion import load_unet, load_vae


class ExemplarEncoder(nn.Module):
    """The pooled CLIP vector of the exemplar -> one token for the UNet's cross-attention.

    Pre-norm transformer blocks, a final LayerNorm and a projection; beside them `null_exemplar`, the learned
    token that stands for "no exemplar" in guidance. The names of its weights are those of diffusers'
    `PaintByExampleImageEncoder`, except `null_exemplar` (there `uncond_vector`).
    """

    def __init__(self, width: int, depth: int, token_width: int) -> None:
        super().__init__()
        self.mapper = nn.ModuleDict({"blocks": nn.ModuleList(MapperBlock(width) for _ in range(depth))})
        self.final_layer_norm = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, token_width)
        self.null_exemplar = nn.Parameter(torch.randn(1, 1, token_width))

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled CLIP vectors [B, width] -> tokens [B, 1, token_width]."""
        tokens = pooled[:, None]
        for block in self.mapper["blocks"]:
            tokens = block(tokens)
        return self.proj_out(self.final_layer_norm(tokens))


class MapperBlock(nn.Module):
    """One pre-norm transformer block: self-attention with one head, then an MLP of four times the width.

    With a single token the attention's softmax is 1; it is written out because the weights exist and because
    more tokens may follow.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = SelfAttention(width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = nn.ModuleDict({"net": FeedForward(width)})
        # GLIDE's transformer starts like this, and Paint by Example takes its mapper from there.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=width**-0.5)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, n, width] -> [B, n, width]."""
        tokens = tokens + self.attn1(self.norm1(tokens))
        return tokens + self.ff["net"](self.norm3(tokens))


class SelfAttention(nn.Module):
    """Scaled dot-product attention with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, n, width] -> [B, n, width]."""
        mixed = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return self.to_out[0](mixed)


class FeedForward(nn.ModuleDict):
    """Linear to four times the width, exact GELU, and back; the keys are diffusers' layer numbers."""

    def __init__(self, width: int) -> None:
        inner = nn.ModuleDict({"proj": nn.Linear(width, 4 * width)})
        super().__init__({"0": inner, "2": nn.Linear(4 * width, width)})

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, n, width] -> [B, n, width]."""
        return self["2"](F.gelu(self["0"]["proj"](tokens)))


class EditModel(nn.Module):
    """All networks of one model; autoencoder and CLIP are frozen and stay in evaluation mode.

    Attributes:
        config: the geometry.
        unet: `UNet2DConditionModel`, input as `conditioning.unet_input` makes it.
        vae: `AutoencoderKL`.
        image_encoder: `CLIPVisionModel`.
        exemplar_encoder: `ExemplarEncoder`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = _new_unet(config)
        shorten_attention(self.unet)  # there is one exemplar token
        self.vae = _new_vae(config).requires_grad_(False)
        self.image_encoder = _new_image_encoder(config.image_encoder).requires_grad_(False)
        self.exemplar_encoder = ExemplarEncoder(
            config.image_encoder.hidden_size,
            config.image_encoder.mapper_depth,
            config.unet.cross_attention_dim,
        )
        self.train()

    def train(self, mode: bool = True) -> "EditModel":
        """Set training mode; the frozen parts stay in evaluation mode."""
        super().train(mode)
        self.vae.eval()
        self.image_encoder.eval()
        return self

    @torch.no_grad()
    def encode_exemplar(self, exemplar: Tensor) -> Tensor:
        """Exemplars [B, 3, S, S], CLIP-normalised -> pooled vectors [B, width], without gradient.

        The pooled vector is the class token after CLIP's last LayerNorm; `exemplar_encoder` takes it.
        """
        return self.image_encoder(pixel_values=exemplar).pooler_output


def build_model(config: ModelConfig, seed: int) -> EditModel:
    """A model with random weights from `seed`, then with whatever `config.init` names.

    Equal seeds give equal weights; the global random state is left as it was.

    Raises:
        UserError: if a file named by `config.init` is missing or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = EditModel(config)
    init = config.init
    if base := init.model_folder or init.stable_diffusion:
        tell_other_prediction(base, config.noise.prediction_type)
    if init.model_folder:
        load_model_folder(model, init.model_folder)
    if init.stable_diffusion:
        load_unet(model.unet, init.stable_diffusion)
    if autoencoder := init.vae or init.stable_diffusion:
        load_vae(model.vae, autoencoder)
    if init.image_encoder:
        load_image_encoder(model.image_encoder, init.image_encoder)
    return model


def empty_model(config: ModelConfig) -> EditModel:
    """A model whose weights are reserved but not set; quick even at real size. Fill it before use."""
    with torch.device("meta"):
        model = EditModel(config)
    model.to_empty(device="cpu")
    # The one value that is computed, not loaded.
    embeddings = model.image_encoder.get_submodule(f"{vision_prefix(model.image_encoder)}embeddings")
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    return model


def _new_unet(config: ModelConfig) -> UNet2DConditionModel:
    unet = config.unet
    return UNet2DConditionModel(
        sample_size=config.latent_size,
        in_channels=unet.in_channels,
        out_channels=unet.out_channels,
        block_out_channels=unet.block_out_channels,
        down_block_types=unet.down_block_types,
        up_block_types=unet.up_block_types,
        layers_per_block=unet.layers_per_block,
        cross_attention_dim=unet.cross_attention_dim,
        attention_head_dim=unet.attention_head_dim,
        use_linear_projection=unet.use_linear_projection,
        norm_num_groups=unet.norm_num_groups,
    )


def _new_vae(config: ModelConfig) -> AutoencoderKL:
    vae = config.vae
    levels = len(vae.block_out_channels)
    return AutoencoderKL(
        sample_size=config.image_size,
        block_out_channels=vae.block_out_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=vae.layers_per_block,
        latent_channels=vae.latent_channels,
        norm_num_groups=vae.norm_num_groups,
        scaling_factor=vae.scaling_factor,
    )


def _new_image_encoder(config: ImageEncoderConfig) -> CLIPVisionModel:
    return CLIPVisionModel(CLIPVisionConfig(**config.model_dump()))
