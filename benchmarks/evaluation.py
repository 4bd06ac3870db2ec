"""Compare the metrics with their peers, and measure the cost of scoring a bench.

    python -m benchmarks.evaluation peers     # a table: metric, peer, largest difference
    python -m benchmarks.evaluation speed     # 3,500 synthetic pictures: CPU time, peak memory, decodings

torchmetrics, SciPy, scikit-learn and transformers are part of the development environment. The other peers
need torchvision, whose wheels install another torch. Install them in a separate environment without their
dependencies; peers that cannot be imported are left out of the table:

    python -m venv /tmp/peers
    echo "$PWD/.venv/lib/python3.11/site-packages" > /tmp/peers/lib/python3.11/site-packages/ours.pth
    uv pip install --python /tmp/peers/bin/python --no-deps \
        pytorch-fid lpips clean-fid torch-fidelity torchvision
    /tmp/peers/bin/python -m benchmarks.evaluation peers --record tests/evaluation/peers.json
"""

import argparse
import csv
import functools
import importlib
import resource
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.nets import fill, recorded_input, recorded_sets, tiny_clip
from evaluation.benches.exemplars import BenchPlan, EditCase, Networks, evaluate
from evaluation.measures import features, metrics, resizing
from evaluation.measures.dino import DinoGeometry, load_dino
from evaluation.measures.inception import load_inception
from evaluation.measures.lpips import load_lpips
from evaluation.measures.measures import Measure, Network, Value
from evaluation.measures.weights import find_weights
from evaluation.reports.tables import report_tables
from evaluation.scoring import distributions, moments, scoring
from evaluation.scoring.scoring import Case, score
from evaluation.scoring.store import ValueStore
from intarsia.files import write_json
from intarsia.pretrained import read_weights
from sampling.pictures import read_picture

Row = tuple[str, str, str]
SHARED = Path(__file__).resolve().parents[2] / "shared"  # optional folder next to the checkout
TID = SHARED / "data" / "metrics" / "tid2013_5"


def relative(ours: float, peer: float) -> str:
    """The relative difference as text."""
    return f"{abs(ours - peer) / abs(peer):.1e} relative"


def largest(ours: np.ndarray, peer: np.ndarray) -> str:
    """The largest difference as text, with the largest value."""
    ours, peer = np.asarray(ours, np.float64), np.asarray(peer, np.float64)
    return f"{np.abs(ours - peer).max():.1e} of up to {np.abs(peer).max():.3g}"


def frechet(record: dict[str, object]) -> Iterator[Row]:
    """Fréchet distance: all implementations on the same statistics."""
    for width in (64, 512, 2048):
        a, b = (moments.moments_of([features]) for features in recorded_sets(width))
        ours = distributions.frechet_distance(a, b)
        arguments = a.mean, a.covariance, b.mean, b.covariance
        for peer, distance in frechet_peers():
            theirs = distance(*arguments)
            yield f"Fréchet distance, {width} dimensions", peer, relative(ours, theirs)
            if peer == "pytorch-fid" and width < 2048:
                record[f"frechet-{width}"] = float(theirs)


def frechet_peers() -> Iterator[tuple[str, Callable[..., float]]]:
    """(name, function of two means and covariances) of the peers that can be imported."""
    from torchmetrics.image.fid import _compute_fid

    yield "torchmetrics", lambda *x: float(_compute_fid(*map(torch.from_numpy, x)))
    if peer := optional("pytorch_fid.fid_score"):
        yield "pytorch-fid", peer.calculate_frechet_distance
    if peer := optional("cleanfid.fid"):
        yield "clean-fid", peer.frechet_distance
    if peer := optional("torch_fidelity.metric_fid"):

        def fidelity(mu1, sigma1, mu2, sigma2) -> float:
            stats = ({"mu": mu1, "sigma": sigma1}, {"mu": mu2, "sigma": sigma2})
            return peer.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]

        yield "torch-fidelity", fidelity


