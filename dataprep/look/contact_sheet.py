"""Contact sheets: each sample as picture with mask overlay, mask, exemplar; as PNG or one HTML page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dataprep.look.origins import origins_of
from dataprep.look.page import contact_page
from dataprep.look.pick import Choice, pick_samples
from dataprep.look.view import BOX_OUTLINE, CELL_SIDE, OUTLINE, TINT, sample_caption, sample_cells
from intarsia.errors import UsageError, UserError
from intarsia.files import atomic_path, atomic_write
from intarsia.sample import Sample

GAP = 6
CAPTION = 16
SAMPLES_PER_ROW = 2
LEGEND = 2 * CAPTION


def write_contact_sheet(folder: Path, out: Path, choice: Choice) -> int:
    """Draw samples of a finished shard folder.

    Args:
        folder: shard folder.
        out: .png or .html file, written whole or not at all.
        choice: samples to show; fewer are shown if the folder has fewer.

    Returns:
        The number of samples shown.

    Raises:
        UserError: for a folder that is not finished or holds no samples.
    """
    _check_name(out)
    samples = pick_samples(folder, choice)
    if not samples:
        raise UserError(f"{folder} holds no samples")
    write_samples(samples, out, folder.resolve().name, origins_of(folder, samples))
    return len(samples)


def write_samples(
    samples: list[Sample], out: Path, title: str, origins: Sequence[np.ndarray | None] | None = None
) -> None:
    """Draw these samples.

    Args:
        samples: samples to show, at least one.
        out: .png or .html file, written whole or not at all.
        title: title of the HTML page.
        origins: for each sample of a pair the exemplar's own picture (`origins_of`).

    Raises:
        UsageError: for another file name.
    """
    _check_name(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    cells = [sample_cells(*pair) for pair in zip(samples, origins or [None] * len(samples), strict=True)]
    if out.suffix.lower() == ".html":
        atomic_write(out, contact_page(samples, cells, title))
        return
    with atomic_path(out) as temporary:
        _sheet(samples, cells).save(temporary, format="PNG")


def _check_name(out: Path) -> None:
    if out.suffix.lower() not in (".png", ".html"):
        raise UsageError(f"--out {out}: the name must end in .png or .html")


def _sheet(samples: list[Sample], cells: list[list[Image.Image]]) -> Image.Image:
    columns = min(SAMPLES_PER_ROW, len(samples))
    rows = -(-len(samples) // columns)
    width, height = max(map(len, cells)) * (CELL_SIDE + GAP) + GAP, CELL_SIDE + CAPTION + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP + LEGEND), "white")
    draw = ImageDraw.Draw(sheet)
    for place, sample in enumerate(samples):
        x, y = GAP + place % columns * width, GAP + place // columns * height
        draw.text((x, y), sample_caption(sample), fill="black")
        for number, cell in enumerate(cells[place]):
            sheet.paste(cell, (x + number * (CELL_SIDE + GAP), y + CAPTION))
    masks = any(sample.object_mask is not None for sample in samples)
    _draw_legend(draw, rows * height + GAP, masks, any(sample.meta.exemplar_from for sample in samples))
    return sheet


def _draw_legend(draw: ImageDraw.ImageDraw, y: int, object_masks: bool, pairs: bool) -> None:
    """Two lines below the samples: colours of the left picture, and what the others are."""
    x: float = GAP
    colours = {"edit mask": TINT, "annotated box": BOX_OUTLINE, "object's own mask": OUTLINE}
    for name, colour in colours.items():
        if name.startswith("object") and not object_masks:
            continue
        draw.rectangle((x, y + 2, x + 8, y + 10), fill=colour, outline="black")
        draw.text((x + 14, y), name, fill="black")
        x += 14 + draw.textlength(name) + 14
    words = "left: picture; middle: edit mask, white = repaint; right: exemplar"
    if pairs:
        words = "from left: picture; edit mask, white = repaint; the exemplar's own picture; exemplar"
    draw.text((GAP, y + CAPTION), words, fill="black")
