"""Measure data prep per sample: the whole path, its stages, the floors, pairs, the loader's draw, Ray's cost.

    python -m benchmarks.dataprep [PICTURES] [--rounds 5] [--ray-seconds 0]

All times are CPU times of this process (with `--ray-seconds`, of all processes of the build), so that other
work on the machine has little influence. Results are recorded in benchmarks/RESULTS.md.
"""

import argparse
import csv
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.family import watched_family
from benchmarks.peers.fixed_exemplar import augment_exemplar, cut_exemplar, draw_augmentation
from benchmarks.peers.least_dataprep import Known, mask_as_recorded, write_least
from benchmarks.stages import profile
from dataprep.build import plan_build
from dataprep.draw.exemplar import shown_box
from dataprep.draw.recipe import PBE
from dataprep.draw.render import draw_exemplar
from dataprep.pictures.decode import decode_picture
from dataprep.plan.inputs import BuildRequest
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE, read_plan_header
from dataprep.records import Rejected
from dataprep.shards.build_shard import ShardJob, build_shard
from dataprep.shards.manifest import write_manifest
from dataprep.workers.apart import run_shards
from intarsia.png import encode_png
from intarsia.rng import sample_rng
from intarsia.sample import Sample, decode_jpeg, encode_jpeg
from training.data.batches import SampleDataset
from training.data.order import DataOrder
from training.data.reader import ShardReader
from training.data.shards import find_shards

ROOT = Path(__file__).resolve().parent.parent
OPEN_IMAGES = ROOT.parent / "shared" / "data" / "openimages" / "train"
BUNDLED = ROOT / "examples" / "coco-mini" / "images"
PEER = 24.0  # measured samples per CPU-second of Paint by Example's data set on such pictures; no encoding
BOX_SIDES = (0.15, 0.85)  # random sides as shares of the picture's, if there are no annotations
SHORT_SIDE = 640
COPIES = 4  # copies of each picture in the shard for the whole path, so that a shard's fixed cost is small
VIDEOS, FRAMES = 3, 20
FRAME_SIZE = (854, 480)  # (width, height), as DAVIS has them


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
    masks = str(request.inputs.get("videos", ""))
    return [ShardJob(*place, shard, header["fingerprint"], request.config, masks) for shard in shards]


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


def read_known(request: BuildRequest) -> list[Known]:
    """All samples of the request's shard, with their choices and not their pixels."""
    reader = ShardReader(find_shards([str(request.out)]), 4)
    known = []
    for number in range(reader.shards[0].count):
        meta = reader.read(0, number).meta
        path = Path(request.images) / meta.file
        decoded = decode_picture(path.read_bytes())
        assert not isinstance(decoded, Rejected)
        known.append(Known(path, decoded[1], meta, meta.to_json(), mask_as_recorded(meta)))
    return known


def exemplars(cases: list[Case]) -> None:
    """The exemplars of all cases, by the default recipe."""
    for case in cases:
        meta = case.sample.meta
        shown = shown_box(meta.box, None, PBE.exemplar, meta.image_size)
        draw_exemplar(case.pixels, shown, None, PBE, sample_rng(0, meta.key, 0))


def fixed_exemplars(cases: list[Case]) -> None:
    """The same by the fixed code of before recipes."""
    for case in cases:
        meta = case.sample.meta
        augment_exemplar(cut_exemplar(case.pixels, meta.box), draw_augmentation(sample_rng(0, meta.key, 0)))


def in_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU-seconds of each work's fastest round; the order changes, as the second finds warm caches."""
    best = dict.fromkeys(works, float("inf"))
    for turn in range(rounds):
        for name in list(works)[:: -1 if turn % 2 else 1]:
            start = time.process_time()
            works[name]()
            best[name] = min(best[name], time.process_time() - start)
    return best


