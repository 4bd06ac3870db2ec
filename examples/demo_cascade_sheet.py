"""Measure what a noised encoder and an upsampler do for the demo's model, and the sheets of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from demo_gallery import STYLE, read_samples, save
from PIL import Image, ImageDraw

from evaluation.measures.metrics import mse
from intarsia.conditions.low_res import area_mean
from intarsia.files import atomic_write
from intarsia.model import EditModel
from intarsia.sample import Sample
from sampling.canvas.canvas import fit_exemplar
from sampling.canvas.edits import EditRequest
from sampling.canvas.sheets import sheet, with_hole
from sampling.denoise.condition import Encoder
from sampling.denoise.sampler import new_noise_scheduler
from sampling.editing import edit
from sampling.pictures import Picture
from sampling.settings import EditSettings
from sampling.upsampler.window import Told, upsample

PLAIN = EditSettings(guidance_scale=1.0, num_inference_steps=12, scheduler="ddim", batch_size=12)
SCALES, QUARTERS, SEEDS, SHOWN = (0.0, 1.0, 2.0), (125, 375, 625, 875), 3, 6
_PIXELS = ("image", "edit_mask")
_STRIP = 14  # height of a line of text below a picture


@dataclass(frozen=True)
class Cascade:
    """What the demo has trained, and the samples that it is tried on, one of each picture.

    Attributes:
        model: base, with noised encoder and upsampler.
        samples: samples of 64 pixels.
    """

    model: EditModel
    samples: Sequence[Sample]

    @staticmethod
    def read(out: Path) -> "Cascade":
        """From the demo's folder."""
        from intarsia.conditions.noised import read_noised
        from intarsia.weights import read_model

        model = read_model(out / "run" / "model")
        model.noised = read_noised(out / "noised" / "noised", model)
        model.upsampler = read_model(out / "upsampler" / "model")
        return Cascade(model, one_of_each(read_samples(out / "shards")))


def one_of_each(samples: Sequence[Sample]) -> list[Sample]:
    """The first sample of each picture."""
    return list({sample.meta.image_id: sample for sample in reversed(samples)}.values())[::-1]


@torch.no_grad()
def retrieval(
    model: EditModel, samples: Sequence[Sample], draws: int = 4, hidden: bool = False
) -> list[float]:
    """Share of noisy latents for which the encoder finds their own exemplar, at the middle of each quarter.

    Args:
        model: model with a noised encoder.
        samples: samples whose exemplars it chooses from.
        draws: draws of the noise.
        hidden: whether the surroundings are hidden, too.
    """
    assert model.noised is not None, "the model has no noised encoder"
    encoder, rng = Encoder(model, torch.device("cpu")), torch.Generator().manual_seed(0)
    image, mask = (torch.from_numpy(np.stack([getattr(one, name) for one in samples])) for name in _PIXELS)
    mask = mask | 255 if hidden else mask
    exemplars = [torch.from_numpy(fit_exemplar(sample.exemplar)) for sample in samples]
    known = model.noised.know(encoder.features(exemplars))
    shape = len(samples), model.config.vae.latent_channels, *(model.config.latent_size,) * 2
    levels = new_noise_scheduler(model.config.noise, "ddim").alphas_cumprod
    latents = encoder.latents(image, torch.zeros_like(mask), torch.zeros(shape))
    channels = encoder.condition(image, mask, (), torch.zeros(shape)).channels
    shares = []
    for timestep in QUARTERS:
        kept, found = levels[timestep], 0.0
        for _ in range(draws):
            noisy = kept.sqrt() * latents + (1 - kept).sqrt() * torch.randn(shape, generator=rng)
            seen = model.noised.see(noisy, torch.full(shape[:1], timestep), channels)
            found += float(((seen @ known.T).argmax(dim=1) == torch.arange(len(samples))).float().mean())
        shares.append(found / draws)
    return shares


@dataclass(frozen=True)
class Guided:
    """The edits at one scale of guidance: mean squared error in the holes of each seed, and pictures."""

    scale: float
    errors: tuple[float, ...]
    images: tuple[Picture, ...]


