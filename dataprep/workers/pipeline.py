"""The Ray Data graph: one task for each pending shard, which returns only a row of statistics."""

import json
import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dataprep.shards.build_shard import ShardJob
from dataprep.shards.journal import STARTS, journal_path
from intarsia.errors import UserError

CONNECT_S = 10.0  # that a running Ray may take to answer
OBJECT_STORE_BYTES = 100_000_000  # rows of statistics pass through it, never pictures


def run_shards_here(
    jobs: list[ShardJob],
    workers: int | None,
    address: str | None,
    verbose: bool,
    up: Callable[[], object] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """`apart.run_shards` with Ray in this process; `up` is called once a first worker runs."""
    workers = min(workers or len(os.sched_getaffinity(0)), len(jobs))  # Ray starts a process for each at once
    with ray_running(workers, address, verbose):
        # A worker that cannot start would otherwise be replaced for ever.
        _await_worker()
        up()
        for row in _run(jobs, verbose):
            report = json.loads(row["report"])
            if "error" in report:
                raise UserError(
                    f"building stopped: {report['error']}; the shards so far are kept, run the same "
                    "command again"
                )
            yield report


@contextmanager
def ray_running(workers: int | None, address: str | None, verbose: bool) -> Iterator[Any]:
    """Ray in this process, started if it does not run yet, for the arguments of `apart.run_shards`.

    Raises:
        UserError: if it does not start, or stops inside the block.
    """
    _quiet_environment(address)
    import ray

    started = not ray.is_initialized()
    if started:  # a Ray that ran before is not shut down
        _start(workers, address, verbose)
    try:
        yield ray
    except ray.exceptions.RayError as error:
        text = str(getattr(error, "cause", None) or error).strip().splitlines()[0]
        raise UserError(f"Ray stopped: {text}; run the same command again, or with --debug") from error
    finally:
        if started:
            ray.shutdown()


def _await_worker() -> None:
    """Wait until one worker runs; if each one dies, Ray would start others without end."""
    import ray

    @ray.remote(num_cpus=0, max_retries=STARTS)
    def come_up() -> None:
        import dataprep.shards.build_shard  # noqa: F401 - what a worker imports must not kill it

    first = come_up.remote()
    import ray.data  # takes seconds, in which the worker starts

    try:
        ray.get(first)
    except ray.exceptions.WorkerCrashedError:
        raise UserError(
            f"{STARTS + 1} workers of Ray died at their start, before any shard was begun; run with -v to "
            "see what they print"
        ) from None


def _run(jobs: list[ShardJob], verbose: bool) -> Iterator[dict[str, str]]:
    from ray import cloudpickle

    data = quiet_data(verbose)
    rows = [  # a worker unpacks its job itself, after it has noted its start
        {
            "journal": str(journal_path(job.folder, job.config, job.shard)),
            "shard": job.config.shard_name(job.shard),
            "job": cloudpickle.dumps(job),
        }
        for job in jobs
    ]

    def build(row: dict[str, Any]) -> dict[str, str]:
        from dataprep.shards.journal import note_start

        try:
            # Before all other imports: one of them may be what kills the worker.
            note_start(row["journal"], row["shard"])
            from dataprep.shards.build_shard import build_shard

            stats = build_shard(pickle.loads(row["job"]))
        except (OSError, UserError) as error:  # an exception would come out of Ray as pages of traceback
            return {"report": json.dumps({"error": str(error)})}
        # The rest of the sidecar is on the disk: hashes and rejects of millions of pictures stay there.
        return {
            "report": json.dumps({name: stats[name] for name in ("shard", "samples", "kept", "rejected")})
        }

    # Ray gives a dead worker's task to another one without limit; the shard's journal sets the limit.
    yield from data.from_items(rows, override_num_blocks=len(rows)).map(build).iter_rows()


def quiet_data(verbose: bool) -> Any:
    """Ray Data, without the bars and plans that it prints."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.INFO if verbose else logging.ERROR)
    return ray.data


def _quiet_environment(address: str | None) -> None:
    """Ray reads these when it is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if address is None:  # a local Ray needs no token; a running cluster may demand one
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")


def _knock(address: str) -> None:
    """OSError if nothing listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():  # Ray resolves "auto" and the like itself
        socket.create_connection((host.strip("[]"), int(port) % 65536), CONNECT_S).close()


def _start(workers: int | None, address: str | None, verbose: bool) -> None:
    import ray

    # Ray's many lines would hide the one that matters; -v shows them.
    quiet: dict[str, Any] = {"logging_level": "INFO" if verbose else "ERROR", "log_to_driver": verbose}
    try:
        if address is not None:
            _knock(address)
            ray.init(address=address, **quiet)
            return
        ray.init(
            address="local",
            num_cpus=workers or len(os.sched_getaffinity(0)),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
    except (OSError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        if address:
            raise UserError(f"no Ray answers at {address} ({said}); `ray start --head` starts one") from error
        raise UserError(f"Ray does not start on this machine: {said}") from error
