"""demo/index.html: contact sheet, loss curve, previews over time, what was learned, and the edits."""

import json
import re
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from evaluation.reconstruction import Reconstruction, reconstruct
from intarsia.config import load_config
from intarsia.files import atomic_path, atomic_write
from intarsia.model import build_model
from intarsia.sample import Sample
from intarsia.weights import read_model
from sampling.canvas.edits import EditResult
from sampling.painters.own import painting_with
from sampling.settings import EditSettings
from training.config import TrainConfig
from training.data.reader import ShardReader
from training.data.shards import find_shards

matplotlib.use("Agg")
SETTINGS = EditSettings(guidance_scale=1.0, num_inference_steps=20, scheduler="ddim", batch_size=12)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc }
img { max-width: 100%; display: block } figure { margin: 1rem 0; display: inline-block; vertical-align: top }
figcaption { color: #555; font-size: .9rem } table { border-collapse: collapse }
td, th { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #eee }
code, pre { background: #f4f4f4; padding: .1rem .3rem } pre { padding: .8rem; overflow-x: auto }
"""


def write_gallery(out: Path, edits: list[str], seconds: dict[str, float]) -> tuple[float, float]:
    """Measure the untrained and the trained model and write the page.

    Returns:
        The two errors inside the mask: of the model as training found it, and as it left it.
    """
    samples = first_draws(out / "shards")
    config = load_config(TrainConfig, out / "run" / "config.yaml")
    untrained = reconstruct(painting_with(build_model(config.model, config.seed)), samples, SETTINGS)
    trained = reconstruct(painting_with(read_model(out / "run" / "model")), samples, SETTINGS)
    save(comparison(samples, untrained, trained), out / "learned.png")
    draw_loss(out / "run" / "metrics.jsonl", out / "loss.png")
    atomic_write(out / "index.html", page(out, edits, seconds, (untrained.error, trained.error)))
    return untrained.error, trained.error


def first_draws(shards: Path) -> list[Sample]:
    """One sample of every picture, in the shards' order."""
    samples = read_samples(shards)
    return list({sample.meta.image_id: sample for sample in reversed(samples)}.values())[::-1]


def read_samples(shards: Path) -> list[Sample]:
    """All samples of a shard folder, in its order."""
    found = find_shards([str(shards)])
    reader = ShardReader(found, open_shards=1)
    return [reader.read(shard, number) for shard in range(len(found)) for number in range(found[shard].count)]


def comparison(samples: list[Sample], untrained: Reconstruction, trained: Reconstruction) -> Image.Image:
    """Rows of three samples: hole, exemplar, untrained, trained, truth."""
    cells = [
        np.concatenate(
            [hole(result), small(sample.exemplar, 64), before.image, result.image, sample.image], axis=1
        )
        for sample, before, result in zip(samples, untrained.results, trained.results, strict=True)
    ]
    gap = np.full((64, 16, 3), 255, np.uint8)
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % 3)
    rows = [np.concatenate([a, gap, b, gap, c], axis=1) for a, b, c in zip(*[iter(cells)] * 3, strict=True)]
    picture = np.concatenate([np.pad(row, ((0, 6), (0, 0), (0, 0)), constant_values=255) for row in rows])
    return Image.fromarray(picture).resize(
        (picture.shape[1] * 2, picture.shape[0] * 2), Image.Resampling.BICUBIC
    )


def hole(result: EditResult) -> np.ndarray:
    """The picture with mid-grey where it was repainted."""
    return np.where(result.request.edit_mask[..., None], np.uint8(128), result.request.image)


def small(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture at `size` × `size`."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX))


def draw_loss(metrics: Path, path: Path) -> None:
    """The loss over the steps."""
    from matplotlib import pyplot

    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure, axes = pyplot.subplots(figsize=(9, 3), layout="constrained")
    axes.plot([line["step"] for line in lines], [line["train/loss"] for line in lines], color="#8a4b14")
    axes.set(xlabel="step", ylabel="loss (mean squared error)", yscale="log")
    axes.grid(alpha=0.3, which="both")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)


def save(picture: Image.Image, path: Path) -> None:
    """As PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def page(out: Path, edits: list[str], seconds: dict[str, float], errors: tuple[float, float]) -> str:
    """The HTML, which refers to the pictures beside it."""
    previews = sorted((out / "run" / "previews").glob("step-*.png"))
    over_time = "".join(
        figure(f"run/previews/{path.name}", f"after {int(re.sub('[^0-9]', '', path.stem)):,} steps", 300)
        for path in previews
    )
    edited = "".join(
        figure(f"{name}.side-by-side.png", f"{name}: hole, exemplar, edit", 900) for name in edits
    )
    times = "".join(
        f"<tr><td>{escape(name)}</td><td>{value:.0f} s</td></tr>" for name, value in seconds.items()
    )
    untrained, trained = errors
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Intarsia: demo</title><style>{STYLE}</style>
<h1>Intarsia</h1>
<p>What <code>make demo</code> made on this machine: shards from 23 pictures, a small model trained on them
under DeepSpeed, and edits by that model.</p>
<h2>1. Shards</h2>
<p>From each box: a crop of the picture, an edit mask (tinted) and the augmented exemplar.</p>
{figure("contact-sheet.png", "samples of the shards, as training reads them", 900)}
<h2>2. Training</h2>
{figure("loss.png", "the loss; it compares what the UNet answers, not pictures (docs/method.md)", 900)}
<p>The same samples with the same noise while training goes on: hole, exemplar, edit.</p>
{over_time}
<h2>3. What was learned</h2>
<p>Every picture's hole, repainted after its own exemplar. Mean squared error inside the mask against the true
picture (pixel values 0…1): untrained <b>{untrained:.4f}</b>, trained <b>{trained:.4f}</b>, a factor of
<b>{untrained / trained:.1f}</b>.</p>
{figure("learned.png", "hole, exemplar, untrained, trained, truth", 1000)}
<h2>4. Edits</h2>
<p>Two bundled pictures at their own size. Outside the mask every pixel is the input's.</p>
{edited}
<h2>What this is not</h2>
<p>A model of 64×64 pixels that has seen 23 pictures for two minutes knows these pictures and nothing else. It
shows that every part works together. The real model is 300 times larger and learns from millions of boxes:
<code>configs/train/pbe-sd14.yaml</code>, <code>docs/training.md</code>.</p>
<h2>Times</h2>
<table>{times}</table>
</html>
"""


def figure(source: str, caption: str, width: int) -> str:
    """A picture with its caption."""
    return (
        f'<figure><a href="{source}"><img src="{source}" width="{width}" alt="{escape(caption)}"></a>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