def sets() -> Iterator[Row]:
    """KID against torchmetrics, mixtures against scikit-learn."""
    from sklearn.mixture import GaussianMixture
    from torchmetrics.image.kid import poly_mmd

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(500, 64)), rng.normal(0.2, 1, size=(500, 64))
    ours = distributions.kernel_distance(a, b, subsets=1, subset_size=500).mean
    yield "KID", "torchmetrics", relative(ours, float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b))))
    peer = GaussianMixture(3, random_state=0).fit(a)
    mixture = distributions.Mixture(peer.weights_, peer.means_, peer.precisions_cholesky_)
    yield "GMM log-likelihood", "scikit-learn", largest(mixture.log_likelihood(b), peer.score_samples(b))


def pixels() -> Iterator[Row]:
    """PSNR, MSE and SSIM against torchmetrics and published values."""
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    a, b = waves(1), waves(2)
    planes = [torch.from_numpy(p.transpose(2, 0, 1)[None] / 255.0) for p in (a, b)]
    peer = float(peak_signal_noise_ratio(*planes, data_range=1.0))
    yield "PSNR", "torchmetrics", relative(metrics.psnr(a, b), peer)
    yield "MSE", "torch", relative(metrics.mse(a, b), float(F.mse_loss(*planes)))
    _, full = structural_similarity_index_measure(*planes, data_range=1.0, return_full_image=True)
    cropped = float(full[..., 5:-5, 5:-5].mean())
    yield "SSIM of RGB", "torchmetrics, edge cut off", relative(metrics.ssim(a, b, channels="rgb"), cropped)
    if not TID.is_dir():
        return
    with (TID / "results_official.csv").open() as file:
        printed = {row.pop("Method"): row for row in csv.DictReader(file)}
    for name, function, digits in (("psnr", metrics.psnr, 2), ("ssim", metrics.ssim, 4)):
        wrong = 0
        for file, value in printed[name].items():
            ours = function(read_picture(TID / "dist_dir" / file), read_picture(TID / "ref_dir" / file))
            wrong += round(ours, digits) != float(value)
        what = "SSIM of grey" if name == "ssim" else "PSNR"
        yield what, "published, TID2013", f"{wrong} of 5 pictures differ in the {digits} digits printed"


def clip(folder: Path) -> Iterator[Row]:
    """CLIP features and preprocessing against transformers; the published crops against torchvision."""
    from transformers import CLIPImageProcessorPil, CLIPModel

    path = tiny_clip(folder / "clip")
    measure = features.clip("clip-b32", {"clip-b32": path}).whole
    picture = Image.fromarray(waves(1, 300, 448))
    pixel_values = CLIPImageProcessorPil()(picture, return_tensors="pt")["pixel_values"]
    prepared = measure.prepare(np.asarray(picture))
    yield "CLIP preprocessing", "transformers (Pillow)", largest(prepared, pixel_values[0].numpy())
    model = CLIPModel.from_pretrained(path).eval()
    with torch.no_grad():
        pooled = model.vision_model(pixel_values=pixel_values).pooler_output
        peer = model.visual_projection(pooled)
    assert measure.network
    yield "CLIP image features", "transformers", largest(measure.network.run(prepared[None]), peer.numpy())
    if not (vision := torchvision()):
        return
    transforms = vision.transforms
    middle = transforms.Compose([transforms.Resize(512), transforms.CenterCrop(512)])
    for size in ((427, 640), (333, 501)):
        image = Image.fromarray(waves(3, *size))
        ours = resizing.middle_square(np.asarray(image), 512)
        yield f"test2017 resize and crop, {size}", "torchvision", largest(ours, np.asarray(middle(image)))
    mask = np.zeros((300, 448), bool)
    mask[50:151, 60:261] = True
    crop = transforms.functional.to_tensor(picture)[:, 50:150, 60:260]
    small = transforms.functional.resize(crop, [224, 224], antialias=False)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    peer = transforms.functional.normalize(small, mean, std)
    ours = resizing.clip_pbe_region(np.asarray(picture), mask)
    yield "published region crop", "torchvision", largest(ours, peer.numpy())


