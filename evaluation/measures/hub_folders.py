"""Networks in folders of transformers, built of one file of weights and a config's named fields alone.

What else a folder holds (other files of weights, adapters, a dtype, quantization) decides nothing, so the
weights' hash and these fields say which network it is.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.measures.weights import fingerprint_weights
from intarsia.errors import UserError
from intarsia.files import sha256_bytes, sha256_file
from intarsia.pretrained import read_weights

Fields = Mapping[str, Any]

_TOWER = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
)
_CLIP_VISION = (*_TOWER, "num_channels", "patch_size", "image_size")
_CLIP_TEXT = (*_TOWER, "vocab_size", "max_position_embeddings", "eos_token_id")
_VIT = (*_TOWER, "num_channels", "patch_size", "image_size", "qkv_bias", "pooler_act", "pooler_output_size")
_DINO2 = (
    *(name for name in _TOWER if name != "intermediate_size"),
    *("num_channels", "patch_size", "image_size", "qkv_bias", "mlp_ratio", "use_swiglu_ffn"),
)
_LATER = {"pooler_act": "tanh"}  # fields that early versions of transformers do not have
_TOKENIZER = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
_ENDS = (2, 49407)  # OpenAI's configs name either; transformers finds the same end of the text by both
_PROBE = "a photo of a cat", (49406, 320, 1125, 539, 320, 2368, 49407)
# sha256 of its tokens in the order of their numbers
_VOCABULARY = "64b85eec9307ffac25105ea5c4a2f6538baa1728289342f6b9f2aba7a0bdc03a"


def _published_clip(vision: Sequence[int], text: Sequence[int], projection: int) -> dict[str, Any]:
    """Fields of a CLIP of OpenAI: width, inner width, layers, heads of both towers; then the patch's side."""
    same = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    *eyes, patch = vision
    return {
        "vision": dict(zip(_TOWER, eyes, strict=False))
        | same
        | {"num_channels": 3, "patch_size": patch, "image_size": 224},
        "text": dict(zip(_TOWER, text, strict=False))
        | same
        | {"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": _ENDS[0]},
        "projection_dim": projection,
    }


# The fields of the networks whose weights have a published hash.
PUBLISHED_CLIPS: dict[str, Fields] = {
    "clip-b32": _published_clip((768, 3072, 12, 12, 32), (512, 2048, 12, 8), 512),
    "clip-l14": _published_clip((1024, 4096, 24, 16, 14), (768, 3072, 12, 12), 768),
}


@dataclass(frozen=True)
class HubNetwork:
    """A network of transformers.

    Attributes:
        model: model, float32, in evaluation mode.
        fields: fields of its config that decide what it computes.
        missing: names of weights that the file does not have.
    """

    model: Any
    fields: Fields
    missing: tuple[str, ...]

    @property
    def weights(self) -> str:
        """Fingerprint of all weights."""
        return fingerprint_weights(self.model.state_dict())


def load_clip(folder: Path, file: Path) -> HubNetwork:
    """The CLIP model of a folder with `config.json`; `file`: its weights.

    Raises:
        UserError: if they cannot be read or lack weights.
    """
    _quiet()
    from transformers import CLIPConfig, CLIPModel

    found = _read_config(CLIPConfig, folder)
    fields = {
        "vision": _fields(found.vision_config, _CLIP_VISION),
        "text": _fields(found.text_config, _CLIP_TEXT),
        "projection_dim": found.projection_dim,
    }
    config = CLIPConfig(
        vision_config=dict(fields["vision"]),
        text_config=fields["text"] | _unused(found.text_config),
        projection_dim=fields["projection_dim"],
    )
    network = _load(CLIPModel, config, fields, folder, file)
    missing = [key for key in network.missing if not key.endswith("position_ids")]
    if missing:  # transformers would fill them with random numbers
        raise UserError(
            f"{folder} lacks {len(missing)} of CLIP's weights (first {missing[0]}); give a whole folder"
        )
    return network


def load_vision(name: str, folder: Path, file: Path) -> HubNetwork:
    """The DINOv2 (`dinov2-...`) or ViT of a folder with `config.json`; `file`: its weights.

    A ViT may lack the weights of its pooler.

    Raises:
        UserError: if they cannot be read or lack weights.
    """
    _quiet()
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    second = name.startswith("dinov2")
    kind, of_config = (Dinov2Model, Dinov2Config) if second else (ViTModel, ViTConfig)
    fields = _fields(_read_config(of_config, folder), _DINO2 if second else _VIT)
    network = _load(kind, of_config(**fields), fields, folder, file)
    missing = [key for key in network.missing if not key.startswith("pooler.")]
    if missing:  # transformers would fill them with random numbers
        raise UserError(f"{folder} lacks {len(missing)} weights (first {missing[0]}); give a whole folder")
    return network