def guided(model: EditModel, samples: Sequence[Sample], seeds: int = SEEDS) -> list[Guided]:
    """The same holes painted with the same noise at each scale."""
    columns = []
    for scale in SCALES:
        settings = PLAIN.model_copy(update={"clip_guidance": scale})
        rounds = [
            edit(model, [_request(sample, 1000 * seed + i) for i, sample in enumerate(samples)], settings)
            for seed in range(seeds)
        ]
        errors = tuple(
            float(np.mean([mse(r.image, r.request.image, r.request.edit_mask) for r in results]))
            for results in rounds
        )
        columns.append(Guided(scale, errors, tuple(result.image for result in rounds[0])))
    return columns


def _request(sample: Sample, seed: int) -> EditRequest:
    return EditRequest(sample.image, sample.edit_mask >= 128, sample.exemplar, seed)


@dataclass(frozen=True)
class Enlarged:
    """One hole, painted at the base's size and made larger: pictures, uint8 [S, S, 3], PSNR in the hole."""

    hole: Picture
    pictures: dict[str, Picture]
    psnr: dict[str, float]
    truth: Picture


def enlarge(model: EditModel, samples: Sequence[Sample]) -> list[Enlarged]:
    """Paint holes with the base, reduce the edits, and enlarge them in three ways."""
    assert model.upsampler is not None and model.upsampler.config.low_res is not None, "no upsampler"
    encoder, factor = Encoder(model.upsampler, torch.device("cpu")), model.upsampler.config.low_res.factor
    requests = [_request(sample, number) for number, sample in enumerate(samples)]
    made = []
    for request, result in zip(requests, edit(model, requests, PLAIN), strict=True):
        mask, exemplar = np.asarray(request.edit_mask), torch.from_numpy(fit_exemplar(request.exemplar))
        small = area_mean(torch.from_numpy(result.image)[None], factor)[0].numpy()
        size = request.image.shape[:2]
        ways = {
            name: np.asarray(Image.fromarray(small).resize(size, how))
            for name, how in (("base", Image.Resampling.BOX), ("bilinear", Image.Resampling.BILINEAR))
        }
        told = Told(exemplar, "", request.seed)
        ways["upsampled"] = upsample(encoder, request.image, mask, ways["base"], told, PLAIN)
        pictures = {name: np.where(mask[..., None], way, request.image) for name, way in ways.items()}
        found = {name: psnr(picture, request.image, mask) for name, picture in pictures.items()}
        made.append(Enlarged(with_hole(request), pictures, found, request.image))
    return made


def psnr(one: Picture, other: Picture, mask: np.ndarray) -> float:
    """Peak signal-to-noise ratio in a hole, in dB."""
    return float(-10 * np.log10(max(mse(one, other, mask), 1e-10)))


def sentences(columns: Sequence[Guided], enlarged: Sequence[Enlarged]) -> list[str]:
    """What guidance and upsampler did, one sentence each."""
    said, plain = [], columns[0]
    for column in columns[1:]:
        changes = [own - before for own, before in zip(column.errors, plain.errors, strict=True)]
        steady = abs(float(np.mean(changes))) > max(changes) - min(changes)
        figures = (
            f"the error in the holes is {np.mean(column.errors):.4f} instead of {np.mean(plain.errors):.4f}, "
            f"a change of {min(changes):+.4f} to {max(changes):+.4f} over the seeds"
        )
        what = "an effect" if steady else "NO EFFECT on the error beyond what repeated seeds change"
        said.append(f"Guidance by the noised encoder at W = {column.scale:g} has {what}: {figures}.")
    gains = [one.psnr["upsampled"] - one.psnr["bilinear"] for one in enlarged]
    mean, spread = float(np.mean(gains)), float(np.std(gains, ddof=1) / len(gains) ** 0.5)
    effect = "an effect" if abs(mean) > 2 * spread else "NO EFFECT beyond what differs between pictures"
    said.append(
        f"The upsampler has {effect}: {mean:+.1f} dB (+- {spread:.1f}) in the hole compared with bilinear "
        f"enlargement, over {len(gains)} pictures."
    )
    return said


