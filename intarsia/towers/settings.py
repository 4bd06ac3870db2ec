"""The frozen towers' geometry and how the exemplar becomes tokens, as plain values without torch."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from intarsia.config import Config, build_config, one_of
from intarsia.errors import UserError
from intarsia.files import read_json

QUERIES = 16  # tokens of `resampled`


class TowerRow(NamedTuple):
    """A kind of frozen image tower, as a config describes it.

    Attributes:
        module: name of the module that contains its TOWER (`towers.tower.Tower`).
        title: its name in sentences.
        mean, deviation: normalisation of values in [0, 1], red, green and blue.
        class_token: whether the first token of every layer stands for the whole picture.
        any_size: whether it interpolates its positions, so that exemplars may have another size.
    """

    module: str
    title: str
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    class_token: bool
    any_size: bool = False


TOWERS = {
    "clip": TowerRow(
        "intarsia.towers.clip",
        "CLIP",
        mean=(0.48145466, 0.4578275, 0.40821073),
        deviation=(0.26862954, 0.26130258, 0.27577711),
        class_token=True,
    ),
    "dinov2": TowerRow(
        "intarsia.towers.dinov2",
        "DINOv2",
        mean=(0.485, 0.456, 0.406),
        deviation=(0.229, 0.224, 0.225),
        class_token=True,
        any_size=True,
    ),
    "siglip": TowerRow(
        "intarsia.towers.siglip",
        "SigLIP",
        mean=(0.5, 0.5, 0.5),
        deviation=(0.5, 0.5, 0.5),
        class_token=False,
    ),
}


def check_heads(hidden_size: int, num_attention_heads: int) -> None:
    """Refuse a width that the heads cannot share.

    Raises:
        ValueError: with both values.
    """
    if hidden_size % num_attention_heads:
        raise ValueError(
            f"hidden_size={hidden_size} is not a multiple of num_attention_heads={num_attention_heads}"
        )


class ImageEncoderConfig(Config):
    """The frozen image tower that encodes the exemplar; by default CLIP ViT-L/14's."""

    hidden_size: PositiveInt = 1024
    intermediate_size: PositiveInt = 4096  # DINOv2: mlp_ratio x hidden_size
    num_hidden_layers: int = Field(default=24, ge=4)  # with fewer than 4 the mapper has no block
    num_attention_heads: PositiveInt = 16
    image_size: PositiveInt = 224
    patch_size: PositiveInt = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: PositiveFloat = 1e-5
    use_swiglu_ffn: bool = False  # DINOv2 giant's feed-forward layers

    @model_validator(mode="after")
    def _check(self) -> "ImageEncoderConfig":
        check_heads(self.hidden_size, self.num_attention_heads)
        return self

    @property
    def mapper_depth(self) -> int:
        """Number of transformer blocks between the tower's vectors and the tokens (diffusers' formula)."""
        return (self.num_hidden_layers + 1) // 5

    def fields(self) -> dict[str, Any]:
        """The fields by name; one that came later only if it is set, so that hashes and files stay."""
        return self.model_dump(exclude=None if self.use_swiglu_ffn else {"use_swiglu_ffn"})


class TextEncoderConfig(Config):
    """The frozen text tower that encodes the prompt (transformers' `CLIPTextModel`); Stable Diffusion 1's."""

    vocab_size: PositiveInt = 49408
    hidden_size: PositiveInt = 768
    intermediate_size: PositiveInt = 3072
    num_hidden_layers: PositiveInt = 12
    num_attention_heads: PositiveInt = 12
    max_position_embeddings: int = Field(default=77, ge=3)  # number of tokens of every prompt
    hidden_act: str = "quick_gelu"
    layer_norm_eps: PositiveFloat = 1e-5

    @model_validator(mode="after")
    def _check(self) -> "TextEncoderConfig":
        check_heads(self.hidden_size, self.num_attention_heads)
        return self


