"""Write model folders in diffusers' layout atomically, and read them back with strict checks.

The layout is that of the Hub's Paint by Example repository: `diffusers.PaintByExamplePipeline` loads it.
"""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from safetensors.torch import save_file
from torch import nn

from intarsia.architecture import (
    CONDITIONS,
    MAPS,
    ImageEncoderConfig,
    LowResConfig,
    ModelConfig,
    NoiseConfig,
    TextEncoderConfig,
    UNetConfig,
    VaeConfig,
)
from intarsia.config import Config, build_config
from intarsia.errors import UserError
from intarsia.files import atomic_folder, read_json, write_json
from intarsia.model import EditModel, empty_model
from intarsia.model_folder import (
    INDEX,
    NOTES,
    PAINT_BY_EXAMPLE,
    PIPELINES,
    TEXT_INPAINTING,
    TEXT_TO_IMAGE,
    card_words,
    check_model_folder,
    notes_of,
    read_notes,
)
from intarsia.pretrained import image_encoder_state, load_model_folder
from intarsia.towers.text import TEXT_TOWER, text_encoder_json
from intarsia.towers.tower import Tower

# Config values that do not affect results: a network's nominal size, a VAE's preferred precision.
_FREE_KEYS = {"sample_size", "force_upcast"}


def save_model(model: EditModel, folder: Path | str, card: str | None = None) -> None:
    """Write a model folder; an existing one is replaced only when the new one is complete.

    Args:
        model: model whose weights are written in their own dtype.
        folder: model folder to make.
        card: Markdown text of README.md; a short card by default.

    Raises:
        UsageError: if the folder exists and contains something other than a model.
    """
    with atomic_folder(folder, INDEX) as out:
        model.unet.save_pretrained(out / "unet")
        model.vae.save_pretrained(out / "vae")
        if "exemplar" in model.config.parts:
            _save_exemplar_encoder(model, out)
        if "text" in model.config.parts:
            _save_text_encoder(model, out)
        scheduler = _noise_scheduler(model.config.noise)
        scheduler.save_pretrained(out / "scheduler")
        write_json(out / INDEX, _index_json(type(scheduler).__name__, model.config))
        if notes := notes_of(model.config):
            write_json(out / NOTES, notes)
        for path in out.rglob("*.safetensors"):  # the writers make them readable only by their owner
            path.chmod(0o644)
        (out / "README.md").write_text(card or _default_card(model.config), encoding="utf-8")


def _save_exemplar_encoder(model: EditModel, out: Path) -> None:
    (out / "image_encoder").mkdir()
    state = image_encoder_state(model)
    save_file(state, out / "image_encoder" / "model.safetensors", metadata={"format": "pt"})
    write_json(out / "image_encoder" / "config.json", _image_encoder_json(model.config, model.tower))
    (out / "feature_extractor").mkdir()
    write_json(out / "feature_extractor" / "preprocessor_config.json", _preprocessor_json(model.config))


