"""The edit model: UNet, autoencoder, and for an exemplar and a prompt their frozen towers and encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from intarsia.architecture import LOW_RES_LEVELS, ModelConfig
from intarsia.conditioning import composed, normalise_exemplar
from intarsia.conditions.attention import shorten_attention
from intarsia.conditions.condition import ConditionKind, condition_kind
from intarsia.conditions.noised import NoisedEncoder
from intarsia.errors import UserError
from intarsia.model_folder import check_same_notes
from intarsia.pretrained import load_image_encoder, load_model_folder, load_text_encoder, widen
from intarsia.stable_diffusion import load_unet, load_vae, warn_of_other_prediction
from intarsia.towers.text import new_text_encoder, read_text
from intarsia.towers.tokenizer import BYTES_VOCABULARY, TextTokenizer, bytes_tokenizer, read_tokenizer
from intarsia.towers.tower import Tower, tower_of


class EditModel(nn.Module):
    """All networks of one model; autoencoder and towers are frozen and remain in evaluation mode.

    Attributes:
        config: geometry of the model.
        unet: denoising network, `UNet2DConditionModel`; input: noisy latents and the condition's channels.
            None in a model whose noised encoder is trained.
        noised: noised encoder that guides, or is trained; None by default.
        upsampler: model that paints large windows again at their own resolution; None by default.
        style_tower: image tower that sees the whole picture for the inversion `style`; None by default.
        vae: autoencoder, `AutoencoderKL`.
        image_encoder: frozen image tower, `CLIPVisionModel` by default; None without an exemplar.
        exemplar_encoder: trained encoder from features to tokens, `ExemplarEncoder` by default; None without
            an exemplar.
        text_encoder: frozen text tower, `CLIPTextModel`; None without a prompt.
        tokenizer: its tokenizer; None without a prompt, and until it is read.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.unet: Any = None
        self.noised: NoisedEncoder | None = None
        self.upsampler: EditModel | None = None
        self.style_tower: Any = None
        if config.noised:
            self.noised = NoisedEncoder(config)
        else:
            self.unet = _new_unet(config)
            shorten_attention(self.unet, config.num_tokens)
        if config.compose:  # a hook, so that nobody who calls the UNet can forget it
            self.unet.register_forward_pre_hook(
                lambda _, inputs: (
                    composed(inputs[0], config.vae.latent_channels, config.unet.input_layout),
                    *inputs[1:],
                )
            )
        self.vae = _new_vae(config).requires_grad_(False)
        self.image_encoder: Any = None
        self.exemplar_encoder: Any = None
        self.text_encoder: Any = None
        if "exemplar" in config.parts:
            self.image_encoder = self.tower.network(config.image_encoder).requires_grad_(False)
            self.exemplar_encoder = None if config.noised else self.kind.encoder(config)
        if "text" in config.parts:
            self.text_encoder = new_text_encoder(config.text_encoder).requires_grad_(False)
        self.tokenizer: TextTokenizer | None = None
        self.train()

    @property
    def frozen_networks(self) -> dict[str, nn.Module]:
        """The networks that are never trained, by attribute."""
        names = ("vae", "image_encoder", "text_encoder")
        return {name: network for name in names if (network := getattr(self, name, None)) is not None}

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
        for network in self.frozen_networks.values():
            network.eval()
        return self

    def normalise(self, exemplar: Tensor) -> Tensor:
        """Exemplars uint8 [B, h, w, 3] RGB -> float32 [B, 3, S, S], normalised for the image tower."""
        row = self.config.exemplar.row
        return normalise_exemplar(exemplar, self.config.exemplar_size, row.mean, row.deviation)

    @torch.no_grad()
    def encode_exemplar(self, exemplar: Tensor) -> Tensor:
        """Normalised exemplars [B, 3, S, S] -> features for `exemplar_encoder`, without gradient."""
        return self.kind.see(self.config, self.image_encoder, exemplar)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Prompts -> tokens [B, n, D], without gradient; "" tells nothing. Longer prompts are cut."""
        assert self.text_encoder is not None, "the model is not told text"
        return read_text(self.text_encoder, self._ids(texts).to(self.text_encoder.device))

    def pool_text(self, texts: Sequence[str], tokens: Tensor) -> Tensor:
        """Tokens of prompts [B, n, D] -> one vector each, [B, D]: where the prompt ends, as in CLIP.

        Args:
            texts: prompts.
            tokens: result of `encode_text` for them.
        """
        assert self.tokenizer is not None, "the model is not told text"
        ends = (self._ids(texts) == self.tokenizer.end_id).int().argmax(dim=1)
        return tokens[torch.arange(len(tokens)), ends.to(tokens.device)]

    def _ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids of prompts, int64 [B, n], on the CPU."""
        assert self.tokenizer is not None, "the model is not told text"
        return self.tokenizer(texts, self.config.text_encoder.max_position_embeddings)


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
    if init.stable_diffusion and model.unet is not None:
        load_unet(model.unet, init.stable_diffusion, init.ema, config.unet.input_layout)
    if autoencoder := init.vae or init.stable_diffusion:
        load_vae(model.vae, autoencoder)
    if init.image_encoder:
        title, otherwise = config.exemplar.row.title, ", or set model.exemplar.encoder to its kind"
        load_image_encoder(model.image_encoder, model.tower, title, init.image_encoder, otherwise)
    if model.text_encoder is not None and init.stable_diffusion:
        load_text_encoder(model.text_encoder, init.stable_diffusion)
    if model.text_encoder is not None and model.tokenizer is None:
        model.tokenizer = _tokenizer(config)
    return model


