"""Encode shards as stored latents: one shard per worker, and the Ray Data graph of the workers."""

import json
import os
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dataprep.progress import noted
from dataprep.shards.journal import note_start
from intarsia.errors import UserError
from intarsia.files import atomic_path, read_json, sha256_file, write_json
from intarsia.model import EditModel, build_model
from intarsia.model_folder import frozen_hash
from intarsia.sample import Sample
from training.config import TrainConfig
from training.data.batches import SampleDataset, collate
from training.data.latents import LATENTS_VERSION, STORED, latents_name
from training.data.order import DataOrder
from training.data.reader import ShardReader
from training.data.shards import Shard
from training.model.frozen import halve_frozen
from training.objective.encode import posteriors

_HALF = ("image", "masked")  # outputs of bfloat16 networks are exact in float16
_READERS = 4  # threads that decode the next batch while the networks process the current one


@dataclass(frozen=True)
class LatentJob:
    """The data that a worker needs besides the networks.

    Attributes:
        shard: local shard to encode.
        folder: folder of latents and sidecar.
        digest: `frozen_hash` of the networks.
        tokens: whether the exemplars' many tokens are stored; None if it is one vector, which always is.
        batch_size: number of samples that the networks process at once.
    """

    shard: Shard
    folder: str
    digest: str
    batch_size: int
    tokens: bool | None = None

    @property
    def path(self) -> Path:
        """Path of the latents."""
        return Path(self.folder) / latents_name(self.shard.name)

    @property
    def sidecar(self) -> Path:
        """Path of the sidecar, which is written last; latents without it are ignored."""
        return self.path.with_suffix(".json")

    @property
    def journal(self) -> Path:
        """Path of the file where workers note their starts; it is removed after the sidecar is written."""
        return self.path.with_name(f".{self.path.stem}.journal")


@dataclass
class _Tally:
    """Counts for the progress."""

    kept: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, Counter[str]] = field(default_factory=lambda: {"pictures": Counter()})


def frozen_networks(config: TrainConfig, device: torch.device) -> tuple[EditModel, str]:
    """The run's model without its trained part, in the run's precision, and its `frozen_hash`."""
    model = build_model(config.model, config.seed)
    digest = frozen_hash(model)
    del model.unet, model.exemplar_encoder, model.text_encoder
    if config.precision == "bf16":
        halve_frozen(model, keep_exact=False)
    model.vae.to(memory_format=torch.channels_last)
    return model.to(device), digest


def has_latents(job: LatentJob) -> bool:
    """Whether the latents of a job's shard are complete for these networks and this shard content."""
    if not job.sidecar.is_file():
        return False
    content, shard = read_json(job.sidecar), job.shard
    found = [content.get(name) for name in ("format_version", "model", "shard_sha256", "samples", "tokens")]
    wanted = [LATENTS_VERSION, job.digest, shard.sha256, shard.count, job.tokens]
    return found == wanted and job.path.is_file() and job.path.stat().st_size == content.get("bytes")


def encode_shard(model: EditModel, config: TrainConfig, job: LatentJob, device: torch.device) -> None:
    """Encode one shard with its stored draws, and write its latents.

    Raises:
        UserError: if the shard is damaged or differs from its manifest.
        OSError: if the folder cannot be written.
    """
    shard = job.shard
    if shard.sha256 and sha256_file(shard.place) != shard.sha256:
        raise UserError(f"shard {shard.place} differs from its manifest; restore it, or build it again")
    order = DataOrder([shard.count], 0, 1)
    dataset = SampleDataset(ShardReader([shard], 1), order, config.model.image_size, 0, redraw=False)
    keys: list[str] = []
    names = [name for name in STORED if job.tokens is not False or name != "features"]
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    tally = _Tally()
    for samples in noted(_read(dataset, job), job.folder, job.path.stem, tally):
        batch = collate(list(enumerate(samples)))
        assert not isinstance(batch, UserError)  # errors were raised while reading
        seen = posteriors(model, batch, device)
        for name in names:
            half = name in _HALF or (name == "features" and job.tokens)
            parts[name].append(getattr(seen, name).to("cpu", torch.half if half else torch.float32))
        keys += batch.keys
        tally.kept.update(pictures=len(samples), samples=len(samples))
    with atomic_path(job.path) as temporary:
        tensors = {STORED[name]: torch.cat(rows).contiguous() for name, rows in parts.items()}
        save_file(tensors, temporary, metadata={"keys": json.dumps(keys)})
        temporary.chmod(0o644)
    write_json(job.sidecar, _sidecar(job))
    job.journal.unlink(missing_ok=True)