class ExemplarConfig(Config):
    """How the exemplar becomes tokens; the default is Paint by Example's."""

    encoder: Annotated[str, one_of(TOWERS)] = "clip"  # image tower: clip, dinov2 or siglip
    # What the UNet attends to: 1 vector, one per patch, both, or learned queries that attend to all.
    tokens: Literal["class", "patches", "class+patches", "resampled"] = "class"
    layer: int = Field(default=-1, le=-1)  # -1: the last, after its norm; -2: the one before, as it is
    queries: PositiveInt = QUERIES  # number of tokens of `resampled`
    size: PositiveInt | None = None  # side at which dinov2 looks at the exemplar; null: its own image_size

    @model_validator(mode="after")
    def _check(self) -> "ExemplarConfig":
        row = TOWERS[self.encoder]
        if self.queries != QUERIES and self.tokens != "resampled":
            raise ValueError(
                f"exemplar.queries={self.queries} belongs to exemplar.tokens=resampled, not to {self.tokens}"
            )
        if self.size is not None and not row.any_size:
            raise ValueError(
                f"exemplar.size={self.size}: {row.title} looks at image_encoder.image_size only; remove it"
            )
        if self.layer != -1 and not row.class_token and self.tokens.startswith("class"):
            raise ValueError(
                f"exemplar.layer={self.layer}: {row.title} has no class token, and the head that takes its "
                "place sees the last layer only; use layer=-1, or tokens=patches or resampled"
            )
        return self

    @property
    def row(self) -> TowerRow:
        """The tower's row of `TOWERS`."""
        return TOWERS[self.encoder]


def check_tower(tower: ImageEncoderConfig, exemplar: ExemplarConfig) -> None:
    """Refuse a tower that its library would not build, or whose layers, patches or sizes do not exist.

    Raises:
        ValueError: with the values and what they must be.
    """
    title, side = exemplar.row.title, exemplar.size or tower.image_size
    if exemplar.row.class_token and side % tower.patch_size:  # SigLIP leaves a margin out
        name = "image_size" if exemplar.size is None else "exemplar.size"
        raise ValueError(f"{name}={side} is not a multiple of patch_size={tower.patch_size}")
    if -exemplar.layer > tower.num_hidden_layers:
        raise ValueError(
            f"exemplar.layer={exemplar.layer}: image_encoder has {tower.num_hidden_layers} layers, so the "
            f"first one is {-tower.num_hidden_layers}"
        )
    if exemplar.encoder == "dinov2" and tower.intermediate_size % tower.hidden_size:
        raise ValueError(
            f"image_encoder.intermediate_size={tower.intermediate_size} must be a multiple of "
            f"hidden_size={tower.hidden_size}: DINOv2's config says it as mlp_ratio"
        )
    if tower.use_swiglu_ffn and exemplar.encoder != "dinov2":
        raise ValueError(f"image_encoder.use_swiglu_ffn is DINOv2's; {title} has none: remove it")


# What a config.json of a CLIP vision tower may leave out: the defaults of transformers' `CLIPVisionConfig`.
CLIP_VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def read_clip_vision(folder: Path) -> ImageEncoderConfig:
    """The geometry of the CLIP vision tower in a folder of transformers: the tower's own, or a whole CLIP's.

    Raises:
        UserError: if it is not a folder of CLIP.
        UsageError: for values that are out of range.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder} has no config.json; give a folder of transformers with CLIP's vision tower, such as "
            "clip-vit-base-patch16"
        )
    whole = read_json(path)
    kind = whole.get("model_type", "clip_vision_model") if isinstance(whole, dict) else None
    if kind not in ("clip", "clip_vision_model"):
        raise UserError(f"{path} has model_type={kind}; give a folder with CLIP's vision tower")
    own = CLIP_VISION_DEFAULTS | whole.get("vision_config", whole)
    return build_config(ImageEncoderConfig, {name: own[name] for name in CLIP_VISION_DEFAULTS}, str(path))


def count_features(tower: ImageEncoderConfig, exemplar: ExemplarConfig) -> int:
    """Number of vectors that the tower gives for one exemplar."""
    patches = ((exemplar.size or tower.image_size) // tower.patch_size) ** 2
    if exemplar.tokens == "resampled":
        return patches + exemplar.row.class_token
    return {"class": 1, "patches": patches, "class+patches": patches + 1}[exemplar.tokens]


def count_tokens(tower: ImageEncoderConfig, exemplar: ExemplarConfig) -> int:
    """Number n of tokens that the UNet attends to."""
    return exemplar.queries if exemplar.tokens == "resampled" else count_features(tower, exemplar)