def structure() -> Iterator[Row]:
    """Keys of a random ViT of DINO's depth against transformers; the paper's formula on these keys."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=96,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=384,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    vit = ViTModel(config, add_pooling_layer=False)
    fill(vit)
    vit.eval()
    caught: list[torch.Tensor] = []
    vit.layers[-1].attention.k_proj.register_forward_hook(lambda *x: caught.append(x[2]))
    pair = torch.from_numpy(np.stack([resizing.dino_published(waves(seed)) for seed in (1, 2)]))
    with torch.no_grad():
        vit(pair)
        ours = load_dino(vit.state_dict(), "random", DinoGeometry(width=96))(pair).numpy()
    yield "DINO keys", "transformers", largest(ours, caught[0].numpy())
    maps = []
    for keys in caught[0].double():
        lengths = keys.norm(dim=1, keepdim=True)
        maps.append(keys @ keys.T / (lengths @ lengths.T).clamp(min=1e-8))
    peer = float(F.mse_loss(*maps))
    yield "structure distance", "the paper's formula", relative(metrics.structure_distance(*ours), peer)


def perceptual(record: dict[str, object]) -> Iterator[Row]:
    """LPIPS with the authors' linear weights and random backbones."""
    pair = torch.from_numpy(np.stack([resizing.signed(waves(seed, 96, 130)) for seed in (1, 2)]))
    package, vision = optional("lpips"), torchvision()
    if not (package and vision):
        return
    from torchmetrics.functional.image import lpips as theirs

    for net, name in (("alex", "alexnet"), ("vgg", "vgg16"), ("squeeze", "squeezenet1_1")):
        backbone = getattr(vision.models, name)(weights=None)
        fill(backbone.features)
        linear = read_weights(find_weights(f"lpips-{net}"))
        ours = load_lpips(net, backbone.state_dict(), linear, ("random", "authors"))
        original = package.LPIPS(net=net, pnet_rand=True, verbose=False)
        metric = theirs._LPIPS(pretrained=True, net=net, pnet_rand=True).eval()
        for peer in (original, metric):  # their names differ, the order is the same
            values = backbone.features.state_dict().values()
            peer.net.load_state_dict(dict(zip(peer.net.state_dict(), values, strict=True)))
        with torch.no_grad():
            value = float(ours(pair[:1], pair[1:]))
            yield f"LPIPS {net}", "lpips", relative(value, float(original(pair[:1], pair[1:])))
            yield f"LPIPS {net}", "torchmetrics", relative(value, float(metric(pair[:1], pair[1:])))
            one, other = (recorded_input(64, seed) for seed in (1, 2))
            record[f"lpips-{net}"] = float(original(one, other))


def inception(record: dict[str, object]) -> Iterator[Row]:
    """Inception against pytorch-fid's network with random weights."""
    peer = optional("pytorch_fid.inception")
    if not (peer and torchvision()):
        return
    plain = torchvision().models.Inception3
    load = plain.load_state_dict
    peer.load_state_dict_from_url = lambda *_, **__: None
    plain.load_state_dict = lambda self, state, *rest, **more: state and load(self, state, *rest, **more)
    network = peer.fid_inception_v3()
    plain.load_state_dict = load
    fill(network)
    peer.fid_inception_v3 = lambda: network
    theirs = peer.InceptionV3().eval()
    ours = load_inception(network.state_dict(), "random")
    picture = waves(1, 200, 150)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(picture.transpose(2, 0, 1)[None] / 255.0).float())[0].flatten()
        got = ours(torch.from_numpy(resizing.inception_bilinear(picture)[None])).flatten()
        whole = theirs((recorded_input(299) + 1) / 2)[0].flatten()
    yield "Inception pool3", "pytorch-fid", largest(got.numpy(), wanted.numpy())
    record["inception"] = [float(value) for value in whole[::128]]


