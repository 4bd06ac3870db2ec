"""Every option of a training run, its default, and the combinations that are refused at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from intarsia.architecture import ImageEncoderConfig, ModelConfig, NoisedConfig, VaeConfig
from intarsia.config import Config, one_of
from intarsia.errors import UsageError
from intarsia.model_folder import check_model_folder, check_same_notes
from training.option_groups import (
    CheckpointConfig,
    DataConfig,
    LoraConfig,
    Names,
    ObjectiveConfig,
    OptimizerConfig,
    Place,
    PreviewConfig,
    SpeedConfig,
    TrackerConfig,
    ValidationConfig,
    ZeroStage,
)

# Tasks by name: the module that holds each one's TASK (`training.objective.task.Task`).
TASKS = {"edit": "training.objective.edit", "noised-clip": "training.objective.noised"}


class TrainConfig(Config):
    """A training run. The defaults are the paper's where it states them."""

    run: Place | None = Field(None, min_length=1)  # run folder; the same folder again continues the run
    seed: int = 0
    task: Annotated[str, one_of(TASKS)] = "edit"  # what is learned
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    micro_batch_size: int = Field(default=4, ge=1)  # samples per rank and forward pass
    grad_accum_steps: int | None = Field(default=None, ge=1)  # give this one or global_batch_size
    global_batch_size: int | None = Field(default=None, ge=1)
    max_steps: int = Field(default=1000, ge=1)
    exemplar_dropout: float = Field(default=0.2, ge=0, le=1)  # share of samples that see the null exemplar
    text_dropout: float = Field(default=0.2, ge=0, le=1)  # share of samples that see no prompt, independently
    objective: ObjectiveConfig = ObjectiveConfig()
    lora: LoraConfig | None = None  # null = the model's own weights are trained
    freeze: Names = ()  # parts that are not trained, such as unet.down_blocks or unet.*.attn1
    freeze_unused: bool = True  # leave out weights that the condition gives no gradient: with one token some
    zero_stage: ZeroStage | None = None  # null: 0 on one rank, which cannot share, else 1
    offload_optimizer: bool = False  # master weights, moments and averages in CPU memory; updated there
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast; weights and moments stay fp32
    activation_checkpointing: bool = False
    compile: bool = False  # torch.compile of the UNet's blocks; gradients are compared before the first step
    speed: SpeedConfig = SpeedConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    preview: PreviewConfig = PreviewConfig()
    validation: ValidationConfig = ValidationConfig()
    tracker: TrackerConfig = TrackerConfig()
    log_every: int = Field(default=10, ge=1)  # steps per line of metrics
    max_skipped_in_a_row: int = Field(default=10, ge=1)  # steps without a finite gradient before the run ends
    start_timeout_s: float = Field(default=600, gt=0)  # how long ranks wait for each other at the start
    distributed_timeout_s: float = Field(default=1800, gt=0)  # a rank without progress for so long hangs

    @model_validator(mode="after")
    def _name_the_targets(self) -> "TrainConfig":
        if self.lora and not self.lora.targets:
            layers = [
                "attn1.to_q",
                "attn1.to_k",
                "attn1.to_v",
                "attn1.to_out.0",
                "attn2.to_v",
                "attn2.to_out.0",
            ]
            if self.model.num_tokens > 1:  # to a single token the softmax is 1: nothing to learn
                layers += ["attn2.to_q", "attn2.to_k"]
            self.lora.__dict__["targets"] = tuple(layers)  # the config is frozen, and not yet handed out
        return self

    @model_validator(mode="after")
    def _parts_that_are_told(self) -> "TrainConfig":
        parts, default = self.model.parts, TrainConfig.model_fields
        unused = {
            f"text_dropout={self.text_dropout}": "text" not in parts
            and self.text_dropout != default["text_dropout"].default,
            f"data.text={self.data.text}": "text" not in parts and self.data.text != DataConfig().text,
            f"exemplar_dropout={self.exemplar_dropout}": "exemplar" not in parts
            and self.exemplar_dropout != default["exemplar_dropout"].default,
            "data.stored_tokens=true": "exemplar" not in parts and self.data.stored_tokens,
            "lora.train_exemplar_encoder=true": "exemplar" not in parts
            and self.lora is not None
            and self.lora.train_exemplar_encoder,
        }
        for option in (option for option, given in unused.items() if given):
            raise ValueError(f"{option} has no effect with model.condition={self.model.condition}; remove it")
        return self

    @model_validator(mode="after")
    def _compose_in_the_model(self) -> "TrainConfig":
        """The model has the option, too, because it is part of what a finished model does."""
        if self.model.compose and not self.objective.compose:
            raise ValueError("model.compose=true is set by objective.compose=true; give that")
        if self.objective.compose:
            # A copy, because the default model is shared.
            self.__dict__["model"] = self.model.model_copy(update={"compose": True})
        return self

    @model_validator(mode="after")
    def _low_resolution_of_pixels(self) -> "TrainConfig":
        if self.model.low_res and self.data.latents:
            raise ValueError(
                "data.latents=true does not go with model.low_res: the low-resolution picture is made of "
                "pixels; remove data.latents"
            )
        return self

    @model_validator(mode="after")
    def _noised_encoder(self) -> "TrainConfig":
        if self.task != "noised-clip":
            if self.model.noised:
                raise ValueError("model.noised belongs to task=noised-clip; remove one of the two")
            return self
        if self.model.noised is None:
            self.__dict__["model"] = self.model.model_copy(update={"noised": NoisedConfig()})
        noised = self.model.noised or NoisedConfig()
        if self.model.latent_size % noised.patch:
            raise ValueError(
                f"model.noised.patch={noised.patch} does not divide latents of {self.model.latent_size} cells"
            )
        if not set(self.model.noised_parts) <= set(self.model.parts):
            raise ValueError(
                f"model.noised.condition={noised.condition} compares pictures with what a model with "
                f"model.condition={self.model.condition} is not told; set both alike, or remove it"
            )
        if self.micro_batch_size % noised.group:
            raise ValueError(
                f"micro_batch_size={self.micro_batch_size} must be a multiple of model.noised.group="
                f"{noised.group}: samples of a group are compared with each other"
            )
        unused = {
            f"preview.every_steps={self.preview.every_steps}": self.preview.every_steps,
            "lora": self.lora,
            "compile=true": self.compile,
            "activation_checkpointing=true": self.activation_checkpointing,
            "objective.compose=true": self.objective.compose,
            "speed.fp8=true": self.speed.fp8,
            "freeze": self.freeze,
            "model.low_res": self.model.low_res,
            f"exemplar_dropout={self.exemplar_dropout}": self.exemplar_dropout
            != type(self).model_fields["exemplar_dropout"].default,
            f"text_dropout={self.text_dropout}": "text" in self.model.noised_parts
            and self.text_dropout != type(self).model_fields["text_dropout"].default,
        }
        for option in (option for option, given in unused.items() if given):
            raise ValueError(f"{option} has no effect with task=noised-clip; remove it")
        return self

    @model_validator(mode="after")
    def _moments_where_they_can_be(self) -> "TrainConfig":
        if self.optimizer.moments == "8bit" and (self.offload_optimizer or self.zero_stage == 3):
            option = "offload_optimizer=true" if self.offload_optimizer else "zero_stage=3"
            raise ValueError(
                f"optimizer.moments=8bit does not go with {option}: the moments stay on the GPU at "
                "zero_stage=0, 1 or 2; remove one of the two"
            )
        return self

    @model_validator(mode="after")
    def _refuse_what_goes_wrong(self) -> "TrainConfig":
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError(
                "offload_optimizer=true needs zero_stage=1, 2 or 3: stage 0 has nothing to offload"
            )
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile=true needs zero_stage=0, 1 or 2: at stage 3 torch compiles DeepSpeed's gathering of "
                "each weight, too, for minutes and in vain"
            )
        if self.speed.compile_mode != "default" and not (self.compile or self.speed.compile_frozen):
            raise ValueError(
                f"speed.compile_mode={self.speed.compile_mode} needs compile or speed.compile_frozen"
            )
        for name in ("half_norms", "fp8"):
            if getattr(self.speed, name) and self.precision != "bf16":
                raise ValueError(f"speed.{name}=true needs precision=bf16; in fp32 there is nothing to halve")
        if self.speed.overlap_comm and self.zero_stage == 0:
            raise ValueError("speed.overlap_comm=true needs zero_stage=1, 2 or 3: 0 exchanges at the end")
        if self.lora and self.lora.base == "bf16" and self.precision != "bf16":
            raise ValueError(
                "lora.base=bf16 needs precision=bf16: in fp32 the base's layers compute with fp32 weights"
            )
        if self.lora and self.lora.base == "bf16" and self.zero_stage == 3:
            raise ValueError(
                "lora.base=bf16 needs zero_stage=0, 1 or 2: stage 3 gathers weights of one precision only"
            )
        if self.lora and self.model.init.stable_diffusion:
            raise ValueError(
                "lora needs model.init.model_folder, a model that can edit: adapters do not train the first "
                "convolution, in which Stable Diffusion's UNet is blind to the hole"
            )
        if self.data.stored_tokens and self.model.exemplar.tokens == "class":
            raise ValueError(
                "data.stored_tokens=true belongs to other model.exemplar.tokens than class, whose single "
                "vector is always stored; remove it"
            )
        if not self.model.extra_channels:
            raise ValueError(
                f"model.unet.in_channels={self.model.unet.in_channels} can only be sampled: training shows "
                "the UNet the masked picture, too; take the default"
            )
        if self.objective.min_snr_gamma is not None and self.model.noise.rescale_betas_zero_snr:
            raise ValueError(
                "objective.min_snr_gamma gives the last timestep of model.noise.rescale_betas_zero_snr the "
                "weight 0, and sampling starts there; remove one of the two"
            )
        snapshots, saves = self.optimizer.ema_snapshot_every, self.checkpoint.every_steps
        if snapshots is not None and snapshots % saves:
            raise ValueError(
                f"optimizer.ema_snapshot_every={snapshots} is not a multiple of "
                f"checkpoint.every_steps={saves}: "
                "snapshots are taken out of checkpoints"
            )
        if self.global_batch_size is not None and self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is not a multiple of "
                f"micro_batch_size={self.micro_batch_size}"
            )
        return self


