"""An HTML page of one picture: what each method made of it, coupling by coupling, with errors and costs."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.measures.metrics import blank, psnr
from evaluation.pie.pie_ways import Way
from evaluation.pie.piebench import PieCase
from evaluation.reports.page import Gallery, Shown, page
from evaluation.reports.tables import Table, number
from sampling.ledger import read_records
from sampling.pictures import Picture, read_picture

_CELL = 256


def picture_sheet(ways: Mapping[Path, Way], case: PieCase, image: Path) -> str:
    """The page of one case.

    Args:
        ways: folder of results -> way; those without a result of the case are named as missing.
        case: the case.
        image: its source picture.
    """
    source = read_picture(image)
    galleries = [
        Gallery("picture", [Shown(f"{case.source_prompt} → {case.target_prompt}", _both(source, case))])
    ]
    header = ["", "error", "background PSNR ↑", "UNet calls", "UNet rows", "seconds"]
    body: list[list[str]] = []
    by_coupling: dict[str, list[Shown]] = {}
    for folder, way in ways.items():
        record = read_records(folder).get(case.key, {})
        if record.get("status") != "ok":
            body.append([way.title, record.get("error", "not made yet"), "", "", "", ""])
            continue
        result = read_picture(folder / record["output"])[:, -source.shape[1] :]
        kept = number(psnr(blank(source, case.edit_mask), blank(result, case.edit_mask)), 2)
        figures = [
            f"{record['latent_error']:.2e}",
            f"{kept} dB",
            f"{record['calls']:,}",
            f"{record['rows']:,}",
            f"{record['seconds']:.1f}",
        ]
        body.append([way.title, *figures])
        caption = " · ".join(
            [way.title, *(f"{name} {value}" for name, value in zip(_SHORT, figures, strict=True))]
        )
        coupling = ", ".join(way.couplings) or "default coupling"
        by_coupling.setdefault(coupling, []).append(Shown(caption, {"result": _small(result)}))
    galleries += [Gallery(name, shown) for name, shown in by_coupling.items()]
    notes = [
        "error: ‖reconstructed − own latents‖ / ‖own latents‖ of the source branch",
        "background PSNR: of the pictures whose edited part is black, over all pixels, as in the table",
        "seconds: inversion and edit, without encoding and decoding",
        f"settings: {_settings(ways.values())}",
    ]
    about = "What each method makes of this picture, coupling by coupling. Figures are of this picture alone."
    table = Table("cost and errors", header, body, notes)
    return page(f"PIE-Bench {case.key}", [table], galleries, about=about)


def cost_table(ways: Mapping[Path, Way]) -> Table:
    """Calls, rows and seconds of each way, averaged over what was made; errors of the source branch."""
    header = ["measured", "pictures", "UNet calls", "UNet rows", "seconds", "error"]
    body = []
    for folder, way in ways.items():
        made = [record for record in read_records(folder).values() if record["status"] == "ok"]
        means = {
            name: math.fsum(record[name] for record in made) / len(made)
            for name in ("calls", "rows", "seconds", "latent_error")
            if made
        }
        formats = {"calls": ",.0f", "rows": ",.0f", "seconds": ",.2f", "latent_error": ".2e"}
        cells = [format(means[name], form) if made else "" for name, form in formats.items()]
        body.append([way.title, f"{len(made):,}", *cells])
    return Table("cost per picture", header, body)


_SHORT = ("error", "background", "calls", "rows", "seconds")


def _settings(ways: Collection[Way]) -> str:
    """The settings that decide the cost, with every value that a way has."""
    every = [way.settings for way in ways]
    learning = [own for own in every if own.inversion in ("null-condition", "style")]
    named: dict[str, list[float]] = {
        "steps each way": [own.num_inference_steps for own in every],
        "guidance scale": [own.guidance_scale for own in every],
        "most updates before a step (of style 10 times as many at first)": [
            own.inner_steps for own in learning
        ],
    }
    texts = [
        f"{name} {', '.join(f'{value:g}' for value in sorted(set(values)))}"
        for name, values in named.items()
        if values
    ]
    return "; ".join(texts)


def _both(source: Picture, case: PieCase) -> dict[str, Image.Image]:
    shaded = np.where(case.edit_mask[..., None], source, source // 3)
    return {"source": _small(source), "what may change": _small(shaded.astype(np.uint8))}


def _small(pixels: Picture) -> Image.Image:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_CELL, _CELL), Image.Resampling.BICUBIC)
    return picture