def decode_and_encode(cases: list[Case]) -> None:
    """The floor of before: one decode and three encodes per sample, and no other work."""
    for case in cases:
        decode_picture(case.content)
        encode_jpeg(case.sample.image)
        encode_png(case.sample.edit_mask)
        encode_jpeg(case.sample.exemplar)


def line(name: str, seconds: float, samples: int) -> None:
    """Print one row of the table."""
    print(f"{name:34} {seconds / samples * 1e3:8.2f} ms  {samples / seconds:9.1f} /CPU-s")


def print_size(request: BuildRequest) -> None:
    """Print the mean size of a sample in the finished folder's shards."""
    shards = find_shards([str(request.out)])
    size = sum(shard.bytes for shard in shards) / sum(shard.count for shard in shards)
    print(f"  {size / 1e3:.0f} kB per sample, profile {request.config.profile}")


def measure_path(pictures: Path, folder: Path, rounds: int) -> None:
    """Measure the whole path against both floors, its stages, the recipe, and the peer."""
    request = make_request(folder / "one", pictures)
    (job,) = plan_jobs(request)
    finish(request, [build_shard(job)])
    cases = read_cases(request)
    many = make_request(folder / "four", pictures, COPIES)
    (longer,) = plan_jobs(many)
    sidecar = build_shard(longer)
    finish(many, [sidecar])
    known, number = read_known(many), sidecar["samples"]
    (twice,) = plan_jobs(make_request(folder / "twice", pictures, COPIES, draws_per_image=2))
    further = build_shard(twice)["samples"] - number

    def least() -> None:
        sha256 = write_least(folder / "least.tar", known, many.config.image_size)
        assert sha256 == sidecar["sha256"], "the floor's tar is not the build's"

    works = {
        "whole": lambda: build_shard(longer),
        "least": least,
        "old": lambda: decode_and_encode(cases),
        "twice": lambda: build_shard(twice),
    }
    best = in_turns(works, rounds)
    whole, floor, old = best["whole"] / number, best["least"] / number, best["old"] / len(cases)
    line("whole path", whole, 1)
    print_size(many)
    line("each further draw of a picture", best["twice"] - best["whole"], further)
    line("floor: all that the tar needs", floor, 1)
    line("floor of before: decode, 3 encodes", old, 1)
    print(f"share of the floor: {floor / whole:.0%}, of the floor of before {old / whole:.0%}")
    print(f"against Paint by Example's data set ({PEER:.0f}, without encoding): {1 / whole / PEER:.1f} x")
    print(f"{'stages, by timers inside':34} {'whole':>8} {'floor':>11}   difference")
    of_whole, of_floor = (profile(work, rounds) for work in (lambda: build_shard(longer), least))
    for name in of_whole:
        ours, least_of_all = (1e3 * part[name] / number for part in (of_whole, of_floor))
        print(f"  {name:32} {ours:8.3f} ms {least_of_all:8.3f} ms {ours - least_of_all:+8.3f}")
    both = {"by the recipe": lambda: exemplars(cases), "by the code before": lambda: fixed_exemplars(cases)}
    for name, seconds in in_turns(both, 4 * rounds).items():
        line(f"exemplar {name}", seconds, len(cases))


def measure_loader(pictures: Path, folder: Path, rounds: int, short_side: int | None) -> None:
    """Measure a loader's new draw from whole pictures: read, decode, draw, uint8."""
    request = make_request(folder, pictures, profile="source", short_side=short_side)
    (job,) = plan_jobs(request)
    finish(request, [build_shard(job)])
    draws, number = fresh_draws(request)
    what = f"short side {short_side}" if short_side else "pictures as they are"
    line(f"loader, fresh draw: {what}", in_turns({what: draws}, rounds)[what], number)
    print_size(request)


def fresh_draws(request: BuildRequest) -> tuple[Callable[[], object], int]:
    """A loader's new draw of every sample of a shard of profile `source`, and the number of samples."""
    reader = ShardReader(find_shards([str(request.out)]), 4)
    number = reader.shards[0].count
    dataset = SampleDataset(reader, DataOrder([number], 0, 1), 512, seed=0)
    return lambda: [dataset.sample(0, place, epoch=1) for place in range(number)], number


