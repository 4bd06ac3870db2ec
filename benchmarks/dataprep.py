"""Measure data prep per sample: the whole path, its stages, the floor, Ray's overhead, the loader's draw.

    python -m benchmarks.dataprep [PICTURES] [--rounds 5] [--ray-seconds 0]

All times are CPU times of this process (with `--ray-seconds`, of all processes of the build), so that other
work on the machine has little influence. Results are recorded in benchmarks/RESULTS.md.
"""

import argparse
import csv
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.peers.fixed_exemplar import augment_exemplar, cut_exemplar, draw_augmentation, draw_mask
from dataprep.build import plan_build
from dataprep.draw.exemplar import shown_box
from dataprep.draw.recipe import PBE
from dataprep.draw.render import draw_exemplar
from dataprep.pictures.decode import decode_picture, squash
from dataprep.plan.inputs import BuildRequest
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE, read_plan_header
from dataprep.records import Rejected
from dataprep.shards.build_shard import ShardJob, build_shard
from dataprep.shards.manifest import write_manifest
from dataprep.tars import write_tar
from dataprep.workers.apart import run_shards
from intarsia.files import sha256_bytes
from intarsia.png import encode_png
from intarsia.rng import sample_rng
from intarsia.sample import Sample, encode_jpeg, encode_sample
from training.data.batches import SampleDataset
from training.data.order import DataOrder
from training.data.shards import ShardReader, find_shards

ROOT = Path(__file__).resolve().parent.parent
OPEN_IMAGES = ROOT.parent / "shared" / "data" / "openimages" / "train"
BUNDLED = ROOT / "examples" / "coco-mini" / "images"
PEER = 24.0  # measured samples per CPU-second of Paint by Example's data set on such pictures; no encoding
BOX_SIDES = (0.15, 0.85)  # random sides as shares of the picture's, if there are no annotations
SHORT_SIDE = 640
COPIES = 4  # copies of each picture in the shard for the whole path, so that a shard's fixed cost is small
TICK = 0.2  # seconds between two readings of Ray's processes


@dataclass(frozen=True)
class Case:
    """A picture with a sample made from it."""

    path: Path
    content: bytes
    pixels: np.ndarray
    sample: Sample


def find_boxes(pictures: Path) -> tuple[dict[str, list[list[float]]], str]:
    """Boxes of each picture as fractions (x0, x1, y0, y1), and their source."""
    tables = sorted(pictures.parent.glob("*train-annotations-bbox.csv"))
    names = {path.stem for path in pictures.iterdir() if path.suffix == ".jpg"}
    boxes: dict[str, list[list[float]]] = {}
    if tables and pictures.name == "train":
        with tables[0].open(newline="") as file:
            for row in csv.DictReader(file):
                if row["ImageID"] in names:
                    place = [float(row[name]) for name in ("XMin", "XMax", "YMin", "YMax")]
                    boxes.setdefault(row["ImageID"], []).append(place)
        return boxes, tables[0].name
    rng = np.random.default_rng(0)
    for name in sorted(names):
        sides = rng.uniform(*BOX_SIDES, 2)
        x, y = rng.uniform(0, 1 - sides)
        boxes[name] = [[x, x + sides[0], y, y + sides[1]]]
    return boxes, "random, one per picture"


def make_request(folder: Path, pictures: Path, copies: int = 1, **options: object) -> BuildRequest:
    """A build of the pictures, each under `copies` names, with its inputs in `folder`."""
    images = folder / "images"
    images.mkdir(parents=True)
    lines = ["ImageID,LabelName,XMin,XMax,YMin,YMax"]
    for name, places in find_boxes(pictures)[0].items():
        for copy in range(copies):
            (images / f"{name}-{copy}.jpg").symlink_to((pictures / f"{name}.jpg").resolve())
            lines += [",".join([f"{name}-{copy}", "/m/0", *map(str, place)]) for place in places]
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    (folder / "classes.csv").write_text("/m/0,Thing\n")
    config = BuildConfig(source="openimages", name="bench", filters="pbe", **options)
    inputs = {"boxes": folder / "boxes.csv", "classes": folder / "classes.csv"}
    return BuildRequest(config, inputs, images, folder / "shards")


def plan_jobs(request: BuildRequest) -> list[ShardJob]:
    """Plan the build and return the jobs of its shards; no picture is read."""
    header = plan_build(request)
    place = str(request.out), str(request.images)
    shards = range(header["shards"])
    return [ShardJob(*place, shard, header["fingerprint"], request.config) for shard in shards]