def _sidecar(job: LatentJob) -> dict[str, Any]:
    return {
        "format_version": LATENTS_VERSION,
        "model": job.digest,
        **({} if job.tokens is None else {"tokens": job.tokens}),
        "shard": job.shard.name,
        "shard_sha256": job.shard.sha256,
        "samples": job.shard.count,
        "bytes": job.path.stat().st_size,
        "sha256": sha256_file(job.path),
    }


def _read(dataset: SampleDataset, job: LatentJob) -> Iterator[list[Sample]]:
    """The shard's samples in batches; the next batch is decoded at the same time."""
    dataset.reader.files.get(0)  # open it in one thread
    numbers = range(job.shard.count)
    groups: list[Sequence[int]] = [
        numbers[i : i + job.batch_size] for i in range(0, len(numbers), job.batch_size)
    ]
    with ThreadPoolExecutor(_READERS) as pool:
        ahead: list[Any] = []
        for group in [*groups, ()]:
            coming = [pool.submit(dataset.sample, 0, number, 0) for number in group]
            if ahead:
                yield [future.result() for future in ahead]
            ahead = coming
    dataset.reader.files.close(0)


class ShardEncoder:
    """A Ray Data worker that loads the networks once and encodes one shard per call."""

    def __init__(self, config: str) -> None:
        self.config = TrainConfig.model_validate_json(config)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, _ = frozen_networks(self.config, self.device)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Encode one shard; errors are returned, because Ray turns exceptions into pages of traceback."""
        job: LatentJob = pickle.loads(row["job"])
        try:
            note_start(job.journal, job.shard.name)
            encode_shard(self.model, self.config, job, self.device)
        except (OSError, UserError) as error:
            return {"report": json.dumps({"error": str(error)})}
        except torch.OutOfMemoryError:
            error_text = f"no memory is left on the GPU for batches of {job.batch_size}: lower --batch-size"
            return {"report": json.dumps({"error": error_text})}
        kept = {"pictures": job.shard.count}
        report = {"shard": job.path.name, "samples": job.shard.count, "kept": kept}
        return {"report": json.dumps(report | {"rejected": {"pictures": {}}})}


@contextmanager
def _unheard() -> Iterator[None]:
    """Silence Ray's C++ part; it reports the new log level on standard error, which is closed meanwhile."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it would warn about every pool of workers
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def encode_all(
    jobs: Sequence[LatentJob], config: TrainConfig, workers: int | None, address: str | None, verbose: bool
) -> Iterator[dict[str, Any]]:
    """Encode shards in parallel, one GPU per worker if there are GPUs; yield the counts of each shard.

    Args:
        jobs: jobs, one per shard.
        config: config of the run.
        workers: number of workers; None = the number of GPUs, or of CPUs without GPUs.
        address: address of a running Ray cluster whose nodes see the same folders; None = a local Ray.
        verbose: whether Ray and its workers print.

    Raises:
        UserError: if Ray does not start or stops, or a shard fails.
    """
    from dataprep.workers.pipeline import quiet_data, ray_running

    with ExitStack() as stack:
        with nullcontext() if verbose else _unheard():
            ray = stack.enter_context(ray_running(workers, address, verbose))
        gpus = int(ray.cluster_resources().get("GPU", 0))
        number = workers or gpus or len(os.sched_getaffinity(0))
        rows = [{"job": pickle.dumps(job)} for job in jobs]
        data = (
            quiet_data(verbose)
            .from_items(rows, override_num_blocks=len(rows))
            .map(
                ShardEncoder,
                fn_constructor_args=(config.model_dump_json(),),
                concurrency=min(number, len(rows)),
                num_gpus=1 if gpus else 0,
            )
        )
        for row in data.iter_rows():
            report = json.loads(row["report"])
            if "error" in report:
                raise UserError(
                    f"encoding stopped: {report['error']}; finished latents are kept, run the same command "
                    "again"
                )
            yield report
