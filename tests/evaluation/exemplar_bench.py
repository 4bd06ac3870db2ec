"""A small bench in COCOEE's layout, results for it, and weights for its networks."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.nets import fill, save, tiny_clip
from evaluation.measures.lpips import Lpips
from tests.paths import SHARED_DATA

REAL = SHARED_DATA / "examples" / "cocoee"
WIDTH = 8  # of the CLIP features


def write_bench(folder: Path, count: int = 6, size: int = 64) -> Path:
    """Smooth pictures with a rectangle each; the ids are 7, 1007 ..."""
    rng = np.random.default_rng(0)
    ids = [7 + 1000 * number for number in range(count)]
    for number in ids:
        y, x = np.mgrid[:size, :size]
        waves = 127 + 90 * np.sin(x[..., None] / rng.uniform(3, 20) + y[..., None] / 9 + rng.uniform(0, 6, 3))
        mask = np.zeros((size, size), bool)
        top, left = rng.integers(5, size // 3, 2)
        mask[top : top + size // 3, left : left + size // 4] = True
        exemplar = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        for name, pixels in (
            (f"GT_3500/{number:012}_GT.png", waves.astype(np.uint8)),
            (f"Mask_bbox_3500/{number:012}_mask.png", mask),
            (f"Ref_3500/{number:012}_ref.png", exemplar),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name)
    np.save(folder / "id_list.npy", np.array(ids))
    return folder


def lay_out_real(folder: Path) -> Path:
    """The five real cases, renamed to the bench's layout."""
    places = {
        "background": "GT_3500/{}_GT",
        "foreground": "Ref_3500/{}_ref",
        "mask_bbox": "Mask_bbox_3500/{}_mask",
    }
    keys = sorted(path.stem for path in (REAL / "background").iterdir())
    for source, place in places.items():
        for key in keys:
            out = folder / f"{place.format(key)}.png"
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REAL / source / f"{key}.png", out)
    np.save(folder / "id_list.npy", np.array([int(key) for key in keys]))
    return folder


def write_results(bench: Path, folder: Path, noise: float, seed: int = 0) -> Path:
    """The bench's pictures with another middle and noise all over."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((bench / "GT_3500").iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(float)
        side = len(pixels) // 2
        pixels[side // 2 : side, side // 2 : side] = rng.integers(0, 256, 3)
        pixels += rng.normal(0, noise, pixels.shape)
        name = f"{path.name.removesuffix('_GT.png')}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
    return folder


def write_weights(folder: Path) -> Path:
    """Random CLIP, LPIPS and mixture under their usual names; there is no Inception."""
    tiny_clip(folder / "clip-vit-base-patch32", width=WIDTH)
    backbone = Lpips("alex").features
    fill(backbone)
    save(backbone, folder / "alexnet-owt-7be5be79.pth", "features.")
    rng = np.random.default_rng(0)
    np.savez(
        folder / "coco-mixture.npz",
        weights=np.full(3, 1 / 3),
        means=rng.normal(size=(3, WIDTH)),
        precisions_cholesky=np.stack([np.eye(WIDTH) * scale for scale in (50.0, 60.0, 70.0)]),
    )
    return folder
