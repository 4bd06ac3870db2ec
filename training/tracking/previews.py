"""Edits of always the same samples with always the same noise, so that one sees the model learn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from intarsia.conditions.structure import trained_sources
from intarsia.files import atomic_path
from intarsia.model import EditModel
from intarsia.sample import Sample
from sampling.canvas.edits import EditRequest, EditResult
from sampling.canvas.sheets import grid_of_ways
from sampling.preview import preview_edits
from sampling.settings import EditSettings
from training.config import TrainConfig
from training.data.batches import RunDataset
from training.option_groups import PreviewConfig
from training.ranks.distributed import World
from training.run.state import RunFolder


@dataclass(frozen=True)
class PreviewRequest(EditRequest):
    """An edit of a sample of the shards.

    Attributes:
        key: the sample's key.
    """

    key: str = ""


def due_preview(config: TrainConfig, run: RunFolder, step: int, world: World) -> Path | None:
    """The file of the preview due after `step` steps; None if it exists, or none is due. Collective."""
    every = config.preview.every_steps
    if not every or (step % every and step != config.max_steps):
        return None
    path = run.previews / f"step-{step:08d}.png"
    return None if world.from_main(path.is_file()) else path


def fixed_requests(dataset: RunDataset, config: TrainConfig) -> list[PreviewRequest]:
    """Samples spread evenly over the shards, in the shards' order; the same ones in every call.

    The seed of each is its number, so the noise stays the same, too. None without previews.
    """
    num_images, parts = config.preview.num_images if config.preview.every_steps else 0, config.model.parts
    samples = fixed_samples(dataset, num_images)
    maps = dataset.mapped.structure.maps if dataset.mapped else ()
    return [
        PreviewRequest(
            key=sample.meta.key,
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
) -> dict[str, list[EditResult]]:
    """Edit the requests with the model's present weights and write the grid as PNG.

    Returns:
        Title of each way to edit them -> the results.
    """
    settings = EditSettings(
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        text_guidance_scale=config.text_guidance_scale,
        scheduler="ddim" if model.config.noise.rescale_betas_zero_snr else "plms",  # which cannot start there
    )
    edits = preview_edits(model, requests, settings)
    grid = grid_of_ways(edits, requests, [request.image for request in requests])
    model.train()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        grid.save(temporary, format="PNG")
    return edits


def preview_table(edits: Mapping[str, Sequence[EditResult]]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a preview: key, picture, mask (255 = repaint), exemplar, edits, prompt."""
    requests = [result.request for result in next(iter(edits.values()))]
    columns = ["key", "picture", "mask", "exemplar", *edits, "prompt"]
    rows = [
        [
            getattr(request, "key", ""),
            request.image,
            (np.asarray(request.edit_mask) * 255).astype(np.uint8),
            request.exemplar,
            *(results[number].image for results in edits.values()),
            request.prompt,
        ]
        for number, request in enumerate(requests)
    ]
    return columns, rows
