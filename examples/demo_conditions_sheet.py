"""Measure what each condition of a model does, and the sheet of it: demo-conditions/index.html."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from demo_gallery import STYLE, save
from PIL import Image, ImageDraw

from evaluation.measures.metrics import mse
from intarsia.conditions.structure import edges
from intarsia.files import atomic_write
from intarsia.sample import Sample
from sampling.canvas.edits import EditRequest, EditResult
from sampling.canvas.sheets import sheet, with_hole
from sampling.painters.painter import Paint
from sampling.pictures import Picture
from sampling.settings import EditSettings

SETTINGS = EditSettings(
    guidance_scale=1.0, text_guidance_scale=1.0, num_inference_steps=12, scheduler="ddim", batch_size=12
)
NUMBER, SEEDS, SHOWN, CELL = 12, 3, 6, 128
CONDITIONS = ("exemplar", "text", "edges")
WAYS = {  # title of a column -> what its edits are told
    "nothing": (),
    "exemplar": ("exemplar",),
    "text": ("text",),
    "both": ("exemplar", "text"),
    "edges": ("edges",),
    "exemplar + edges": ("exemplar", "edges"),
    "text + edges": ("text", "edges"),
    "both + edges": ("exemplar", "text", "edges"),
}


@dataclass(frozen=True)
class Column:
    """The edits of all samples that are told the same conditions.

    Attributes:
        title: title of the column.
        told: its conditions.
        errors: mean squared error in the holes, pixel values in [0, 1]; one mean per seed.
        swapped: the same with one condition of each sample taken from another picture, by condition.
        images: edits with the first seed, uint8 [H, W, 3] each.
    """

    title: str
    told: tuple[str, ...]
    errors: tuple[float, ...]
    swapped: dict[str, tuple[float, ...]] = field(default_factory=dict)
    images: tuple[Picture, ...] = ()

    @property
    def error(self) -> float:
        """The mean error over seeds."""
        return float(np.mean(self.errors))

    @property
    def spread(self) -> float:
        """The largest mean error of a seed minus the smallest."""
        return max(self.errors) - min(self.errors)

    def error_swapped(self, condition: str) -> float:
        """The mean error with this condition of another picture."""
        return float(np.mean(self.swapped[condition]))

    def rises(self, condition: str) -> list[float]:
        """By how much another picture's condition raises the error of each seed, with the same noise."""
        return [swapped - own for swapped, own in zip(self.swapped[condition], self.errors, strict=True)]

    def works(self, condition: str) -> bool:
        """Whether another picture's condition raises the error by more than this differs between seeds."""
        rises = self.rises(condition)
        return float(np.mean(rises)) > max(rises) - min(rises)


