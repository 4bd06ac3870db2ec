"""`cache-latents` without Ray."""

from pathlib import Path

import pytest
import torch

from dataprep.progress import Reporter
from training.config import TrainConfig
from training.latents import encode_shards
from training.latents.encode_shards import LatentJob, encode_shard, frozen_networks
from training.latents.store import Workers, cache_latents


def store(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """`cache-latents` with the workers in this process; the folder, and the shards that were encoded."""
    encoded = encode_here(config, monkeypatch)
    return cache_latents(config.data.shards[0], config, Workers(1, batch_size=3), Reporter()), encoded


def encode_here(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let this process do what Ray's workers would; the shards that are encoded, in their order."""
    cpu = torch.device("cpu")
    model, encoded = frozen_networks(config, cpu)[0], []

    def here(jobs: list[LatentJob], config: TrainConfig, *_: object) -> object:
        for job in jobs:
            encode_shard(model, config, job, cpu)
            encoded.append(job.shard.name)
            kept = {"pictures": job.shard.count}
            yield {"shard": job.path.name, "samples": 0, "kept": kept, "rejected": {"pictures": {}}}

    monkeypatch.setattr(encode_shards, "encode_all", here)
    return encoded
