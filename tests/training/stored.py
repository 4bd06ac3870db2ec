"""`cache-latents` without Ray."""

import argparse
from pathlib import Path

import pytest
import torch

from dataprep.progress import Reporter
from training.commands import cache_latents, encode_shards
from training.commands.encode_shards import LatentJob, encode_shard, frozen_networks
from training.config import TrainConfig


def store(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """`cache-latents` with the workers in this process; the folder, and the shards that were encoded."""
    cpu = torch.device("cpu")
    model, encoded = frozen_networks(config, cpu)[0], []

    def here(jobs: list[LatentJob], config: TrainConfig, *_: object) -> object:
        for job in jobs:
            encode_shard(model, config, job, cpu)
            encoded.append(job.shard.name)
            kept = {"pictures": job.shard.count}
            yield {"shard": job.path.name, "samples": 0, "kept": kept, "rejected": {"pictures": {}}}

    monkeypatch.setattr(encode_shards, "encode_all", here)
    options = argparse.Namespace(
        shards=config.data.shards[0], batch_size=3, workers=1, ray_address=None, verbose=False
    )
    return cache_latents.cache_latents(options, config, Reporter()), encoded
