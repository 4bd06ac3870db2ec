"""Contact sheets: each sample as picture with mask overlay, mask, exemplar; as PNG or one HTML page."""

import base64
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dataprep.shards import tar_samples
from dataprep.stats import read_manifest
from intarsia.errors import UsageError, UserError
from intarsia.files import atomic_path, atomic_write
from intarsia.rng import derive_seed
from intarsia.sample import Sample, decode_sample

CELL = 224
GAP = 6
CAPTION = 16
TINT = (255, 40, 80)
TRIPLES_PER_ROW = 2
_LINES = (
    "Left: the picture, the edit mask in red, the annotated box in yellow. "
    "Middle: the edit mask (white = repaint). Right: the exemplar."
)


def write_contact_sheet(folder: Path, out: Path, number: int, seed: int = 0) -> int:
    """Draw samples spread over all shards.

    Args:
        folder: a finished shard folder.
        out: a .png or .html file, which is written whole or not at all.
        number: of samples; fewer where the folder has fewer.
        seed: which samples.

    Returns:
        How many samples are shown.

    Raises:
        UserError: for a folder that is not finished or holds no samples.
    """
    if out.suffix.lower() not in (".png", ".html"):
        raise UsageError(f"--out {out}: the name must end in .png or .html")
    samples = pick_samples(folder, number, seed)
    if not samples:
        raise UserError(f"{folder} holds no samples")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() == ".html":
        atomic_write(out, _page(samples, folder))
        return len(samples)
    with atomic_path(out) as temporary:
        _sheet(samples).save(temporary, format="PNG")
    return len(samples)


def pick_samples(folder: Path, number: int, seed: int) -> list[Sample]:
    """`number` different samples of a folder, uniform over all of them, in the folder's order."""
    shards = read_manifest(folder)["shardlist"]
    ends = np.cumsum([shard["nsamples"] for shard in shards])
    rng = np.random.default_rng(derive_seed(seed, "contact sheet"))
    total = int(ends[-1])
    chosen = sorted(rng.choice(total, size=min(number, total), replace=False).tolist())
    places: dict[int, list[int]] = {}
    for place in chosen:
        shard = int(np.searchsorted(ends, place, side="right"))
        places.setdefault(shard, []).append(place - int(ends[shard]) + shards[shard]["nsamples"])
    return [
        decode_sample(members, key)
        for shard, inside in places.items()
        for key, members in tar_samples(folder / shards[shard]["url"], inside)
    ]


def overlay_mask(sample: Sample) -> Image.Image:
    """The image with the edit mask tinted and the annotated box outlined."""
    strength = sample.edit_mask[:, :, None] / 255 * 0.45
    mixed = sample.image * (1 - strength) + np.array(TINT) * strength
    picture = Image.fromarray(mixed.round().astype(np.uint8))
    window, box = sample.meta.window, sample.meta.box
    scale_x, scale_y = picture.width / window.width, picture.height / window.height
    corners = (
        (box.x0 - window.x0) * scale_x,
        (box.y0 - window.y0) * scale_y,
        (box.x1 - window.x0) * scale_x - 1,
        (box.y1 - window.y0) * scale_y - 1,
    )
    if corners[0] <= corners[2] and corners[1] <= corners[3]:
        ImageDraw.Draw(picture).rectangle(corners, outline=(255, 220, 0), width=max(picture.width // 150, 1))
    return picture


def _cells(sample: Sample) -> list[Image.Image]:
    pictures = [overlay_mask(sample), Image.fromarray(sample.edit_mask), Image.fromarray(sample.exemplar)]
    cells = []
    for picture in pictures:
        picture = picture.convert("RGB")
        scale = CELL / max(picture.size)
        size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
        cells.append(picture.resize(size, Image.Resampling.BICUBIC))
    return cells


def _caption(sample: Sample) -> str:
    meta = sample.meta
    squashed = ", squashed" if meta.squashed else ""
    return f"{meta.key}  {meta.label}  {meta.mask_kind} mask{squashed}"


def _sheet(samples: list[Sample]) -> Image.Image:
    columns = min(TRIPLES_PER_ROW, len(samples))
    rows = -(-len(samples) // columns)
    width, height = 3 * (CELL + GAP) + GAP, CELL + CAPTION + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for place, sample in enumerate(samples):
        x, y = GAP + place % columns * width, GAP + place // columns * height
        draw.text((x, y), _caption(sample), fill="black")
        for number, cell in enumerate(_cells(sample)):
            sheet.paste(cell, (x + number * (CELL + GAP), y + CAPTION))
    return sheet


def _page(samples: list[Sample], folder: Path) -> str:
    figures = "\n".join(
        f"<figure><figcaption>{html.escape(_caption(sample))}</figcaption>"
        + "".join(f'<img src="{_data_uri(cell)}" alt="">' for cell in _cells(sample))
        + "</figure>"
        for sample in samples
    )
    title = html.escape(f"{folder.name}: {len(samples)} samples")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
        "<style>body{font:14px sans-serif;margin:1em}figure{display:inline-block;margin:.4em}"
        "img{margin-right:4px;vertical-align:top}figcaption{padding:2px 0}</style>\n"
        f"<h1>{title}</h1><p>{_LINES}</p>\n{figures}\n</html>\n"
    )


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