def optional(name: str):
    """A module, or None if it or one of its dependencies is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@functools.cache
def torchvision():
    """torchvision or None; a wheel for another torch can be imported after its two operators are declared."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)  # operators exist as long as their library
    try:
        return importlib.import_module("torchvision")
    except ImportError:
        return None


_libraries: list[torch.library.Library] = []


def waves(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """A smooth coloured picture with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = 127 + 90 * np.sin(x[..., None] / rng.uniform(5, 30) + y[..., None] / 17 + rng.uniform(0, 6, 3))
    return (planes + rng.normal(0, 8, planes.shape)).clip(0, 255).astype(np.uint8)


def compare_peers(record: Path | None) -> None:
    """Print the table of metrics, peers and differences."""
    torchvision()  # before torchmetrics imports it
    values: dict[str, object] = {}
    print("| metric | peer | largest difference |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        parts = (
            frechet(values),
            sets(),
            pixels(),
            clip(Path(name)),
            structure(),
            perceptual(values),
            inception(values),
        )
        for part in parts:
            for row in part:
                print(f"| {' | '.join(row)} |", flush=True)
    if record:
        write_json(record, values)


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
        width = 512  # width of ViT-B/32's features
        clip = features.clip("clip-b32", {"clip-b32": tiny_clip(folder / "clip", width)})
        rng = np.random.default_rng(0)
        roots = np.stack([np.eye(width)] * 20)
        mixture = distributions.Mixture(np.full(20, 0.05), rng.normal(size=(20, width)), roots)
        networks = Networks(clip, (mixture, "0"), instead_of_inception())
        plan = BenchPlan("COCOEE", "synthetic", networks, published=True)
        base = peak_memory()
        print(f"{count} cases, {size} px; peak memory before: {base:.0f} MiB")
        for run in ("first", "again"):
            decoded.clear()
            start, wall = time.process_time(), time.monotonic()
            store = ValueStore(folder / "store")
            with warnings.catch_warnings(action="ignore"):
                report = evaluate(cases, plan, functools.partial(scored, store), count)
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


def instead_of_inception() -> Measure:
    """A measure with Inception's input and 2048 features from a projection that costs almost no time."""
    projection = np.random.default_rng(1).normal(size=(3 * 23 * 23, 2048)).astype(np.float32)
    network = Network("inception", "0", lambda x: x[..., ::13, ::13].reshape(len(x), -1) @ projection)
    return Measure("inception/bilinear299/v1", resizing.inception_bilinear, network)


def scored(store: ValueStore, cases: Sequence[Case], what: str) -> Iterator[dict[str, Value]]:
    """Score as a command does, without the line of progress."""
    return score(cases, store)


def peak_memory() -> float:
    """Peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_bench(folder: Path, count: int, size: int) -> list[EditCase]:
    """Write result, picture and exemplar of each case, all different, and one mask."""
    base = waves(0, size, size)
    mask = np.zeros((size, size), bool)
    mask[size // 4 : size // 2, size // 3 : size // 2] = True
    Image.fromarray(mask).save(folder / "mask.png")
    cases = []
    for number in range(count):
        files = {"mask": folder / "mask.png"}
        for kind, side in (("result", size), ("image", size), ("exemplar", 224)):
            picture = np.roll(base, (number, number // size), (0, 1))[:side, :side].copy()
            picture[0, 0] = number % 256, number // 256, len(kind)
            files[kind] = folder / f"{number:06}-{kind}.png"
            Image.fromarray(picture).save(files[kind], compress_level=1)
        cases.append(EditCase(f"{number:06}", files))
    return cases


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and print one of the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("peers", "speed"))
    parser.add_argument("--record", type=Path, help="file for the values of the peers, for the tests")
    parser.add_argument("--pictures", type=int, default=3500, help="number of cases to score")
    parser.add_argument("--size", type=int, default=512, help="side of a result in pixels")
    options = parser.parse_args(argv)
    if options.what == "peers":
        compare_peers(options.record)
    else:
        measure_speed(options.pictures, options.size)


if __name__ == "__main__":
    main()
