"""Painters that are pipelines of diffusers: a folder or a single file of Stable Diffusion, told a prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from intarsia.errors import UsageError, UserError
from intarsia.files import fingerprint, read_json, sha256_file
from intarsia.model_folder import INDEX, model_hash
from sampling.painters.each import Taking
from sampling.painters.painter import Paint, Painter
from sampling.settings import CANVAS_SETTINGS, EditSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sampling.canvas.edits import EditRequest, EditResult
    from sampling.denoise.sampler import OnStep
    from sampling.pictures import Picture
    from sampling.settings import MachineSettings

SINGLE_FILES = (".safetensors", ".ckpt")
_OWN_SCHEDULER = EditSettings().scheduler  # asks for the scheduler that the folder has
_USES = ("num_inference_steps", "text_guidance_scale", "scheduler", "karras", "eta")
_MACHINE = ("dtype", "low_vram")
_TOLD: Mapping[str, Any] = {"safety_checker": None, "requires_safety_checker": False}


@dataclass(frozen=True)
class PipelineRow:
    """One painter of a pipeline.

    Attributes:
        name: name of the painter.
        pipeline: class of diffusers.
        takes: classes that a folder may name in its `model_index.json`.
        weights: usual names below `--model-dir`.
        single_file: further arguments of `from_single_file`.
        arguments: function (picture, mask, side) -> arguments of the call that only this pipeline has; the
            pictures are squares of that side.
    """

    name: str
    pipeline: str
    takes: tuple[str, ...]
    weights: tuple[str, ...]
    arguments: Callable[[Image.Image, Image.Image, int], Mapping[str, Any]]
    single_file: Mapping[str, Any]


def inpainting_painter(name: str, weights: tuple[str, ...]) -> Painter:
    """The painter of Stable Diffusion's inpainting model.

    Args:
        name: name of the painter.
        weights: usual names below `--model-dir`.
    """

    def arguments(image: Image.Image, mask: Image.Image, side: int) -> Mapping[str, Any]:
        return {"image": image, "mask_image": mask, "strength": 1.0, "height": side, "width": side}

    return pipeline_painter(
        PipelineRow(
            name,
            "StableDiffusionInpaintPipeline",
            ("StableDiffusionInpaintPipeline", "StableDiffusionPipeline"),
            weights,
            arguments,
            {"num_in_channels": 9},
        )
    )


def pipeline_painter(row: PipelineRow) -> Painter:
    """The painter of a row."""
    return Painter(
        check=lambda model: _check(row, model),
        open=lambda model, machine: _open(row, model, machine),
        fingerprint=lambda model: _fingerprint(row, model),
        parts=lambda model: ("text",),
        uses=lambda model: (*_USES, *CANVAS_SETTINGS, "seed"),
        weights=row.weights,
        machine=_MACHINE,
    )


def _named(row: PipelineRow, model: Path | None) -> Path:
    if model is None:
        raise UsageError(
            f"{row.name} needs its weights: give --model {row.name}:PATH, a folder in diffusers' layout or a "
            f"single file, or --model-dir DIR with {row.weights[0]} in it"
        )
    return model


def _configs(row: PipelineRow, file: Path) -> Path:
    """The folder with the configs and the tokenizer that a single file lacks."""
    places = [file.with_suffix(""), file.parent]
    found = next((place for place in places if (place / INDEX).is_file()), None)
    if found is None:
        raise UserError(
            f"{file} has weights only: put the configs and the tokenizer of {row.name}'s folder ({INDEX} and "
            f"the folders beside it, no weights) into {places[0]}"
        )
    return found


def _check(row: PipelineRow, model: Path | None) -> None:
    path = _named(row, model)
    if path.is_file() and path.suffix.lower() not in SINGLE_FILES:
        raise UserError(
            f"{path} must end in {' or '.join(SINGLE_FILES)}, or be a folder in diffusers' layout"
        )
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder in diffusers' layout, or a single file")
    folder = _configs(row, path) if path.is_file() else path
    if not (folder / INDEX).is_file():
        raise UserError(f"{path} is not a folder in diffusers' layout: it has no {INDEX}")
    kind = read_json(folder / INDEX).get("_class_name")
    if kind not in row.takes:
        raise UserError(f"{folder} is for {kind}; {row.name} needs one for {' or '.join(row.takes)}")


def _fingerprint(row: PipelineRow, model: Path | None) -> str:
    path = _named(row, model)
    if path.is_dir():
        return model_hash(path)
    folder = _configs(row, path)
    configs = sorted(file for file in folder.rglob("*") if file.suffix in (".json", ".txt"))
    return fingerprint([sha256_file(path), [sha256_file(file) for file in configs]])


def _open(row: PipelineRow, model: Path | None, machine: MachineSettings) -> Paint:
    from sampling.denoise.device import pick_device, pick_dtype

    device = pick_device(machine.device)
    pipeline = _loaded(row, _named(row, model), pick_dtype(machine.dtype, device))
    pipeline.set_progress_bar_config(disable=True)
    if machine.low_vram and device.type != "cpu":
        pipeline.enable_model_cpu_offload(device=device)
        pipeline.vae.enable_slicing()
        pipeline.vae.enable_tiling()
    else:
        pipeline.to(device)
    return _painting(row, pipeline)


def _loaded(row: PipelineRow, path: Path, dtype: Any) -> Any:
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    kind = getattr(diffusers, row.pipeline)
    try:
        if path.is_dir():
            return kind.from_pretrained(path, torch_dtype=dtype, local_files_only=True, **_TOLD)
        configs = str(_configs(row, path))
        options = {"config": configs, "torch_dtype": dtype, "local_files_only": True, **row.single_file}
        return kind.from_single_file(str(path), **options, **_TOLD)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]
        raise UserError(f"{path} cannot be loaded as diffusers' {row.pipeline} ({first})") from None


def _painting(row: PipelineRow, pipeline: Any) -> Paint:
    taking, own = Taking(row.name, ("text",), (*_USES, *CANVAS_SETTINGS)), pipeline.scheduler
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor

    def paint(
        requests: Sequence[EditRequest], settings: EditSettings, on_step: OnStep | None = None
    ) -> list[EditResult]:
        results = []
        for number, request in enumerate(requests):

            def call(image: Image.Image, mask: Image.Image, done: int = number) -> Picture:
                with _scheduler(pipeline, own, settings):
                    asked = _asked(requests[done], settings)
                    if on_step:
                        asked["callback_on_step_end"] = _reporting(on_step, done, len(requests))
                    painted = pipeline(**asked, **row.arguments(image, mask, side)).images[0]
                return (painted * 255).round().astype(np.uint8)

            results.append(_on_square(taking, side, call, request, settings))
        return results

    return paint


def _asked(request: EditRequest, settings: EditSettings) -> dict[str, Any]:
    """The arguments that all pipelines have; noise from the request's own seed, drawn on the CPU."""
    import torch

    return {
        "prompt": request.prompt,
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": request.own_settings(settings).text_guidance_scale,
        "eta": settings.eta,
        "generator": torch.Generator().manual_seed(request.seed),
        "output_type": "np",
    }


