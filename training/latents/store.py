"""Store the missing latents of a shard folder, one shard per worker."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dataprep.progress import BuildProgress, Reporter, metered
from intarsia.errors import UsageError, UserError
from intarsia.files import locked, read_json, sweep_temporaries, write_json
from training.config import TrainConfig, require_weights, stores_features
from training.data.shards import Shard, check_size, find_shards

if TYPE_CHECKING:
    from training.latents.encode_shards import LatentJob


@dataclass(frozen=True)
class Workers:
    """The processes that encode.

    Attributes:
        number: processes; None = one for each GPU, or CPU.
        batch_size: number of samples that the networks process at once.
        ray_address: address of a running Ray cluster that sees the same folders; None = a local Ray.
        verbose: whether Ray and its workers print.
    """

    number: int | None = None
    batch_size: int = 16
    ray_address: str | None = None
    verbose: bool = False


def cache_latents(shard_folder: str, config: TrainConfig, how: Workers, report: Reporter) -> Path:
    """Store the missing latents.

    Args:
        shard_folder: finished shard folder on this machine.
        config: training config; its frozen networks encode.
        how: number and kind of the workers.
        report: receiver of the progress.

    Returns:
        The folder of the latents.

    Raises:
        UserError: for shards that cannot be used, if the same command is running in the folder, or if the
            disk is full.
    """
    require_weights(config.model)
    shards = find_shards([shard_folder])
    check_size(shards, config.model.image_size)
    if shards[0].is_remote:
        raise UsageError(
            f"{shard_folder}: latents are stored next to the shards, so give a folder of this machine; "
            "then upload its latents-… folder next to the remote shards"
        )
    from training.data.latents import LATENTS_MANIFEST, check_redraw, latents_folder
    from training.latents.encode_shards import LatentJob, frozen_networks, has_latents

    check_redraw(shards, config.data)
    import torch

    _, digest = frozen_networks(config, torch.device("cpu"))
    folder = Path(latents_folder(shard_folder, digest)).resolve()
    one = "exemplar" in config.model.parts and config.model.exemplar.tokens == "class"
    tokens = None if one else config.data.stored_tokens
    jobs = [
        LatentJob(_resolved(shard), str(folder), digest, how.batch_size, tokens)
        for shard in shards
        if shard.count
    ]
    try:
        folder.mkdir(exist_ok=True)
        with locked(folder / ".lock", f"another cache-latents is running in {folder}; wait for it"):
            _sweep(folder)
            missing = [job for job in jobs if not has_latents(job)]
            if missing or not (folder / LATENTS_MANIFEST).is_file():
                (folder / LATENTS_MANIFEST).unlink(missing_ok=True)
                _encode(jobs, missing, config, how, report)
                _sweep(folder)
                write_json(folder / LATENTS_MANIFEST, _manifest(jobs, config, digest))
    except OSError as error:
        raise UserError(
            f"storing latents stopped: {error}; finished latents are kept, run the same command again"
        ) from error
    return folder


def bytes_per_sample(config: TrainConfig) -> dict[str, int]:
    """Bytes per sample: `latents` (both pictures and the mask) and `features` (of the exemplar)."""
    from math import prod

    from intarsia.conditions.condition import condition_kind

    model, cells, features = config.model, config.model.latent_size**2, 0
    if stores_features(config):
        shape = condition_kind(model).feature_shape(model)
        features = prod(shape) * (4 if model.exemplar.tokens == "class" else 2)
    return {"latents": 8 * model.vae.latent_channels * cells + 4 * cells, "features": features}


def _resolved(shard: Shard) -> Shard:
    return replace(shard, folder=str(Path(shard.folder).resolve()))


def _sweep(folder: Path) -> None:
    """Remove the files that killed workers left."""
    sweep_temporaries(folder)
    for journal in folder.glob(".*.journal"):
        journal.unlink(missing_ok=True)


def _encode(
    jobs: "list[LatentJob]",
    missing: "list[LatentJob]",
    config: TrainConfig,
    how: Workers,
    report: Reporter,
) -> None:
    from training.latents.encode_shards import encode_all

    samples = sum(job.shard.count for job in missing)
    start = BuildProgress(len(jobs) - len(missing), len(jobs), 0, samples)
    if missing:
        with metered(Path(missing[0].folder), start, report) as meter:
            for done in encode_all(missing, config, how.number, how.ray_address, how.verbose):
                meter.finish(done)


def _manifest(jobs: "list[LatentJob]", config: TrainConfig, digest: str) -> dict[str, object]:
    from training.data.latents import LATENTS_VERSION

    return {
        "format_version": LATENTS_VERSION,
        "model": digest,
        "image_size": config.model.image_size,
        "precision": config.precision,
        "shards": [read_json(job.sidecar) for job in jobs],
    }