# What may change between two calls with the same run folder: it alters no number that training computes, but
# for rounding where the ranks, ZeRO's stage or the bits of the moments change. Shards and the files of
# model.init may be moved: the checkpoint holds hashes of their content. It holds the global batch size, too,
# that the batch options make.
FREE_KEYS = (
    *("run", "max_steps", "log_every", "max_skipped_in_a_row"),
    *("distributed_timeout_s", "start_timeout_s"),
    *("data.shards", "data.num_workers", "data.open_shards", "data.cache_dir", "data.cache_gb"),
    *("micro_batch_size", "grad_accum_steps", "global_batch_size"),
    *("zero_stage", "offload_optimizer", "activation_checkpointing"),
    *("optimizer.ema_snapshot_every", "optimizer.ema_keep_last", "optimizer.moments"),
    *("speed.pin_memory", "speed.draws_in_workers", "speed.encode_ahead", "speed.overlap_comm"),
    *("speed.foreach_averages", "speed.cudnn_benchmark", "speed.channels_last"),
    *("speed.compile_frozen", "speed.compile_mode"),
)
FREE_GROUPS = ("checkpoint.", "preview.", "validation.", "tracker.", "model.init.")


# What may differ between the ranks of one call: where a machine has its files, and how many processes read
# them. The content of the files is compared.
NODE_KEYS = (
    *("data.shards", "validation.shards", "data.cache_dir", "data.cache_gb"),
    *("data.num_workers", "data.open_shards"),
)
NODE_GROUPS = ("model.init.",)


