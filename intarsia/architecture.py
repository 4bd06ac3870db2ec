"""The model's geometry as plain typed numbers, without torch, so that config errors appear at once.

The defaults are Stable Diffusion 1.4's UNet and autoencoder and CLIP ViT-L/14's vision tower: the real model.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from intarsia.config import Config, HomePath, one_of
from intarsia.towers.settings import (
    ExemplarConfig,
    ImageEncoderConfig,
    TextEncoderConfig,
    check_tower,
    count_tokens,
)

DownBlock = Literal["CrossAttnDownBlock2D", "DownBlock2D"]


def _check_channels(block_out_channels: tuple[int, ...], groups: int) -> None:
    for channels in block_out_channels:
        if channels % groups:
            raise ValueError(
                f"block_out_channels holds {channels}, which is not a multiple of norm_num_groups={groups}"
            )


class UNetConfig(Config):
    """The denoising UNet (diffusers' `UNet2DConditionModel`); the up blocks mirror the down blocks."""

    in_channels: PositiveInt = 9  # noisy latents, masked image latents, mask; others follow
    # Order of the channels after the noisy latents. pbe: Paint by Example's, masked image and keep mask;
    # sd: Stable Diffusion's inpainting model's, mask of what to repaint and masked image.
    input_layout: Literal["pbe", "sd"] = "pbe"
    out_channels: PositiveInt = 4
    block_out_channels: tuple[PositiveInt, ...] = Field(default=(320, 640, 1280, 1280), min_length=1)
    down_block_types: tuple[DownBlock, ...] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    layers_per_block: PositiveInt = 2
    cross_attention_dim: PositiveInt = 768
    # diffusers' name; in this family it is the NUMBER of heads, one for all levels or one per level
    attention_head_dim: PositiveInt | tuple[PositiveInt, ...] = 8
    use_linear_projection: bool = False  # input and output of attention blocks, as in Stable Diffusion 2
    norm_num_groups: PositiveInt = 32

    @model_validator(mode="after")
    def _check(self) -> "UNetConfig":
        if len(self.down_block_types) != len(self.block_out_channels):
            raise ValueError(
                f"down_block_types has {len(self.down_block_types)} entries and block_out_channels "
                f"{len(self.block_out_channels)}; they need one entry per level each"
            )
        _check_channels(self.block_out_channels, self.norm_num_groups)
        heads = self.attention_head_dim
        per_level = heads if isinstance(heads, tuple) else (heads,) * len(self.block_out_channels)
        if len(per_level) != len(self.block_out_channels):
            raise ValueError(
                f"attention_head_dim has {len(per_level)} entries and block_out_channels "
                f"{len(self.block_out_channels)}; give one number, or one per level"
            )
        for channels, number in zip(self.block_out_channels, per_level, strict=True):
            if channels % number:
                raise ValueError(
                    f"block_out_channels holds {channels}, which attention_head_dim={number} heads cannot "
                    "share; choose a multiple"
                )
        return self

    @property
    def up_block_types(self) -> tuple[str, ...]:
        """Types of the up blocks from the deepest level up: the mirror image of `down_block_types`."""
        return tuple(name.replace("Down", "Up") for name in reversed(self.down_block_types))

    @property
    def downsampling(self) -> int:
        """Number of latent cells along one axis that become one cell at the UNet's deepest level."""
        return 2 ** (len(self.block_out_channels) - 1)


class VaeConfig(Config):
    """The autoencoder between pixels and latents (diffusers' `AutoencoderKL`)."""

    block_out_channels: tuple[PositiveInt, ...] = Field(default=(128, 256, 512, 512), min_length=1)
    layers_per_block: PositiveInt = 2
    latent_channels: PositiveInt = 4
    norm_num_groups: PositiveInt = 32
    scaling_factor: PositiveFloat = 0.18215

    @model_validator(mode="after")
    def _check(self) -> "VaeConfig":
        _check_channels(self.block_out_channels, self.norm_num_groups)
        return self

    @property
    def downsampling(self) -> int:
        """Number of pixels along one axis that become one latent cell."""
        return 2 ** (len(self.block_out_channels) - 1)


class NoiseConfig(Config):
    """The diffusion's noise levels (Stable Diffusion's and Paint by Example's)."""

    beta_start: PositiveFloat = 0.00085
    beta_end: float = Field(default=0.012, gt=0, lt=1)
    beta_schedule: Literal["scaled_linear"] = "scaled_linear"
    num_train_timesteps: PositiveInt = 1000
    prediction_type: Literal["epsilon", "v_prediction"] = (
        "epsilon"  # what the UNet predicts: noise, or velocity
    )
    rescale_betas_zero_snr: bool = False  # pure noise at the last timestep (Lin et al. 2023)
    timestep_spacing: Literal["leading", "trailing"] = "leading"  # trailing: sampling starts at the last

    @model_validator(mode="after")
    def _check(self) -> "NoiseConfig":
        if self.beta_start >= self.beta_end:
            raise ValueError(f"beta_start={self.beta_start} must be below beta_end={self.beta_end}")
        if self.rescale_betas_zero_snr and self.prediction_type != "v_prediction":
            raise ValueError(
                "rescale_betas_zero_snr needs prediction_type=v_prediction: at a timestep of pure noise, "
                "a prediction of the noise contains no information about the picture"
            )
        if self.rescale_betas_zero_snr and self.timestep_spacing != "trailing":
            raise ValueError(
                "rescale_betas_zero_snr needs timestep_spacing=trailing: with leading, sampling never starts "
                "at the last timestep, which is the one without signal"
            )
        return self


class InitConfig(Config):
    """Sources of the weights before training; weights without a source are random, drawn from the seed."""

    stable_diffusion: HomePath | None = (
        None  # folder in diffusers layout, or one .ckpt / .safetensors: UNet and VAE
    )
    ema: bool = False  # of a single stable_diffusion file with both, the averaged UNet (model_ema.*)
    image_encoder: HomePath | None = None  # folder of a transformers model with the image tower: CLIP, …
    tokenizer: HomePath | None = (
        None  # folder with vocab.json and merges.txt, which a single stable_diffusion file lacks
    )
    vae: HomePath | None = None  # folder or weights file of an AutoencoderKL, in place of stable_diffusion's
    model_folder: HomePath | None = None  # a model folder of this project: everything

    @model_validator(mode="after")
    def _check(self) -> "InitConfig":
        others = [
            name for name in ("stable_diffusion", "image_encoder", "tokenizer", "vae") if getattr(self, name)
        ]
        if self.model_folder and others:
            raise ValueError(f"init.model_folder already contains every part; remove it or init.{others[0]}")
        if self.ema and not self.stable_diffusion:
            raise ValueError(
                "init.ema=true needs init.stable_diffusion, a file with averaged weights; remove it"
            )
        return self


class ConditionRow(NamedTuple):
    """A kind of condition, as a config describes it: what the UNet is told of an exemplar, and a prompt.

    Attributes:
        module: name of the module that contains its KIND (`conditions.condition.ConditionKind`), which makes
            tokens of an exemplar; None if there is no exemplar.
        num_tokens: function from a model config to the number of the exemplar's tokens.
        text: whether the tokens of a prompt follow.
    """

    module: str | None
    num_tokens: Callable[["ModelConfig"], int]
    text: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """What the UNet is told in tokens, in the order of its context: exemplar, text."""
        return (*(("exemplar",) if self.module else ()), *(("text",) if self.text else ()))


def _exemplar_tokens(config: "ModelConfig") -> int:
    return count_tokens(config.image_encoder, config.exemplar)


CONDITIONS = {
    "exemplar": ConditionRow("intarsia.conditions.exemplar", _exemplar_tokens),
    "text": ConditionRow(None, lambda config: 0, text=True),
    "both": ConditionRow("intarsia.conditions.exemplar", _exemplar_tokens, text=True),
}


# Maps of a picture's structure, with the number of their channels: 1 = grey, 3 = red, green and blue.
# `conditions.structure.COMPUTED` has those that are computed from pixels; the others come from files.
MAPS = {"edges": 1, "depth": 1, "pose": 3, "segmentation": 3}


class StructureConfig(Config):
    """Maps that show the UNet the structure of what to paint, as further input channels."""

    maps: tuple[str, ...] = ()  # keys of MAPS, in the order of their channels
    dropout: float = Field(default=0.5, ge=0, le=1)  # share of samples trained without a map, for each map

    @field_validator("maps", mode="before")
    @classmethod
    def _without_brackets(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("maps")
    @classmethod
    def _known_once(cls, maps: tuple[str, ...]) -> tuple[str, ...]:
        for name in maps:
            if name not in MAPS:
                raise ValueError(f"structure.maps has {name!r}, which is not one of {', '.join(MAPS)}")
            if maps.count(name) > 1:
                raise ValueError(f"{name} appears twice in structure.maps")
        return maps

    @property
    def channels(self) -> int:
        """Number of input channels that the maps add."""
        return sum(MAPS[name] for name in self.maps)


# Sizes of the noised encoder: width, layers, heads. S, B and L are those of Vision Transformers.
NOISED_SIZES = {"toy": (64, 2, 4), "S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}


class NoisedConfig(Config):
    """The noised encoder (`intarsia.conditions.noised`), which is trained in place of the UNet."""

    size: Literal["toy", "S", "B", "L"] = "B"  # keys of NOISED_SIZES
    patch: PositiveInt = 4  # side of a patch, in latent cells
    dim: PositiveInt = 512  # width of the vectors that are compared
    group: int = Field(default=4, ge=2)  # consecutive samples whose exemplars are compared with each other
    # What noisy latents are compared with; null: the exemplar, or the prompt of a model without one.
    condition: Literal["exemplar", "text", "both"] | None = None


LOW_RES_LEVELS = 1000  # levels of noise of a low-resolution picture, one class embedding for each


class LowResConfig(Config):
    """The low-resolution picture that an upsampler sees (`intarsia.conditions.low_res`)."""

    factor: Literal[2, 4, 8]  # its pixels are means of factor x factor pixels of the picture
    # Levels of noise in training are below this; 1 = no noise. Stable Diffusion's x4 upscaler has 350.
    max_noise_level: int = Field(default=350, ge=1, le=LOW_RES_LEVELS)

    @staticmethod
    def channels(factor: int, downsampling: int) -> int:
        """Number of UNet input channels of the picture; `downsampling`: the autoencoder's."""
        return 3 * (downsampling // factor) ** 2


class ModelConfig(Config):
    """The whole edit model."""

    image_size: PositiveInt = 512  # side of the square picture, in pixels
    condition: Annotated[str, one_of(CONDITIONS)] = "exemplar"  # what says what to paint
    structure: StructureConfig = StructureConfig()  # what else the UNet sees of it
    low_res: LowResConfig | None = None  # of an upsampler: the picture that it makes larger
    compose: bool = False  # the UNet sees noise only in the hole; set by objective.compose
    exemplar: ExemplarConfig = ExemplarConfig()  # how the exemplar becomes tokens
    unet: UNetConfig = UNetConfig()
    noised: NoisedConfig | None = None  # a noised encoder in place of the UNet, whose input it sees
    vae: VaeConfig = VaeConfig()
    image_encoder: ImageEncoderConfig = ImageEncoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    noise: NoiseConfig = NoiseConfig()
    init: InitConfig = InitConfig()

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        check_tower(self.image_encoder, self.exemplar)
        self._check_parts()
        latent = self.vae.latent_channels
        if self.unet.out_channels != latent:
            raise ValueError(
                f"unet.out_channels={self.unet.out_channels} must equal vae.latent_channels={latent}"
            )
        if self.unet.in_channels not in (2 * latent + 1, latent):
            raise ValueError(
                f"unet.in_channels={self.unet.in_channels} must be {2 * latent + 1}: "
                f"noisy latents ({latent}), masked image latents ({latent}) and the mask (1); or {latent} "
                "for a model that is only sampled and does not see the picture"
            )
        channels = {"structure.maps": self.structure.maps, "low_res": self.low_res, "compose": self.compose}
        for name, wanted in channels.items():
            if wanted and self.unet.in_channels == latent:
                raise ValueError(
                    f"{name} needs a UNet that sees the picture: set unet.in_channels={2 * latent + 1}"
                )
        if self.low_res and self.vae.downsampling % self.low_res.factor:
            raise ValueError(
                f"low_res.factor={self.low_res.factor} must divide {self.vae.downsampling}, the pixels of a "
                "latent cell along one axis"
            )
        if self.low_res and self.noised:
            raise ValueError("low_res does not go with noised: that encoder guides the first model")
        multiple = self.multiple
        if self.image_size % multiple:
            raise ValueError(
                f"image_size={self.image_size} must be a multiple of {multiple} "
                f"(autoencoder {self.vae.downsampling} x UNet {self.unet.downsampling})"
            )
        return self

    def _check_parts(self) -> None:
        width, text_width = self.unet.cross_attention_dim, self.text_encoder.hidden_size
        if "text" in self.parts and text_width != width:
            raise ValueError(
                f"text_encoder.hidden_size={text_width} must equal unet.cross_attention_dim={width}: the "
                "text tower's vectors are the UNet's tokens"
            )
        unused = {
            "text_encoder": "text" not in self.parts and self.text_encoder != TextEncoderConfig(),
            "init.tokenizer": "text" not in self.parts and self.init.tokenizer,
            "exemplar": "exemplar" not in self.parts and self.exemplar != ExemplarConfig(),
            "init.image_encoder": "exemplar" not in self.parts and self.init.image_encoder,
        }
        for name in (name for name, given in unused.items() if given):
            raise ValueError(f"{name} has no effect with condition={self.condition}; remove it")
        if self.unet.input_layout != "pbe" and not self.extra_channels:
            raise ValueError(
                f"unet.input_layout={self.unet.input_layout} orders input channels that a UNet with "
                f"unet.in_channels={self.unet.in_channels} does not have; remove it"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """What the UNet is told in tokens, in the order of its context: exemplar, text."""
        return CONDITIONS[self.condition].parts

    @property
    def noised_parts(self) -> tuple[str, ...]:
        """What the noised encoder compares noisy latents with, some of `parts`."""
        told = self.noised.condition if self.noised else None
        return CONDITIONS[told].parts if told else self.parts[:1]

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the context of the UNet's cross-attention."""
        row = CONDITIONS[self.condition]
        return row.num_tokens(self) + (self.text_encoder.max_position_embeddings if row.text else 0)

    @property
    def exemplar_size(self) -> int:
        """Side at which the image tower looks at the exemplar, in pixels."""
        return self.exemplar.size or self.image_encoder.image_size

    @property
    def extra_channels(self) -> int:
        """Number of UNet input channels after the noisy latents; 0 if the UNet does not see the picture."""
        return self.in_channels - self.vae.latent_channels

    @property
    def in_channels(self) -> int:
        """Number of all UNet input channels."""
        return self.unet.in_channels + self.structure.channels + self.low_res_channels

    @property
    def low_res_channels(self) -> int:
        """Number of UNet input channels of an upsampler's low-resolution picture, the last ones."""
        return LowResConfig.channels(self.low_res.factor, self.vae.downsampling) if self.low_res else 0

    @property
    def multiple(self) -> int:
        """The pixels along one axis of which pictures have a multiple: a cell of the UNet's deepest level."""
        return self.vae.downsampling * self.unet.downsampling

    @property
    def latent_size(self) -> int:
        """Side of the square latents, in cells."""
        return self.image_size // self.vae.downsampling