def tables(shares: dict[str, list[float]], enlarged: Sequence[Enlarged], number: int) -> list[str]:
    """Lines of text: retrieval by quarter of the timesteps, and PSNR."""
    times = ", ".join(map(str, QUARTERS))
    lines = [f"Own exemplar found among {number} (chance {1 / number:.2f}), at t = {times}"]
    lines += [f"  {name}: " + ", ".join(f"{share:.2f}" for share in row) for name, row in shares.items()]
    means = {name: np.mean([one.psnr[name] for one in enlarged]) for name in enlarged[0].psnr}
    return [*lines, "PSNR in the hole: " + ", ".join(f"{name} {mean:.1f} dB" for name, mean in means.items())]


def report(cascade: Cascade, out: Path) -> list[str]:
    """Measure all, write `out`/index.html with its sheets, and return what there is to say."""
    model, small = cascade.model, cascade.samples
    shares = {
        "surroundings known": retrieval(model, small),
        "surroundings hidden, as never in training": retrieval(model, small, hidden=True),
    }
    columns = guided(model, small[: 2 * SHOWN])
    enlarged = enlarge(model, small[: 2 * SHOWN])
    lines = [*tables(shares, enlarged, len(small)), *sentences(columns, enlarged)]
    save(guidance_sheet(small, columns), out / "guidance.png")
    save(upsampler_sheet(enlarged), out / "upsampler.png")
    atomic_write(out / "index.html", page(lines))
    return lines


def guidance_sheet(samples: Sequence[Sample], columns: Sequence[Guided], shown: int = SHOWN) -> Image.Image:
    """Hole, exemplar, the edits at each scale with their errors, truth."""
    rows = []
    for i, sample in enumerate(samples[:shown]):
        hole = with_hole(_request(sample, i))
        edits = [
            captioned(column.images[i], f"{mse(column.images[i], sample.image, sample.edit_mask >= 128):.4f}")
            for column in columns
        ]
        rows.append([hole, sample.exemplar, *edits, sample.image])
    titles = ["hole", "exemplar", *(f"W = {column.scale:g}" for column in columns), "truth"]
    return sheet(titles, rows, 144)


def upsampler_sheet(enlarged: Sequence[Enlarged], shown: int = SHOWN) -> Image.Image:
    """Hole, base, bilinear, upsampled, truth, with the PSNR in the hole."""
    rows = []
    for one in enlarged[:shown]:
        ways = [captioned(picture, f"{one.psnr[name]:.1f} dB") for name, picture in one.pictures.items()]
        rows.append([one.hole, *ways, one.truth])
    return sheet(["hole", "base", "bilinear", "upsampled", "truth"], rows, 144)


def captioned(picture: Picture, text: str) -> Picture:
    """A picture of at least 128 pixels with a line of text below it."""
    times = max(1, 128 // picture.shape[0])
    large = picture.repeat(times, axis=0).repeat(times, axis=1)
    whole = Image.new("RGB", (large.shape[1], large.shape[0] + _STRIP), "white")
    whole.paste(Image.fromarray(large))
    ImageDraw.Draw(whole).text((2, large.shape[0] + 1), text, fill="black")
    return np.asarray(whole)


def page(lines: Sequence[str]) -> str:
    """The HTML, which refers to the sheets beside it."""
    said = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Intarsia: cascade</title><style>{STYLE}
body {{ max-width: 90rem }}</style>
<h1>A noised encoder and an upsampler</h1>
<ul>{said}</ul>
<h2>The same edits, guided</h2>
<p>Below each edit stands its mean squared error in the hole, pixel values 0…1.</p>
<a href="guidance.png"><img src="guidance.png" alt="hole, exemplar, edits at three scales, truth"></a>
<h2>From 16 to 64 pixels</h2>
<p>The base's edit is reduced to 16 pixels. Below each enlargement stands its PSNR in the hole.</p>
<a href="upsampler.png"><img src="upsampler.png" alt="hole, base, bilinear, upsampled, truth"></a>
<h2>What this is not</h2>
<p>All three models know these 23 pictures and few others, and are tried on these. Their image tower is
random. The sheets show that the parts work together, not how good real ones are
(<code>docs/method.md</code>).</p>
</html>
"""