def _save_text_encoder(model: EditModel, out: Path) -> None:
    settings, tokenizer = model.config.text_encoder, model.tokenizer
    assert tokenizer is not None, "a model that is told text has a tokenizer"
    (out / "text_encoder").mkdir()
    state = TEXT_TOWER.in_folder(model.text_encoder)
    save_file(state, out / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    write_json(out / "text_encoder" / "config.json", text_encoder_json(settings, tokenizer))
    (out / "tokenizer").mkdir()
    tokenizer.save(out / "tokenizer", settings.max_position_embeddings)


def read_model(
    folder: Path | str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> EditModel:
    """Read a model folder, ours or one from the Hub, in evaluation mode.

    Args:
        folder: model folder in diffusers' layout (`model_index.json`, `unet/`, `vae/`, `image_encoder/`,
            `scheduler/`).
        device: device of the model.
        dtype: dtype of all weights.

    Raises:
        UserError: if it is not a model folder, its geometry is not supported, or any weight is missing,
            unexpected or of another shape.
    """
    folder = Path(folder)
    config = read_model_config(folder)
    model = empty_model(config)
    for part in ("unet", "vae"):
        _refuse_other_geometry(model.get_submodule(part), folder / part / "config.json")
    load_model_folder(model, folder)
    return model.to(device=device, dtype=dtype).eval()


def read_model_config(folder: Path | str) -> ModelConfig:
    """The geometry of a model folder, from its networks' config files.

    Raises:
        UserError: if it is not a model folder or its values do not make a valid model.
    """
    folder = Path(folder)
    check_model_folder(folder)
    name = read_json(folder / INDEX).get("_class_name")
    if name not in PIPELINES:
        raise UserError(f"{folder} contains a {name}, not an editing model ({', '.join(PIPELINES)})")
    notes = read_notes(folder)
    schemas: dict[str, type[Config]] = {"unet": UNetConfig, "vae": VaeConfig}
    row = CONDITIONS[notes.get("condition", "exemplar")]
    schemas |= {"image_encoder": ImageEncoderConfig} if row.module else {}
    schemas |= {"text_encoder": TextEncoderConfig} if row.text else {}
    files = {part: read_json(folder / part / "config.json") for part in schemas}
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    factor = 2 ** (len(files["vae"].get("block_out_channels", VaeConfig().block_out_channels)) - 1)
    # The channels of these are not in `UNetConfig.in_channels`.
    maps, low_res = notes.get("structure", {}).get("maps", ()), notes.get("low_res", {}).get("factor")
    more = sum(MAPS.get(name, 0) for name in maps)
    more += LowResConfig.channels(low_res, factor) if low_res else 0
    if more:
        files["unet"]["in_channels"] = files["unet"].get("in_channels", 4) - more
    latent_size = files["unet"].get("sample_size", 64)
    content = {
        **notes,
        "image_size": latent_size * factor if isinstance(latent_size, int) else 512,
        **{part: _known(files[part], schema) | notes.get(part, {}) for part, schema in schemas.items()},
        "noise": _known(scheduler, NoiseConfig),
    }
    return build_config(ModelConfig, content, where=str(folder))


def _known(content: dict[str, Any], schema: type[Config]) -> dict[str, Any]:
    return {name: content[name] for name in schema.model_fields if name in content}


def _refuse_other_geometry(network: nn.Module, path: Path) -> None:
    """Refuse a folder whose network has another value of an option that our config does not contain."""
    ours = json.loads(json.dumps(dict(network.config)))
    for name, value in read_json(path).items():
        if name.startswith("_") or name in _FREE_KEYS or name not in ours or ours[name] == value:
            continue
        raise UserError(f"{path}: {name}={value!r} is not supported, only {ours[name]!r} is")


def _noise_scheduler(noise: NoiseConfig) -> PNDMScheduler | DDIMScheduler:
    """The scheduler that is written into the folder: Paint by Example's PLMS under diffusers' name.

    PLMS divides by the signal that is left at the first step; if there is none, the folder has DDIM.
    """
    options = {**noise.model_dump(), "steps_offset": 1, "set_alpha_to_one": False}
    if noise.rescale_betas_zero_snr:
        return DDIMScheduler(**options, clip_sample=False)
    del options["rescale_betas_zero_snr"]
    return PNDMScheduler(**options, skip_prk_steps=True)


def _image_encoder_json(config: ModelConfig, tower: Tower) -> dict[str, Any]:
    """Config of the image tower with every field, because readers have different defaults."""
    return {
        "architectures": ["PaintByExampleImageEncoder"],
        "model_type": tower.model_type,
        **config.image_encoder.fields(),
        "projection_dim": config.unet.cross_attention_dim,  # width of the tokens (diffusers' name)
        **tower.more(config.image_encoder),
        "torch_dtype": "float32",
    }


def _preprocessor_json(config: ModelConfig) -> dict[str, Any]:
    """Config of transformers' `CLIPImageProcessor`, with a class name that versions 4 and 5 support."""
    size, row = config.exemplar_size, config.exemplar.row
    return {
        "image_processor_type": "CLIPImageProcessor",
        "feature_extractor_type": "CLIPFeatureExtractor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(row.mean),
        "image_std": list(row.deviation),
        "do_convert_rgb": True,
    }


def _index_json(scheduler: str, config: ModelConfig) -> dict[str, Any]:
    # diffusers' exemplar encoder makes one token of CLIP's class vector, and its UNets have the layouts of
    # their pipelines. It would read other folders, too, and leave what it does not know random or give wrong
    # pictures; with a name that it does not have, it refuses them.
    content: dict[str, Any] = {
        "_class_name": PAINT_BY_EXAMPLE,
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["paint_by_example", "PaintByExampleImageEncoder"],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if "text" in config.parts:
        content["text_encoder"] = ["transformers", "CLIPTextModel"]
        content["tokenizer"] = ["transformers", "CLIPTokenizer"]
    if "exemplar" not in config.parts:
        content["_class_name"] = TEXT_INPAINTING if config.extra_channels else TEXT_TO_IMAGE
        content["feature_extractor"] = content["image_encoder"] = [None, None]
    elif notes_of(config):
        content["image_encoder"] = ["intarsia", "ExemplarEncoder"]
    theirs = "pbe" if "exemplar" in config.parts else "sd"
    other_layout = config.extra_channels and config.unet.input_layout != theirs
    if other_layout or config.structure.maps or config.low_res or config.compose:
        content["unet"] = ["intarsia", "UNet"]
    return dict(sorted(content.items()))


def _seen_through(config: ModelConfig) -> str:
    title, tokens = config.exemplar.row.title, CONDITIONS[config.condition].num_tokens(config)
    return title if tokens == 1 else f"{title}, as {tokens} tokens ({config.exemplar.tokens})"


def _maps_line(config: ModelConfig) -> str:
    names = config.structure.maps
    return f"\n- structure, if wanted: {', '.join(names)} (`--structure`)" if names else ""


def _default_card(config: ModelConfig) -> str:
    words, size, told = card_words(config), config.exemplar_size, []
    if "exemplar" in config.parts:
        told.append(f"- exemplar: {size} x {size} pixels, through {_seen_through(config)}")
    if config.low_res:
        told.append(f"- low resolution: the whole picture, {config.low_res.factor} times smaller")
    if "text" in config.parts:
        most = config.text_encoder.max_position_embeddings - 2
        told.append(f"- prompt: at most {most} tokens, through CLIP's text tower")
    model = words.model("THIS_FOLDER")
    lines, kind = "\n".join(told), "exemplar-based" if "exemplar" in config.parts else "text-guided"
    return f"""---
pipeline_tag: image-to-image
tags: [{kind}-editing, inpainting, diffusers]
---
# An {words.kind}

Repaints the masked part of a picture so that it shows {words.shows}. Written by Intarsia.

- picture: {config.image_size} x {config.image_size} pixels; the edit mask is white where to repaint
{lines}{_maps_line(config)}

    python -m sampling edit {model} --image I.png --mask M.png {words.options} --out O.png
"""
