"""The groups of options of a training run; `config.TrainConfig` holds one of each."""

import os
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    field_validator,
    model_validator,
)

from dataprep.draw.recipe import RecipeChoice
from dataprep.foreign.fields import StreamFields
from intarsia.config import Config, HomePath, build_config

# One name may be without brackets.
Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]
ZeroStage = Literal[0, 1, 2, 3]
Place = Annotated[str, AfterValidator(os.path.expanduser)]
Places = Annotated[Names, AfterValidator(lambda places: tuple(map(os.path.expanduser, places)))]
Beta = Annotated[float, Field(ge=0, lt=1)]


class ShardShare(Config):
    """A shard folder with its share of the positions, as `data.shards` may list it."""

    path: str = Field(min_length=1)
    weight: PositiveFloat = 1.0
    timesteps: Literal["any", "noisy", "clean"] = "any"


class DataConfig(Config):
    """Which shards are read, and how."""

    # One shard folder, or several that are read as one data set; or, each with its share of the positions,
    # [{path: FOLDER, weight: 0.3, timesteps: noisy}, …], which fills `weights` and `timesteps`.
    shards: Places = ()
    weights: tuple[PositiveFloat, ...] = ()  # share of each folder in `shards`; none: as they are, together
    # Timesteps that each folder's samples are trained at: any, the noisier half, or the other half.
    timesteps: tuple[Literal["any", "noisy", "clean"], ...] = ()
    any_timesteps: float = Field(default=0.3, ge=0, le=1)  # share of noisy and clean samples that get any
    num_workers: int = Field(default=2, ge=0)  # loader processes per rank; 0 = read in the training process
    redraw: bool | None = None  # fresh draws in every epoch; null: from whole pictures, not of crops
    recipe: RecipeChoice = None  # all epochs drawn by it, a name or file.yaml; null: by the shards' own
    stream: StreamFields | None = None  # read tars as streams, in approximate order: what their members mean
    # Prompt of a sample for a model that is told text: the label of its box, a sentence about its picture,
    # or either of them by a draw.
    text: Literal["label", "caption", "either"] = "label"
    latents: bool = False  # read what `cache-latents` stored instead of asking the frozen networks
    stored_tokens: bool = False  # with many exemplar tokens: store them, too (526 KB a sample for 257)
    window_shards: int = Field(default=16, ge=1)  # samples are shuffled over so many shards at a time
    open_shards: int = Field(default=32, ge=1)  # shards held open (file and offset index) per process
    # Local disk for copies of remote shards; null: below the temporary folder.
    cache_dir: HomePath | None = None
    cache_gb: float = Field(default=50.0, gt=0)  # that all copies of a machine may take

    @model_validator(mode="before")
    @classmethod
    def _shares_of_shards(cls, content: Any) -> Any:
        """`shards` with weights as three lists: a change of the shares is then one of the options."""
        shards = content.get("shards") if isinstance(content, dict) else None
        if not isinstance(shards, list | tuple) or not any(isinstance(item, dict) for item in shards):
            return content
        if content.get("weights") or content.get("timesteps"):
            raise ValueError("data.shards holds weights, and data.weights or data.timesteps, too; give one")
        parts = [
            build_config(ShardShare, item if isinstance(item, dict) else {"path": item}, f"data.shards[{n}]")
            for n, item in enumerate(shards)
        ]
        split: dict[str, Any] = {"shards": [part.path for part in parts]}
        split["weights"] = [part.weight for part in parts]
        if any(part.timesteps != "any" for part in parts):
            split["timesteps"] = [part.timesteps for part in parts]
        return content | split

    @model_validator(mode="after")
    def _one_share_each(self) -> "DataConfig":
        for name in ("weights", "timesteps"):
            given = len(getattr(self, name))
            if given and given != len(self.shards):
                raise ValueError(
                    f"data.{name} has {given} values for {len(self.shards)} folders in data.shards"
                )
        if self.timesteps and not self.weights:
            raise ValueError("data.timesteps needs data.weights, the share of each folder")
        return self

    @model_validator(mode="after")
    def _streams_alone(self) -> "DataConfig":
        for name in ("weights", "latents") if self.stream else ():
            if getattr(self, name):
                raise ValueError(
                    f"data.{name} needs the exact order of shards, which data.stream does not have; remove "
                    "one of the two"
                )
        return self

    @model_validator(mode="after")
    def _recipe_draws(self) -> "DataConfig":
        if self.recipe is not None and self.redraw is False:
            raise ValueError(
                "data.recipe draws afresh, and data.redraw=false does not; remove one of the two"
            )
        return self


