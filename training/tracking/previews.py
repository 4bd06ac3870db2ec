"""Edits of always the same samples with always the same noise, so that one sees the model learn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from intarsia.conditions.structure import trained_sources
from intarsia.files import atomic_path
from intarsia.model import EditModel
from intarsia.sample import Sample
from sampling.editing import EditRequest
from sampling.preview import preview_grid, upsampled_grid
from sampling.settings import EditSettings
from training.config import TrainConfig
from training.data.batches import RunDataset
from training.option_groups import PreviewConfig
from training.ranks.distributed import World
from training.run.state import RunFolder


def due_preview(config: TrainConfig, run: RunFolder, step: int, world: World) -> Path | None:
    """The file of the preview due after `step` steps; None if it exists, or none is due. Collective."""
    every = config.preview.every_steps
    if not every or (step % every and step != config.max_steps):
        return None
    path = run.previews / f"step-{step:08d}.png"
    return None if world.from_main(path.is_file()) else path


def fixed_requests(dataset: RunDataset, config: TrainConfig) -> list[EditRequest]:
    """Samples spread evenly over the shards, in the shards' order; the same ones in every call.

    The seed of each is its number, so the noise stays the same, too. None without previews.
    """
    num_images, parts = config.preview.num_images if config.preview.every_steps else 0, config.model.parts
    samples = fixed_samples(dataset, num_images)
    maps = dataset.mapped.structure.maps if dataset.mapped else ()
    return [
        EditRequest(
            image=sample.image,
            edit_mask=(sample.edit_mask >= 128).astype(np.float32),
            exemplar=sample.exemplar if "exemplar" in parts else None,
            seed=number,
            # An edit needs a prompt; a space is that of a sample without a label, which is empty.
            prompt=(dataset.item(sample, number).text or " ") if "text" in parts else "",
            structure=trained_sources(maps, sample.maps),
        )
        for number, sample in enumerate(samples)
    ]


def fixed_samples(dataset: RunDataset, number: int, places: Sequence[int] | None = None) -> list[Sample]:
    """`number` samples, or all, spread evenly over the shards, in the shards' order, as the shards have them.

    Args:
        dataset: dataset whose shards are read.
        number: number of samples in all.
        places: places among them; None = all.
    """
    return dataset.spread(number, places)


def write_preview(
    model: EditModel, requests: Sequence[EditRequest], config: PreviewConfig, path: Path
) -> None:
    """Edit the requests with the model's present weights and write the grid as PNG."""
    settings = EditSettings(
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        text_guidance_scale=config.text_guidance_scale,
        scheduler="ddim" if model.config.noise.rescale_betas_zero_snr else "plms",  # which cannot start there
    )
    if model.config.low_res:
        grid = upsampled_grid(model, requests, settings)
    else:
        grid = preview_grid(model, requests, settings, [request.image for request in requests])
    model.train()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        grid.save(temporary, format="PNG")