def _tokenizer(config: ModelConfig) -> TextTokenizer:
    """The tokenizer that a config names; a small vocabulary needs none, its tokens are bytes."""
    init = config.init
    place: Path | None = init.tokenizer or init.stable_diffusion
    size = config.text_encoder.vocab_size
    if place is None and size == BYTES_VOCABULARY:
        return bytes_tokenizer()
    if place is None or place.is_file():
        raise UserError(
            f"{place or 'the model config'} has no vocabulary for prompts; add model.init.tokenizer=FOLDER "
            "with vocab.json and merges.txt, such as the tokenizer folder of Stable Diffusion"
        )
    tokenizer = read_tokenizer(place)
    if max(tokenizer.vocab.values()) >= size:
        raise UserError(
            f"the vocabulary in {place} has {len(tokenizer.vocab)} tokens, model.text_encoder.vocab_size is "
            f"{size}; they must belong together"
        )
    return tokenizer


def empty_model(config: ModelConfig) -> EditModel:
    """A model with uninitialised weights, made fast even at real size; load weights before use."""
    with torch.device("meta"):
        model = EditModel(config)
    model.to_empty(device="cpu")
    for network in (model.image_encoder, model.text_encoder):
        for part in network.modules() if network is not None else ():
            if hasattr(part, "position_ids"):  # the only values that are computed and not loaded
                part.position_ids = torch.arange(part.position_embedding.num_embeddings)[None]
    return model


def _new_unet(config: ModelConfig) -> UNet2DConditionModel:
    """A random UNet; the weights of structure maps and of a low-resolution picture are zero."""
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
        num_class_embeds=LOW_RES_LEVELS if config.low_res else None,
    )
    if config.low_res:
        nn.init.zeros_(network.class_embedding.weight)
    if config.in_channels > unet.in_channels:
        _widen_input(network, config.in_channels)
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


def _widen_input(unet: Any, in_channels: int) -> None:
    """Append input channels of zeros to a `UNet2DConditionModel`; its output for the others stays."""
    weight = unet.conv_in.weight
    unet.conv_in.weight = nn.Parameter(widen(weight.detach(), in_channels), weight.requires_grad)
    unet.conv_in.in_channels = in_channels
    unet.register_to_config(in_channels=in_channels)