NARROWEST, WIDEST = 0.01, 0.28  # relative widths of averages; at .289 they are the mean of all weights so far


class OptimizerConfig(Config):
    """AdamW, its learning rate over time, and the averaged weights."""

    lr: float = Field(default=1e-5, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)  # on every trained weight
    warmup_steps: int = Field(default=10_000, ge=0)
    warmup_start: float = Field(default=1e-6, ge=0, le=1)  # share of lr at step 0; grows linearly to 1
    decay_until: int | None = None  # step at which lr has fallen to decay_to × lr; null = constant
    decay_to: float = Field(default=0.0, ge=0, le=1)
    decay: Literal["linear", "cosine"] = "linear"  # how it falls: in a line, or in half a cosine wave
    grad_clip: float | None = Field(
        default=None, gt=0
    )  # largest norm of the whole gradient; null = no clipping
    moments: Literal["fp32", "8bit"] = "fp32"  # 8bit: one byte for each moment of a weight (needs torchao)
    ema_kind: Literal["standard", "post_hoc"] = "standard"  # post_hoc: any width can be had afterwards
    ema_decay: float | None = Field(default=None, gt=0, lt=1)  # standard: null = no averaged weights
    ema_widths: tuple[float, ...] = Field(default=(0.05, 0.10), min_length=1)  # post_hoc: shares of the steps
    ema_snapshot_every: int | None = Field(default=None, ge=1)  # post_hoc: steps; null = at each checkpoint
    ema_keep_last: int | None = Field(default=None, ge=1)  # post_hoc: so many snapshots stay; null = all

    @property
    def averages(self) -> dict[str, Any]:
        """The options of `EmaAdamW` for averaged weights; empty without averages."""
        if self.ema_kind == "post_hoc":
            return {"ema_widths": self.ema_widths}
        return {} if self.ema_decay is None else {"ema_decay": self.ema_decay}

    @model_validator(mode="after")
    def _averages_of_one_kind(self) -> "OptimizerConfig":
        if self.ema_kind == "post_hoc" and self.ema_decay is not None:
            raise ValueError(
                f"optimizer.ema_decay={self.ema_decay} belongs to ema_kind=standard; with post_hoc set "
                "optimizer.ema_decay=null and choose optimizer.ema_widths"
            )
        wrong = [width for width in self.ema_widths if not NARROWEST <= width <= WIDEST]
        if wrong or len(set(self.ema_widths)) < len(self.ema_widths):
            raise ValueError(
                f"optimizer.ema_widths={list(self.ema_widths)}: each must lie from {NARROWEST} to {WIDEST} "
                "and be there once; the paper takes [0.05, 0.1]"
            )
        return self

    @model_validator(mode="after")
    def _decay_after_warmup(self) -> "OptimizerConfig":
        if self.decay_until is None and self.decay == "cosine":
            raise ValueError(
                "optimizer.decay=cosine needs optimizer.decay_until, the step at which the decay ends; "
                "without it the learning rate is constant"
            )
        if self.decay_until is not None and self.decay_until <= self.warmup_steps:
            raise ValueError(
                f"optimizer.decay_until={self.decay_until} must lie beyond warmup_steps={self.warmup_steps}"
            )
        return self


class ObjectiveConfig(Config):
    """How errors are weighted and what the noise is; the defaults are Paint by Example's plain mean."""

    min_snr_gamma: float | None = Field(default=None, gt=0)  # Hang et al. 2023 use 5; null = plain mean
    mask_weight: float = Field(default=1.0, gt=0)  # factor of errors inside the edit mask
    offset_noise: float = Field(default=0.0, ge=0)  # deviation of a noise that is equal over each channel
    compose: bool = False  # the UNet sees noise only in the hole, and only the hole's errors count

    @model_validator(mode="after")
    def _one_weight(self) -> "ObjectiveConfig":
        if self.compose and self.mask_weight != 1:
            raise ValueError(
                f"objective.mask_weight={self.mask_weight:g} does not go with objective.compose=true, where "
                "only errors inside the mask count; remove one of the two"
            )
        return self