def choose_samples(samples: Sequence[Sample], number: int = NUMBER) -> list[Sample]:
    """At most one sample of each picture, an even number, of as many labels as there are.

    They are in the order of their labels, so that each sample and its partner (`partner`) differ in theirs.
    """
    of_picture: dict[str, list[Sample]] = {}
    for sample in samples:
        of_picture.setdefault(sample.meta.image_id, []).append(sample)
    chosen: list[Sample] = []
    for group in of_picture.values():
        had = [sample.meta.label for sample in chosen]
        chosen.append(min(group, key=lambda sample: had.count(sample.meta.label)))
    kept = chosen[: min(number, len(chosen)) // 2 * 2]
    return sorted(kept, key=lambda sample: sample.meta.label)


def partner(place: int, number: int) -> int:
    """Place of the sample, of `number`, that a sample swaps a condition with: half the list further on."""
    return (place + number // 2) % number


def request_of(own: Sample, other: Sample, told: Sequence[str], swapped: str, seed: int) -> EditRequest:
    """The edit of a sample's hole, told some conditions; the condition `swapped` is the other sample's."""

    def given_by(condition: str) -> Sample:
        return other if condition == swapped else own

    # An edit needs an exemplar or a prompt; a space has no tokens, so it is the empty prompt.
    return EditRequest(
        own.image,
        own.edit_mask >= 128,
        given_by("exemplar").exemplar if "exemplar" in told else None,
        seed,
        prompt=given_by("text").meta.label if "text" in told else " ",
        structure={"edges": edges(given_by("edges").image)} if "edges" in told else {},
    )


def measure(
    paint: Paint,
    samples: Sequence[Sample],
    seeds: int = SEEDS,
    settings: EditSettings = SETTINGS,
    ways: Mapping[str, Sequence[str]] = WAYS,
) -> list[Column]:
    """Paint every sample's hole in each way, with each seed, and again with each condition swapped.

    Sample i is painted with seed 1000 * round + i in all ways, so that columns differ by the conditions only.
    """

    def results(told: Sequence[str], swapped: str, round_: int) -> list[EditResult]:
        number = len(samples)
        requests = [
            request_of(own, samples[partner(i, number)], told, swapped, 1000 * round_ + i)
            for i, own in enumerate(samples)
        ]
        return paint(requests, settings)

    columns = []
    for title, told in ways.items():
        own = [results(told, "", round_) for round_ in range(seeds)]
        swapped = {
            condition: tuple(mean_error(results(told, condition, round_)) for round_ in range(seeds))
            for condition in told
        }
        images = tuple(result.image for result in own[0])
        columns.append(Column(title, tuple(told), tuple(map(mean_error, own)), swapped, images))
    return columns


def mean_error(results: Sequence[EditResult]) -> float:
    """Mean squared error in the holes against the truth, pixel values in [0, 1]."""
    errors = [mse(result.image, result.request.image, result.request.edit_mask) for result in results]
    return float(np.mean(errors))


def table(columns: Sequence[Column]) -> list[str]:
    """Lines of text: error of each column, its range over seeds, and the error with each swap."""
    head = ["told", "error", "seeds +-", *(f"other {name}" for name in CONDITIONS)]
    rows = [head, *(numbers(column) for column in columns)]
    return ["".join(f"{cell:<18}" if not i else f"{cell:>18}" for i, cell in enumerate(row)) for row in rows]


def numbers(column: Column) -> list[str]:
    """The cells of a column's row in the table."""
    cells = [column.title, f"{column.error:.4f}", f"{column.spread:.4f}"]
    for name in CONDITIONS:
        told = name in column.told
        cells.append(f"{column.error_swapped(name):.4f}" + mark(column, name) if told else "-")
    return cells


def mark(column: Column, condition: str) -> str:
    """What stands behind the error with another picture's condition."""
    return "" if column.works(condition) else " no effect"


def sentences(columns: Sequence[Column]) -> list[str]:
    """What each condition did in each column, one sentence per column and condition."""
    found = []
    for column in columns:
        for name in column.told:
            rises = column.rises(name)
            figures = (
                f"with another picture's {name} the error is {column.error_swapped(name):.4f} instead of "
                f"{column.error:.4f}, a change of {min(rises):+.4f} to {max(rises):+.4f} over the seeds"
            )
            said = "an effect" if column.works(name) else "NO EFFECT beyond what repeated seeds change"
            found.append(f"{column.title}: {name} has {said}: {figures}.")
    return found


def draw_sheet(samples: Sequence[Sample], columns: Sequence[Column], shown: int = SHOWN) -> Image.Image:
    """Hole, exemplar, edges, the edits of each column, truth; below each column its errors.

    A column in which no condition has an effect shows no edits.
    """
    places = [round(i * (len(samples) - 1) / max(1, shown - 1)) for i in range(min(shown, len(samples)))]
    titles = ["hole", "exemplar", "edges", *(column.title for column in columns), "truth"]
    rows = []
    for i in places:
        request = request_of(samples[i], samples[i], ("exemplar",), "", 0)
        hidden = edges(request.image) * request.edit_mask
        inputs = [with_hole(request), samples[i].exemplar, np.stack([hidden] * 3, axis=-1)]
        edits = [column.images[i] if shows(column) else blank() for column in columns]
        rows.append([*inputs, *edits, samples[i].image])
    paper = sheet(titles, rows, CELL, [samples[i].meta.label for i in places])
    notes = [["error in the hole", "other picture's:"], [], []]
    for column in columns:
        swaps = [f"{name} {column.error_swapped(name):.4f}" + mark(column, name) for name in column.told]
        notes.append([f"{column.error:.4f} +- {column.spread:.4f}", *swaps])
    height = 16 * max(len(lines) for lines in notes) + 8
    whole = Image.new("RGB", (paper.width, paper.height + height), "white")
    whole.paste(paper)
    draw = ImageDraw.Draw(whole)
    pitch = (paper.width - 8) // len(titles)
    for place, lines in enumerate(notes):
        for line, text in enumerate(lines):
            draw.text((8 + place * pitch, paper.height + 16 * line), text, fill="black")
    return whole


def shows(column: Column) -> bool:
    """Whether a column's edits are shown: what it is told, if anything, has an effect."""
    return not column.told or any(column.works(condition) for condition in column.told)


def blank() -> Picture:
    """A cell without an edit: a light square with its diagonal, uint8 [64, 64, 3]."""
    return np.where(np.eye(64, dtype=bool)[..., None], np.uint8(160), np.full((64, 64, 3), 235, np.uint8))


def write_page(out: Path, samples: Sequence[Sample], columns: Sequence[Column]) -> None:
    """Write `out`/sheet.png and `out`/index.html."""
    save(draw_sheet(samples, columns), out / "sheet.png")
    atomic_write(out / "index.html", page(columns, len(samples)))


def page(columns: Sequence[Column], number: int) -> str:
    """The HTML, which refers to the sheet beside it."""
    head = [
        "told",
        "error",
        "range over seeds",
        *(f"with another's {name}" for name in CONDITIONS),
    ]
    rows = [head, *(numbers(column) for column in columns)]
    cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences(columns))
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Intarsia: conditions</title><style>{STYLE}
body {{ max-width: 90rem }}</style>
<h1>What each condition does</h1>
<p>One small model, trained on crops of the bundled pictures and told the exemplar (class token and patches),
the label of the box, and edges. The whole crop is hidden, because with surroundings a model that knows 23
pictures needs no condition. It is painted told one of them, both, and with edges. The error is the mean
square in the hole against the true picture, pixel values 0…1, over {number} pictures and {SEEDS} seeds.
It is measured again, from the same noise, with one condition of another picture: if its rise is not larger
than it differs between seeds, the condition has no effect, and a column without any shows no edits.</p>
<a href="sheet.png"><img src="sheet.png" alt="holes, conditions, edits and truth"></a>
<table>{cells}</table>
<ul>{said}</ul>
<h2>What this is not</h2>
<p>The model knows these pictures and few others, and paints holes that it has been trained on. Its image and
text towers are random and frozen: labels are names to it, without any meaning. The sheet shows that the
conditions steer, not how well a real model follows them (<code>docs/method.md</code>).</p>
</html>
"""