def make_videos(folder: Path) -> tuple[Path, Path]:
    """Videos in DAVIS' layout, in which a part of a bundled picture moves; and their frames as stills."""
    picture = decode_jpeg(min(BUNDLED.iterdir()).read_bytes())
    scene = cv2.resize(picture, FRAME_SIZE, interpolation=cv2.INTER_AREA)
    stills = folder / "stills"
    stills.mkdir(parents=True)
    for video, place in itertools.product(range(VIDEOS), range(FRAMES)):
        name = f"{video:02d}/{place:05d}"
        numbers: np.ndarray = np.zeros(FRAME_SIZE[::-1], np.uint8)
        cv2.ellipse(numbers, (150 + 25 * place, 150 + 50 * video), (130, 90), 7 * place, 0, 360, 1, -1)
        moved = np.roll(scene[::-1, ::-1], 25 * place, axis=1)
        jpeg = encode_jpeg(np.where(numbers[:, :, None] == 1, moved, scene), 90)
        for path, content in (
            (folder / "videos" / "JPEGImages" / f"{name}.jpg", jpeg),
            (folder / "videos" / "Annotations" / f"{name}.png", encode_png(numbers)),
            (stills / f"{name.replace('/', '-')}.jpg", jpeg),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder / "videos", stills


def measure_pairs(folder: Path, rounds: int) -> None:
    """Measure pairs of video frames against stills of the same frames, both profiles and the loader."""
    videos, stills = make_videos(folder)
    limits = {"min_gap": 3, "max_mask_iou": 0.95, "max_views": 16}  # the command's defaults
    for kind in ("tuple", "source"):
        config = BuildConfig(source="video", name="bench", profile=kind, all_boxes=kind == "tuple", **limits)
        pairs = BuildRequest(config, {"videos": videos}, videos, folder / f"pairs-{kind}")
        alone = make_request(folder / f"alone-{kind}", stills, profile=kind)
        works: dict[str, tuple[Callable[[], object], int]] = {}
        for name, request in (("still", alone), ("pair", pairs)):
            (job,) = plan_jobs(request)
            sidecar = build_shard(job)
            finish(request, [sidecar])
            works[f"{name}, profile {kind}"] = partial(build_shard, job), sidecar["samples"]
            if kind == "source":
                works[f"loader, fresh draw: {name}"] = fresh_draws(request)
        for name, seconds in in_turns({name: work for name, (work, _) in works.items()}, rounds).items():
            line(name, seconds, works[name][1])
    print(
        f"  {VIDEOS} videos of {FRAMES} frames; a sample of profile source holds {limits['max_views']} views"
    )


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
            with watched_family() as watched:
                start = time.monotonic()
                for _ in run(jobs, workers):
                    pass
                walls.append(time.monotonic() - start)
            used = watched().seconds
            line(f"{name}, workers: {workers}", used, number)
            over = f"{used - plain:.1f} CPU-s, {used / plain - 1:.1%}"
            print(f"  over the loop: {over}; wall {walls[-1]:.1f} s")
            if run is run_shards:
                memory = f"{watched().worker:.0f} MB the largest worker, {watched().others:.0f} MB the rest"
                print(f"  memory: {memory}")
        print(f"  two workers against one, wall: {walls[0] / walls[1]:.2f} x, load {os.getloadavg()[0]:.1f}")


def run_processes(jobs: list[ShardJob], workers: int) -> Iterator[dict[str, object]]:
    """Build the shards with Python processes instead of Ray, as a bound for this machine."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(build_shard, jobs)


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
        measure_pairs(folder, options.rounds)
        if options.ray_seconds:
            measure_ray(pictures, folder / "ray", options.ray_seconds)


if __name__ == "__main__":
    main()