class LoraConfig(Config):
    """Adapters of low rank, trained in place of the UNet's own weights (Hu et al. 2021)."""

    rank: int = Field(default=16, ge=1)
    alpha: int | None = Field(default=None, ge=1)  # the adapters count alpha / rank; null = rank
    targets: Names = ()  # ends of layer names; none: the projections of all attention that learn
    base: Literal["fp32", "bf16"] = "fp32"  # precision that the frozen base is kept in
    train_exemplar_encoder: bool = False  # the mapper, its projection and the null exemplar, whole


class SpeedConfig(Config):
    """Ways to be faster on a GPU. Each is off unless it is named; `make gpu` measures each by itself."""

    tf32: bool = False  # fp32 matrix products and convolutions in TF32
    cudnn_benchmark: bool = False  # cuDNN tries its algorithms for each new shape
    channels_last: bool = False  # the UNet's activations with the channels last
    half_norms: bool = False  # norms answer in bf16 under autocast, and not in fp32
    fp8: bool = False  # the UNet's linear layers multiply in fp8 (needs torchao)
    compile_frozen: bool = False  # torch.compile of the autoencoder's encoder and the image encoder
    # Of compile and compile_frozen: max-autotune tries kernels for minutes; cuda-graphs needs fixed shapes.
    compile_mode: Literal["default", "max-autotune", "cuda-graphs"] = "default"
    pin_memory: bool = False  # batches in page-locked memory, from which copies do not wait
    draws_in_workers: bool = False  # the loader's processes draw timesteps and noise
    encode_ahead: bool = False  # the frozen networks work one micro-batch ahead, on their own stream
    overlap_comm: bool = False  # gradients are exchanged during the backward pass (ZeRO 1 and 2)
    foreach_averages: bool = False  # averaged weights in one call for all parameters


class CheckpointConfig(Config):
    """When the run is saved, and how many saves are kept."""

    every_steps: int = Field(default=1000, ge=1)
    keep_last: int = Field(default=3, ge=1)  # the newest so many stay
    keep_every: int | None = Field(
        default=None, ge=1
    )  # keep those at multiples of so many steps, without limit
    asynchronous: bool = True  # copy to CPU memory and write while training continues


class PreviewConfig(Config):
    """Pictures edited during training: always the same samples with the same noise."""

    every_steps: int = Field(default=1000, ge=0)  # 0 = none
    num_images: int = Field(default=4, ge=1)
    guidance_scale: float = Field(default=5.0, ge=0, le=100)
    text_guidance_scale: float = Field(default=7.5, ge=0, le=100)
    num_inference_steps: int = Field(default=50, ge=1, le=500)  # the sampler's own bounds


class ValidationConfig(Config):
    """The loss on always the same samples with the same noise, timesteps and masks, in every run."""

    every_steps: int = Field(default=1000, ge=0)  # at the next line of metrics; 0 = none
    num_samples: int = Field(default=64, ge=1)
    averaged: bool = True  # also of the averaged weights, as val_ema/*: as much work again
    shards: Places = ()  # held-out shard folders; none: samples of data.shards


class TrackerConfig(Config):
    """Where the numbers go besides metrics.jsonl."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"  # auto: online when logged in, else offline
    project: str = Field(default="intarsia", min_length=1, max_length=128, pattern=r"^[^/\\#?%:]+$")
    name: str | None = None  # null = the run folder's name
    group: str | None = None  # runs of a group are shown together
    tags: Names = ()
    preview_table: bool = False  # previews as a table, too: key, picture, mask, exemplar, edits, prompt

    @field_validator("wandb", mode="before")
    @classmethod
    def _yaml_on_off(cls, value: Any) -> Any:
        return {True: "auto", False: "off"}.get(value, value) if isinstance(value, bool) else value