def fingerprint_network(*parts: object) -> str:
    """12 hexadecimal digits of weights' fingerprint, config fields and hashes of files."""
    return sha256_bytes(json.dumps(parts, sort_keys=True).encode())[:12]


def is_published_clip(name: str, fields: Fields, folder: Path) -> bool:
    """Whether config fields and tokenizer are those of OpenAI's CLIP called `name`.

    A folder without a tokenizer cannot read texts, so it does not matter.
    """
    if name not in PUBLISHED_CLIPS:
        return False
    text = dict(fields["text"])
    if text["eos_token_id"] in _ENDS:
        text["eos_token_id"] = _ENDS[0]
    if {**fields, "text": text} != PUBLISHED_CLIPS[name]:
        return False
    return not tokenizer_files(folder) or _is_published_tokenizer(folder)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that decide how texts become tokens."""
    return [folder / name for name in _TOKENIZER if (folder / name).is_file()]


def hash_files(files: Sequence[Path]) -> dict[str, str]:
    """Name -> sha256 of the content."""
    return {file.name: sha256_file(file) for file in files}


def read_tokens(folder: Path, descriptions: Sequence[str], longest: int) -> Any:
    """Descriptions as CLIP's tokens, cut at `longest`: a tokenizer without its config would not cut them.

    Raises:
        UserError: if the tokenizer's files are missing or damaged.
    """
    try:
        return _tokenizer(folder)(
            list(descriptions), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - its library raises plain exceptions for damaged files
        raise _broken_tokenizer(folder, error) from None


def vocabulary_hash(vocabulary: Mapping[str, int]) -> str:
    """sha256 of tokens in the order of their numbers."""
    ordered = sorted(vocabulary.items(), key=lambda item: item[1])
    return sha256_bytes(json.dumps(ordered).encode())


def _is_published_tokenizer(folder: Path) -> bool:
    text, wanted = _PROBE
    try:
        tokenizer = _tokenizer(folder)
        return tuple(tokenizer(text)["input_ids"]) == wanted and (
            vocabulary_hash(tokenizer.get_vocab()) == _VOCABULARY
        )
    except Exception:  # noqa: BLE001 - reading texts names what is wrong
        return False


def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    parts = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    if not (parts or (folder / "tokenizer.json").is_file()):
        raise UserError(f"{folder} has no tokenizer (vocab.json and merges.txt); give a whole folder of CLIP")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - its library raises plain exceptions for damaged files
        raise _broken_tokenizer(folder, error) from None


def _broken_tokenizer(folder: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{folder}: the tokenizer cannot be read ({reason[:200]}); give a whole folder of CLIP")


def _quiet() -> None:
    import torch

    if not torch.cuda.is_available():  # transformers imports an installed DeepSpeed, which remarks on it
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _fields(config: Any, names: Sequence[str]) -> dict[str, Any]:
    found = {name: getattr(config, name, _LATER.get(name)) for name in names}
    if "pooler_output_size" in found:
        found["pooler_output_size"] = found["pooler_output_size"] or found["hidden_size"]
    return found


def _unused(config: Any) -> dict[str, Any]:
    """Tokens that only text generation reads; transformers remarks on those outside of the vocabulary."""
    return {name: getattr(config, name, None) for name in ("bos_token_id", "pad_token_id")}


def _read_config(kind: Any, folder: Path) -> Any:
    try:
        content, _ = kind.get_config_dict(folder, local_files_only=True)
        other = content.get("model_type", kind.model_type)
        found = kind.from_dict(content) if other == kind.model_type else None
    except Exception as error:  # noqa: BLE001 - its libraries raise exceptions of their own for wrong values
        raise _unreadable(folder, error) from None
    if found is None:
        raise UserError(f"{folder} has a network of the type {other}; give one of the type {kind.model_type}")
    return found


def _load(kind: Any, config: Any, fields: Fields, folder: Path, file: Path) -> HubNetwork:
    from transformers.utils import logging as remarks

    state = {
        key: value.float() if value.is_floating_point() else value
        for key, value in read_weights(file).items()
    }
    level = remarks.get_verbosity()
    remarks.set_verbosity_error()  # its table of weights that are missing; those that matter are refused
    try:
        model, report = kind.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(folder, error) from None
    finally:
        remarks.set_verbosity(level)
    return HubNetwork(model.float().eval(), fields, tuple(report["missing_keys"]))


def _unreadable(folder: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{folder} cannot be read as a folder of transformers: {reason}")
