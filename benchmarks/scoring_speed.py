"""The cost of scoring a bench: CPU time, memory and decodings of synthetic cases, twice, and as a command."""

import argparse
import functools
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.nets import tiny_clip, waves
from evaluation.benches.cocoee import COCOEE, bench_files
from evaluation.measures import features, resizing
from evaluation.measures.measures import Measure, Network, Value
from evaluation.metrics.evaluate import ScoringPlan, evaluate, load_numbers, wanted_metrics
from evaluation.metrics.metric import EditCase, Loading
from evaluation.reports.tables import report_tables
from evaluation.scoring import scoring
from evaluation.scoring.file_hashes import SETTLED
from evaluation.scoring.scoring import Case, score
from evaluation.scoring.store import ValueStore

WIDTH = 512  # of ViT-B/32's features


def measure_speed(count: int, size: int) -> None:
    """Score synthetic cases twice as `cocoee` does, with all intervals."""
    torch.set_num_threads(1)
    decoded: Counter[Path] = Counter()
    read = scoring.read_picture

    def counted(path: Path) -> np.ndarray:
        decoded[path] += 1
        return read(path)

    scoring.read_picture = counted
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = write_bench(folder, count, size)
        write_weights(folder)
        base = peak_memory()
        print(f"{count} cases, {size} px; peak memory before: {base:.0f} MiB")
        for run in ("first", "again"):
            decoded.clear()
            start, wall = time.process_time(), time.monotonic()
            with warnings.catch_warnings(action="ignore"):
                report = score_cases(cases, folder)
            spent, passed = time.process_time() - start, time.monotonic() - wall
            most = max(decoded.values(), default=0)
            print(
                f"{run}: {spent:.1f} CPU-s ({spent / count * 1e3:.1f} ms per case), {passed:.1f} s of wall, "
                f"{len(decoded)} pictures decoded, at most {most} times each, peak {peak_memory():.0f} MiB"
            )
        start = time.process_time()
        with warnings.catch_warnings(action="ignore"):
            tables = report_tables(report)
        print(f"{len(tables)} tables with 2,000 draws: {time.process_time() - start:.1f} CPU-s")
        kept = [path.stat().st_size for path in (folder / "store").iterdir()]
        print(f"store: {sum(kept) / 2**20:.1f} MiB in {len(kept)} files")
        measure_command(folder)


def measure_command(folder: Path) -> None:
    """Print what the whole command costs where everything is kept, beside its floor: to start at all."""
    files = ["--bench", folder, "--results", folder / "results", "--without", "inception"]
    command = ["-m", "evaluation", "cocoee", *files, "--store", folder / "store", "--weights", folder]
    floor = child_seconds("-c", "import torch, evaluation.measures.features")
    time.sleep(SETTLED)
    child_seconds(*command)
    spent = child_seconds(*command)
    print(
        f"whole command again, without Inception: {spent:.1f} CPU-s; floor, importing the networks' modules: "
        f"{floor:.1f} CPU-s; ratio {spent / floor:.1f}"
    )


def child_seconds(*arguments: object) -> float:
    """User and system seconds of Python in another process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def score_cases(cases: Sequence[EditCase], folder: Path):
    """The report of COCOEE's numbers, Inception replaced by a projection that costs almost no time."""
    options = argparse.Namespace(reference=[], without=[], extra=[])
    store = ValueStore(folder / "store")
    scored = functools.partial(_scored, store)
    shared = {(features.inception,): instead_of_inception()}
    loading = Loading(options, cases, {"folder": folder}, "cpu", scored, store, shared=shared)
    metrics = wanted_metrics(COCOEE.metrics, options, cases[0].files)
    plan = ScoringPlan("COCOEE", "synthetic", len(cases), load_numbers(metrics, loading))
    return evaluate(cases, plan, scored)


def write_weights(folder: Path) -> None:
    """A tiny CLIP with features of the usual width, and a mixture of twenty of them."""
    tiny_clip(folder / "clip-vit-base-patch32", WIDTH)
    means, roots = np.random.default_rng(0).normal(size=(20, WIDTH)), np.stack([np.eye(WIDTH)] * 20)
    arrays = {"weights": np.full(20, 0.05), "means": means, "precisions_cholesky": roots}
    np.savez(folder / "coco-mixture.npz", **arrays)


def instead_of_inception() -> Measure:
    """A measure with Inception's input and 2048 features from a projection that costs almost no time."""
    projection = np.random.default_rng(1).normal(size=(3 * 23 * 23, 2048)).astype(np.float32)
    network = Network("inception", "0", lambda x: x[..., ::13, ::13].reshape(len(x), -1) @ projection)
    return Measure("inception/bilinear299/v1", resizing.inception_bilinear, network)


def _scored(store: ValueStore, cases: Sequence[Case], what: str) -> Iterator[dict[str, Value]]:
    """Score as a command does, without the line of progress."""
    return score(cases, store)


def peak_memory() -> float:
    """Peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_bench(folder: Path, count: int, size: int) -> list[EditCase]:
    """Write COCOEE's files: result, picture and exemplar of each case, all different, and one mask."""
    base = waves(0, size, size)
    mask = np.zeros((size, size), bool)
    mask[size // 4 : size // 2, size // 3 : size // 2] = True
    np.save(folder / "id_list.npy", np.arange(count))
    cases = []
    for number, (key, own) in enumerate(bench_files(folder).items()):
        files = {**own, "result": folder / f"results/{key}.png"}
        for path in files.values():
            path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(files["mask"])
        for kind, side in (("result", size), ("image", size), ("exemplar", 224)):
            picture = np.roll(base, (number, number // size), (0, 1))[:side, :side].copy()
            picture[0, 0] = number % 256, number // 256, len(kind)
            Image.fromarray(picture).save(files[kind], compress_level=1)
        cases.append(EditCase(key, files))
    return cases