def cpu_of(work: Callable[[], object], rounds: int) -> float:
    """CPU-seconds of the fastest of several rounds."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def read_cases(request: BuildRequest) -> list[Case]:
    """All samples of the request's shards, with their pictures."""
    places = {path.stem: path for path in request.images.iterdir()}
    reader = ShardReader(find_shards([str(request.out)]), 4)
    cases = []
    for number in range(reader.shards[0].count):
        sample = reader.read(0, number)
        path = places[sample.meta.image_id]
        content = path.read_bytes()
        decoded = decode_picture(content)
        if not isinstance(decoded, Rejected):
            cases.append(Case(path, content, decoded[0], sample))
    return cases


def stages(cases: list[Case], folder: Path) -> dict[str, Callable[[], object]]:
    """The stages of the path by name; each processes all cases, with prepared inputs."""
    encoded = [(f"{c.sample.meta.key}.{n}", b) for c in cases for n, b in encode_sample(c.sample).items()]
    shapes = [c.sample.meta for c in cases]
    masks = [draw_mask(m.box, m.extended, m.image_size, sample_rng(0, m.key, 0)) for m in shapes]

    def each(work: Callable[[Case], object]) -> None:
        for case in cases:  # results are freed at once, as in the build, because new memory costs time
            work(case)

    def resize() -> None:
        for case, mask in zip(cases, masks, strict=True):
            window = case.sample.meta.window
            squash(window.cut(case.pixels), case.sample.image.shape[0])
            squash(window.cut(mask.pixels), case.sample.image.shape[0])

    def exemplar() -> None:
        for case in cases:
            meta = case.sample.meta
            shown = shown_box(meta.box, None, PBE.exemplar, meta.image_size)
            draw_exemplar(case.pixels, shown, None, PBE, sample_rng(0, meta.key, 0))

    def mask() -> None:
        for meta in shapes:
            draw_mask(meta.box, meta.extended, meta.image_size, sample_rng(0, meta.key, 0))

    return {
        "read + sha256": lambda: each(lambda case: sha256_bytes(case.path.read_bytes())),
        "decode": lambda: each(lambda case: decode_picture(case.content)),
        "crop + resize": resize,
        "mask": mask,
        "exemplar": exemplar,
        "encode (two JPEG, PNG, JSON)": lambda: each(lambda case: encode_sample(case.sample)),
        "tar + sha256": lambda: write_tar(folder / "stage.tar", encoded),
    }


def fixed_exemplar(cases: list[Case]) -> None:
    """The stage of the exemplar by the fixed code of before recipes."""
    for case in cases:
        meta = case.sample.meta
        augment_exemplar(cut_exemplar(case.pixels, meta.box), draw_augmentation(sample_rng(0, meta.key, 0)))


def measure_recipe(cases: list[Case], rounds: int) -> None:
    """The exemplar by the default recipe against the fixed code of before, in turns."""
    works = {
        "by the recipe": stages(cases, Path())["exemplar"],
        "by the code before": lambda: fixed_exemplar(cases),
    }
    spent: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(4 * rounds):  # the second finds the pictures in the processor's cache
        for name in list(works)[:: -1 if turn % 2 else 1]:
            spent[name].append(cpu_of(works[name], 1))
    for name, seconds in spent.items():
        line(f"exemplar {name}", min(seconds), len(cases))


def floor(cases: list[Case]) -> None:
    """One decode and three encodes per sample, and no other work."""
    for case in cases:
        decode_picture(case.content)
        encode_jpeg(case.sample.image)
        encode_png(case.sample.edit_mask)
        encode_jpeg(case.sample.exemplar)


def line(name: str, seconds: float, samples: int) -> None:
    """Print one row of the table."""
    print(f"{name:34} {seconds / samples * 1e3:8.2f} ms  {samples / seconds:9.1f} /CPU-s")


def measure_path(pictures: Path, folder: Path, rounds: int) -> None:
    """Measure the whole path, its stages, the floor, and the peer."""
    request = make_request(folder / "one", pictures)
    (job,) = plan_jobs(request)
    finish(request, [build_shard(job)])
    cases = read_cases(request)
    number = len(cases)
    (longer,) = plan_jobs(make_request(folder / "four", pictures, COPIES))
    whole = cpu_of(lambda: build_shard(longer), rounds) / COPIES
    line("whole path", whole, number)
    rest = whole
    for name, work in stages(cases, folder).items():
        seconds = cpu_of(work, rounds)
        rest -= seconds
        line("  " + name, seconds, number)
    line("  the rest (draws, records)", rest, number)
    measure_recipe(cases, rounds)
    least = cpu_of(lambda: floor(cases), rounds)
    line("floor: a decode, three encodes", least, number)
    print(f"share of the floor: {least / whole:.0%}")
    print(
        f"against Paint by Example's data set ({PEER:.0f}, without encoding): {number / whole / PEER:.1f} x"
    )