def _reporting(on_step: OnStep, done: int, number: int) -> Callable[..., dict]:
    """A callback of diffusers that reports the steps of all pictures."""

    def report(pipeline: Any, step: int, timestep: Any, tensors: dict) -> dict:
        steps = pipeline.num_timesteps
        on_step(done * steps + step + 1, number * steps)
        return tensors

    return report


@contextmanager
def _scheduler(pipeline: Any, own: Any, settings: EditSettings) -> Iterator[None]:
    """The scheduler that the settings ask for, with the noise levels of the pipeline's own."""
    from sampling.samplers import SAMPLERS

    if settings.scheduler != _OWN_SCHEDULER:
        import diffusers

        row = SAMPLERS[settings.scheduler]
        karras = {"use_karras_sigmas": settings.karras} if row.karras else {}
        levels = {name: value for name, value in own.config.items() if not name.startswith("_")}
        pipeline.scheduler = getattr(diffusers, row.scheduler).from_config(levels, **row.options, **karras)
    try:
        yield
    finally:
        pipeline.scheduler = own


def _on_square(
    taking: Taking,
    side: int,
    call: Callable[[Image.Image, Image.Image], NDArray[np.uint8]],
    request: EditRequest,
    settings: EditSettings,
) -> EditResult:
    """Fit a request to the pipeline's square, paint, and put the square back, as `edit` does."""
    from sampling.canvas.canvas import check_mask, lay_canvas
    from sampling.canvas.edits import EditResult
    from sampling.canvas.remarks import after_painting, before_painting
    from sampling.canvas.seam import colour_shift, known_ring, match_ring

    taking.check(request)
    start, mask = time.perf_counter(), check_mask(request.edit_mask, request.image)
    canvas = lay_canvas(mask, side, settings)
    image, fitted = canvas.fit_image(request.image), canvas.fit_mask(mask)
    edited = call(Image.fromarray(image), Image.fromarray(fitted))
    ring = known_ring(fitted)
    matched = match_ring(edited, image, ring, settings.match_colour)
    shown = canvas.paste_back(matched, request.image, mask if settings.composite else None, settings.blend)
    remarks = [
        *taking.without_effect(request, settings),
        *before_painting(canvas, mask, fitted, None, settings),
        *after_painting(edited, image, fitted),
    ]
    shift, seconds = colour_shift(edited, image, ring), {"paint": time.perf_counter() - start}
    return EditResult(shown, request, settings, tuple(remarks), canvas.window, shift, seconds)
