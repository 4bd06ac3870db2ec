"""`python -m training cache-latents`: the frozen networks' results on a shard folder, computed once."""

import argparse
import sys

from intarsia.command_line import Commands, intermixed
from intarsia.errors import UsageError

_EPILOG = """example:
  python -m training cache-latents shards configs/train/pbe-sd14.yaml model.init.stable_diffusion=SD14 \\
      model.init.image_encoder=CLIP precision=bf16
  python -m training configs/train/pbe-sd14.yaml ... data.shards=shards data.latents=true

Latents and exemplars' vectors go to SHARDS/latents-HASH. The same command again adds what is missing."""


def add(commands: Commands) -> None:
    """Declare `cache-latents`."""
    parser = commands.add_parser(
        "cache-latents",
        help="store the results of autoencoder and image encoder on each sample, for faster training",
        description="Store the results of autoencoder and image encoder on each sample, for "
        "data.latents=true.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        read=intermixed,
    )
    parser.add_argument("shards", metavar="SHARDS", help="finished shard folder on this machine")
    parser.add_argument("config", metavar="CONFIG", help="YAML file of the training run")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="value of a dotted key")
    parser.add_argument("--workers", type=int, help="number of processes (default: one for each GPU, or CPU)")
    parser.add_argument("--batch-size", type=int, default=16, help="samples of a batch (default 16)")
    parser.add_argument("--ray-address", help="address of a running Ray cluster that sees the same folders")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print the output of Ray and its workers"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.batch_size < 1 or (arguments.workers or 1) < 1:
        raise UsageError("--batch-size and --workers must be 1 or more")
    from dataprep.progress import Reporter
    from intarsia.config import load_config
    from training.config import TrainConfig
    from training.latents.store import Workers, bytes_per_sample, cache_latents

    config = load_config(TrainConfig, arguments.config, arguments.overrides)
    print(_size(bytes_per_sample(config), config.model.num_tokens), file=sys.stderr)
    how = Workers(arguments.workers, arguments.batch_size, arguments.ray_address, arguments.verbose)
    reporter = Reporter()
    try:
        folder = cache_latents(arguments.shards, config, how, reporter)
    finally:
        reporter.close()
    print(f"latents: {folder}", file=sys.stderr)
    tokens = " data.stored_tokens=true" if config.data.stored_tokens else ""
    print(f"next: train with data.shards={arguments.shards} data.latents=true{tokens}", file=sys.stderr)


def _size(parts: dict[str, int], tokens: int) -> str:
    latents, features = (parts[name] / 1e3 for name in ("latents", "features"))
    if tokens == 1:
        return f"{latents + features:,.0f} KB per sample"
    if features:
        return f"{latents + features:,.0f} KB per sample, {features:,.0f} KB of them the exemplar's tokens"
    return (
        f"{latents:,.0f} KB per sample, without the exemplar's tokens: training asks the image "
        "encoder for them (data.stored_tokens=true stores them)"
    )