def measure_loader(pictures: Path, folder: Path, rounds: int, short_side: int | None) -> None:
    """Measure a loader's new draw from whole pictures: read, decode, draw, uint8."""
    request = make_request(folder, pictures, profile="source", short_side=short_side)
    (job,) = plan_jobs(request)
    finish(request, [build_shard(job)])
    reader = ShardReader(find_shards([str(request.out)]), 4)
    dataset = SampleDataset(reader, DataOrder([reader.shards[0].count], 0, 1), 512, seed=0)
    number = reader.shards[0].count
    seconds = cpu_of(lambda: [dataset.sample(0, place, epoch=1) for place in range(number)], rounds)
    what = f"short side {short_side}" if short_side else "pictures as they are"
    line(f"loader, fresh draw: {what}", seconds, number)


def measure_ray(pictures: Path, folder: Path, target: float) -> None:
    """Measure Ray's overhead in CPU time, and two workers against one, with Ray and with Python processes."""
    one = make_request(folder / "one", pictures, images_per_shard=100)
    start = time.process_time()
    for job in plan_jobs(one):
        build_shard(job)
    copies = max(1, round(target / (time.process_time() - start)))
    request = make_request(folder / "many", pictures, copies, images_per_shard=250)
    jobs = plan_jobs(request)
    start = time.process_time()
    number = sum(build_shard(job)["samples"] for job in jobs)
    plain = time.process_time() - start
    line("a plain loop", plain, number)
    print(f"  {number} samples in {len(jobs)} shards, {plain:.1f} CPU-s")
    for name, run in (("processes", run_processes), ("Ray", run_shards)):
        walls = []
        for workers in (1, 2):
            with cpu_of_family() as spent:
                start = time.monotonic()
                for _ in run(jobs, workers):
                    pass
                walls.append(time.monotonic() - start)
            used = spent()
            line(f"{name}, workers: {workers}", used, number)
            over = f"{used - plain:.1f} CPU-s, {used / plain - 1:.1%}"
            print(f"  over the loop: {over}; wall {walls[-1]:.1f} s")
        print(f"  two workers against one, wall: {walls[0] / walls[1]:.2f} x, load {os.getloadavg()[0]:.1f}")


def run_processes(jobs: list[ShardJob], workers: int) -> Iterator[dict[str, object]]:
    """Build the shards with Python processes instead of Ray, as a bound for this machine."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(build_shard, jobs)


@contextmanager
def cpu_of_family() -> Iterator[Callable[[], float]]:
    """CPU-seconds of this process and all its descendants.

    They are read periodically, because this process cannot wait for Ray's processes.
    """
    seen: dict[int, float] = {}
    stop = threading.Event()
    start = time.process_time()

    def look() -> None:
        while not stop.wait(TICK):
            seen.update(cpu_of_descendants())

    thread = threading.Thread(target=look)
    thread.start()
    own: list[float] = []
    try:
        yield lambda: own[0] + sum(seen.values())
    finally:
        stop.set()
        thread.join()
        own.append(time.process_time() - start)


def cpu_of_descendants() -> dict[int, float]:
    """CPU-seconds of every running descendant of this process."""
    parents, seconds = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # the process has just ended
            continue
        pid = int(path.parent.name)
        parents[pid], seconds[pid] = (
            int(fields[1]),
            (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        )

    def descends(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == os.getpid():
                return True
        return False

    return {pid: spent for pid, spent in seconds.items() if descends(pid)}


def finish(request: BuildRequest, sidecars: list[dict[str, object]]) -> None:
    """Write the manifest of a folder built without `build`."""
    assert all(sidecar["samples"] for sidecar in sidecars)
    write_manifest(request.out, read_plan_header(request.out / PLAN_FILE), "benchmark")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dataprep", description=__doc__)
    parser.add_argument("pictures", nargs="?", type=Path, help="folder of JPEGs (default: Open Images)")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds; the fastest one counts (5)")
    parser.add_argument("--ray-seconds", type=float, default=0, help="length of a build with Ray (0: none)")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    pictures = options.pictures or (OPEN_IMAGES if OPEN_IMAGES.is_dir() else BUNDLED)
    if pictures == BUNDLED:
        print("Open Images is not available; the bundled pictures have at most 640 px and are faster")
    boxes, origin = find_boxes(pictures)
    print(f"{len(boxes)} pictures of {pictures.name}, boxes: {origin}; CPU time, best of {options.rounds}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure_path(pictures, folder / "tuple", options.rounds)
        for short_side in (None, SHORT_SIDE):
            measure_loader(pictures, folder / f"source{short_side}", options.rounds, short_side)
        if options.ray_seconds:
            measure_ray(pictures, folder / "ray", options.ray_seconds)


if __name__ == "__main__":
    main()
