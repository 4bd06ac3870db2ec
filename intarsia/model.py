"""The edit model: UNet, autoencoder, frozen image tower and trained exemplar encoder."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from intarsia.architecture import ModelConfig
from intarsia.conditioning import composed, normalise_exemplar
from intarsia.conditions.attention import shorten_attention
from intarsia.conditions.condition import ConditionKind, condition_kind
from intarsia.model_folder import check_same_notes
from intarsia.pretrained import load_image_encoder, load_model_folder, widen_input
from intarsia.stable_diffusion import load_unet, load_vae, warn_of_other_prediction
from intarsia.towers.tower import Tower, tower_of


class EditModel(nn.Module):
    """All networks of one model; autoencoder and image tower are frozen and remain in evaluation mode.

    Attributes:
        config: geometry of the model.
        unet: denoising network, `UNet2DConditionModel`; input: noisy latents and the condition's channels.
        vae: autoencoder, `AutoencoderKL`.
        image_encoder: frozen image tower; `CLIPVisionModel` by default.
        exemplar_encoder: trained encoder from features to tokens; `ExemplarEncoder` by default.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = _new_unet(config)
        shorten_attention(self.unet, config.num_tokens)
        if config.compose:  # a hook, so that nobody who calls the UNet can forget it
            self.unet.register_forward_pre_hook(
                lambda _, inputs: (composed(inputs[0], config.vae.latent_channels), *inputs[1:])
            )
        self.vae = _new_vae(config).requires_grad_(False)
        self.image_encoder = self.tower.network(config.image_encoder).requires_grad_(False)
        self.exemplar_encoder = self.kind.encoder(config)
        self.train()

    @property
    def kind(self) -> ConditionKind:
        """The kind of condition."""
        return condition_kind(self.config)

    @property
    def tower(self) -> Tower:
        """The kind of image tower."""
        return tower_of(self.config.exemplar)

    def train(self, mode: bool = True) -> "EditModel":
        """Set training mode; the frozen parts remain in evaluation mode."""
        super().train(mode)
        self.vae.eval()
        self.image_encoder.eval()
        return self

    def normalise(self, exemplar: Tensor) -> Tensor:
        """Exemplars uint8 [B, h, w, 3] RGB -> float32 [B, 3, S, S], normalised for the image tower."""
        row = self.config.exemplar.row
        return normalise_exemplar(exemplar, self.config.exemplar_size, row.mean, row.deviation)

    @torch.no_grad()
    def encode_exemplar(self, exemplar: Tensor) -> Tensor:
        """Normalised exemplars [B, 3, S, S] -> features for `exemplar_encoder`, without gradient."""
        return self.kind.see(self.config, self.image_encoder, exemplar)


def build_model(config: ModelConfig, seed: int) -> EditModel:
    """A model with random weights from `seed`, or with weights from the files in `config.init`.

    Equal seeds give equal weights; the global random state does not change.

    Raises:
        UserError: if a file in `config.init` is missing or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = EditModel(config)
    init = config.init
    if base := init.model_folder or init.stable_diffusion:
        warn_of_other_prediction(base, config.noise.prediction_type, config.unet.cross_attention_dim)
    if init.model_folder:
        check_same_notes(config, init.model_folder)
        load_model_folder(model, init.model_folder)
    if init.stable_diffusion:
        load_unet(model.unet, init.stable_diffusion, init.ema)
    if autoencoder := init.vae or init.stable_diffusion:
        load_vae(model.vae, autoencoder)
    if init.image_encoder:
        load_image_encoder(model, init.image_encoder)
    return model


def empty_model(config: ModelConfig) -> EditModel:
    """A model with uninitialised weights, made fast even at real size; load weights before use."""
    with torch.device("meta"):
        model = EditModel(config)
    model.to_empty(device="cpu")
    for part in model.image_encoder.modules():
        if hasattr(part, "position_ids"):  # the only values that are computed and not loaded
            part.position_ids = torch.arange(part.num_positions)[None]
    return model


def _new_unet(config: ModelConfig) -> UNet2DConditionModel:
    """A random UNet; the weights of structure maps are zero, so that the output does not depend on them."""
    unet = config.unet
    network = UNet2DConditionModel(
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
    if config.structure.maps:
        widen_input(network, config.in_channels)
    return network


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
