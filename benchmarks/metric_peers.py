"""The metrics beside their peers: the same pictures and random weights on both sides.

Peers that cannot be imported are left out; `benchmarks/evaluation.py` says how to install them.
"""

import csv
import functools
import importlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.nets import fill, recorded_input, recorded_sets, tiny_clip, waves
from evaluation.measures import features, metrics, resizing
from evaluation.measures.dino import DinoGeometry, load_dino
from evaluation.measures.inception import load_inception
from evaluation.measures.lpips import load_lpips
from evaluation.measures.weights import find_weights
from evaluation.scoring import distributions, moments
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


def clean_resizing(record: dict[str, object]) -> Iterator[Row]:
    """clean-fid's resizing and normalisation against the package."""
    if not (peer := optional("cleanfid.resize")):
        return
    for size in ((120, 160), (400, 310)):
        picture = waves(5, *size)
        theirs = (peer.build_resizer("clean")(picture).transpose(2, 0, 1) - 128) / 128
        ours = resizing.inception_clean(picture)
        yield f"clean-fid's resizing of {size}", "clean-fid", largest(ours, theirs)
        record[f"clean-{size[0]}"] = [float(value) for value in theirs.ravel()[::9973]]


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
            clean_resizing(values),
        )
        for part in parts:
            for row in part:
                print(f"| {' | '.join(row)} |", flush=True)
    if record:
        write_json(record, values)
