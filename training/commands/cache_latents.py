"""`python -m training cache-latents`: what the frozen networks make of a shard folder, computed once."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dataprep.progress import Progress, Reporter, metered
from intarsia.command_line import Parser
from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.files import locked, read_json, sweep_temporaries, write_json
from training.config import TrainConfig, require_weights
from training.data.shards import Shard, check_size, find_shards

if TYPE_CHECKING:
    from training.commands.encode_shards import LatentJob

_EPILOG = """example:
  python -m training cache-latents shards configs/train/pbe-sd14.yaml model.init.stable_diffusion=SD14 \\
      model.init.image_encoder=CLIP precision=bf16
  python -m training configs/train/pbe-sd14.yaml ... data.shards=shards data.latents=true

Latents and CLIP vectors go to SHARDS/latents-HASH. The same command again does what is missing."""


def command(argv: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = Parser(
        prog="python -m training cache-latents",
        description="Store what autoencoder and CLIP make of each sample, for runs with data.latents=true.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", metavar="SHARDS", help="a finished shard folder on this machine")
    parser.add_argument("config", metavar="CONFIG", help="YAML file of the training run")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="a value by its dotted key")
    parser.add_argument("--workers", type=int, help="processes; default: one for each GPU, or CPU")
    parser.add_argument("--batch-size", type=int, default=16, help="samples at once (default 16)")
    parser.add_argument("--ray-address", help="of a running Ray cluster that sees the same folders")
    parser.add_argument("-v", "--verbose", action="store_true", help="let Ray and its workers speak")
    options = parser.parse_intermixed_args(argv)
    if options.batch_size < 1 or (options.workers or 1) < 1:
        raise UsageError("--batch-size and --workers must be 1 or more")
    config = load_config(TrainConfig, options.config, options.overrides)
    reporter = Reporter()
    try:
        folder = cache_latents(options, config, reporter)
    finally:
        reporter.close()
    sys.stderr.write(f"latents: {folder}\nnext: train with data.shards={options.shards} data.latents=true\n")
    return 0


def cache_latents(options: argparse.Namespace, config: TrainConfig, report: Reporter) -> Path:
    """Store whatever is missing; the folder of the latents.

    Raises:
        UserError: for shards that cannot be used, a folder in which the same is running, a full disk.
    """
    require_weights(config.model)
    shards = find_shards([options.shards])
    check_size(shards, config.model.image_size)
    if shards[0].is_remote:
        raise UsageError(
            f"{options.shards}: latents are stored beside the shards, so give a folder of this machine; "
            "the latents-… folder made there can be uploaded beside the remote shards"
        )
    from training.commands.encode_shards import LatentJob, frozen_networks, is_complete
    from training.data.latents import MANIFEST, check_redraw, latents_folder

    check_redraw(shards, config.data.redraw)
    import torch

    _, digest = frozen_networks(config, torch.device("cpu"))
    folder = Path(latents_folder(options.shards, digest)).resolve()
    jobs = [
        LatentJob(_resolved(shard), str(folder), digest, options.batch_size)
        for shard in shards
        if shard.count
    ]
    try:
        folder.mkdir(exist_ok=True)
        with locked(folder / ".lock", f"another cache-latents is running in {folder}; wait for it"):
            _sweep(folder)
            missing = [job for job in jobs if not is_complete(job)]
            if missing or not (folder / MANIFEST).is_file():
                (folder / MANIFEST).unlink(missing_ok=True)
                _encode(jobs, missing, config, options, report)
                _sweep(folder)
                write_json(folder / MANIFEST, _manifest(jobs, config, digest))
    except OSError as error:
        raise UserError(
            f"storing latents stopped: {error}; those so far stay, run the same command again"
        ) from error
    return folder


def _resolved(shard: Shard) -> Shard:
    return replace(shard, folder=str(Path(shard.folder).resolve()))


def _sweep(folder: Path) -> None:
    """Remove what killed workers left."""
    sweep_temporaries(folder)
    for journal in folder.glob(".*.journal"):
        journal.unlink(missing_ok=True)


def _encode(
    jobs: "list[LatentJob]",
    missing: "list[LatentJob]",
    config: TrainConfig,
    options: argparse.Namespace,
    report: Reporter,
) -> None:
    from training.commands.encode_shards import encode_all

    samples = sum(job.shard.count for job in missing)
    start = Progress(len(jobs) - len(missing), len(jobs), 0, samples)
    if missing:
        with metered(Path(missing[0].folder), start, report) as meter:
            for done in encode_all(missing, config, options.workers, options.ray_address, options.verbose):
                meter.finish(done)


def _manifest(jobs: "list[LatentJob]", config: TrainConfig, digest: str) -> dict[str, object]:
    from training.data.latents import FORMAT_VERSION

    return {
        "format_version": FORMAT_VERSION,
        "model": digest,
        "image_size": config.model.image_size,
        "precision": config.precision,
        "shards": [read_json(job.sidecar) for job in jobs],
    }