def may_change(key: str) -> bool:
    """Whether the dotted config key `key` may differ when a run is continued."""
    return key in FREE_KEYS or key.startswith(FREE_GROUPS)


@dataclass(frozen=True)
class BatchShape:
    """How one optimizer step's samples are divided; `global_batch` = micro × accum × world."""

    micro: int
    accum: int
    world: int

    @property
    def global_batch(self) -> int:
        """Samples per optimizer step over all ranks."""
        return self.micro * self.accum * self.world


def batch_shape(config: TrainConfig, world_size: int) -> BatchShape:
    """Derive the batch sizes once, for this many ranks.

    Raises:
        UsageError: where global_batch_size contradicts micro_batch_size × grad_accum_steps × ranks.
    """
    micro, accum, total = config.micro_batch_size, config.grad_accum_steps, config.global_batch_size
    if total is None:
        return BatchShape(micro, accum or 1, world_size)
    if accum is None:
        accum = total // (micro * world_size)
    if micro * accum * world_size != total:
        ranks = [str(n) for n in range(1, total // micro + 1) if total % (micro * n) == 0]
        raise UsageError(
            f"global_batch_size={total} is not micro_batch_size={micro} × grad_accum_steps={accum or 1} × "
            f"{world_size} ranks; leave grad_accum_steps out and choose a global_batch_size that is a "
            f"multiple of {micro * world_size}, or keep it and start {', '.join(ranks)} rank(s)"
        )
    return BatchShape(micro, accum, world_size)


def zero_stage_of(config: TrainConfig, ranks: int) -> int:
    """The stage of ZeRO on so many ranks: the config's, or the least that leaves nothing shareable unshared.

    One rank cannot share: from stage 1 on it would only keep a second copy of weights and gradients.
    """
    if config.zero_stage is not None:
        return config.zero_stage
    return 1 if ranks > 1 or config.offload_optimizer else 0


def stores_features(config: TrainConfig) -> bool:
    """Whether stored latents hold what the image tower sees; many vectors are stored only on request."""
    one = "exemplar" in config.model.parts and config.model.exemplar.tokens == "class"
    return config.data.stored_tokens or one


def require_paths(config: TrainConfig) -> None:
    """Check that run folder, shards and initial weights are named, and that the weights exist.

    Raises:
        UsageError: naming what is missing and how to give it.
    """
    if not config.data.shards:
        raise UsageError("no shards given: add data.shards=FOLDER (made by `python -m dataprep build`)")
    if config.lora and config.model.init.model_folder is None:
        raise UsageError("no base given: lora adapts a model; add model.init.model_folder=FOLDER")
    if config.run is None:
        raise UsageError("no run folder given: add run=FOLDER; the same folder again continues the run")
    require_weights(config.model)
    if config.lora and config.model.init.model_folder is not None:
        check_same_notes(config.model, config.model.init.model_folder, exactly=True)


def require_weights(model: ModelConfig) -> None:
    """Files that are named must be there, and what is never trained must have weights.

    Only networks of the published geometry are required: a small one may be random, like the demo's CLIP.

    Raises:
        UsageError: naming the file, or the options that give one.
        UserError: for a file in the place of a model folder, with what to do.
    """
    for name, path in model.init:
        if isinstance(path, Path) and not path.exists():
            raise UsageError(f"model.init.{name}={path} does not exist")
    if model.init.model_folder is not None and model.init.model_folder.is_file():
        check_model_folder(model.init.model_folder)
    given = {name for name, path in model.init if isinstance(path, Path)}
    if model.vae == VaeConfig() and not given & {"vae", "stable_diffusion", "model_folder"}:
        raise UsageError(
            "no weights for the autoencoder, which is not trained: add model.init.stable_diffusion=, "
            "model.init.vae= or model.init.model_folder= with a folder or file"
        )
    if "exemplar" in model.parts and _is_published(model) and not given & {"image_encoder", "model_folder"}:
        raise UsageError(
            f"no weights for {model.exemplar.row.title}, which is not trained: add model.init.image_encoder= "
            "or model.init.model_folder= with a folder"
        )
    large = "text" in model.parts and model.text_encoder.hidden_size >= 384
    if large and not given & {"stable_diffusion", "model_folder"}:
        raise UsageError(
            "no weights for the text tower, which is not trained: add model.init.stable_diffusion= or "
            "model.init.model_folder= with a folder"
        )


def _is_published(model: ModelConfig) -> bool:
    """Whether the image tower is as large as a published one; the smallest are 384 (DINOv2) and 768 wide."""
    if model.exemplar.encoder == "clip":
        return model.image_encoder == ImageEncoderConfig()
    return model.image_encoder.hidden_size >= 384
