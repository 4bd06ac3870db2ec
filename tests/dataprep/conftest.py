"""One Ray for all tests of this folder: starting one takes seconds."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dataprep.toy import make_coco
from tests.processes import starts_processes


@pytest.fixture(scope="session")
@starts_processes
def ray_with_two_workers() -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100_000_000,
        logging_level="ERROR",
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def toy_coco(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(annotations, images) of the toy data set; not to be changed by a test."""
    return make_coco(tmp_path_factory.mktemp("toy"))
