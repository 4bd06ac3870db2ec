"""Reports and comparisons as one HTML page that needs no other file: tables, and cases as pictures."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from evaluation.reports.charts import Plot
from evaluation.reports.tables import Table, number
from evaluation.scoring.report import Report, ReportColumn, unpack_mask
from intarsia.errors import UserError
from sampling.pictures import Mask, Picture, read_mask, read_picture

_CELL = 224  # pixels of a picture's longer side
_LARGEST = 1024  # the same, after a click
_CLICK = """onclick="this.classList.toggle('full')\""""
SHOWN = 6  # cases of a gallery
_HOLE = 128
_WIDE = ("recipe", "verdict")  # headings of columns of text, which is to the left and wrapped
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 76em; padding: 1em; color: #222;
  background: #fafafa }
h1 { font-size: 1.35em; margin: 0 0 .2em }
h2 { font-size: 1.05em; margin: 1.8em 0 .5em }
p, li, figcaption, small { color: #555 }
ul { margin: .5em 0; padding-left: 1.2em; font-size: .9em }
div.wide { overflow-x: auto }
figure:has(span):not(:has(span + span)) { width: 18em }
table { border-collapse: collapse; background: #fff; font-variant-numeric: tabular-nums }
th, td { padding: .3em .7em; border: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child, th.recipe { text-align: left }
th { background: #f0f0ee; font-weight: 600 }
td.recipe { text-align: left; font: 12px ui-monospace, monospace; color: #666; white-space: normal;
  overflow-wrap: anywhere; min-width: 22em }
th.verdict, td.verdict { text-align: left; white-space: normal; min-width: 14em }
td.sure { background: #e5f2e2 }
td.unlike { background: #fbe9dc }
section { display: flex; flex-wrap: wrap; gap: .8em }
figure { margin: 0; padding: .6em; background: #fff; border: 1px solid #ddd; border-radius: 4px;
  box-sizing: border-box; max-width: 100% }
figcaption { max-width: 900px; overflow-wrap: anywhere; padding-bottom: .4em }
figcaption b { color: #222 }
figure div { display: flex; gap: 6px; overflow-x: auto }
svg { font: 10px system-ui, sans-serif; fill: #457 }
svg text { fill: #555 }
svg polyline { fill: none; stroke: #999 }
svg line.equal { stroke: #bbb; stroke-dasharray: 4 }
svg circle { fill-opacity: .5 }
img { cursor: zoom-in; max-width: 100% }
img.full { width: auto !important; max-width: none; cursor: zoom-out }
figure span { display: flex; flex-direction: column; font-size: .8em; color: #777; min-width: 0 }
figure span:has(.full) { flex-shrink: 0 }
@media (max-width: 600px) {
  figure div { flex-wrap: wrap }
  figure :is(span + span, span:has(+ span)):not(:has(.full)) { max-width: calc(50% - 3px) }
  th, td { padding: .3em .4em }
  th:first-child, td:first-child { white-space: normal }
}
"""


@dataclass(frozen=True)
class Shown:
    """A case as pictures, by what they are, under a caption."""

    caption: str
    pictures: Mapping[str, Image.Image]


@dataclass(frozen=True)
class Gallery:
    """Cases under a title."""

    title: str
    cases: Sequence[Shown]


_OF_AVERAGES = (
    "95 % intervals: of averages by bootstrap over the cases, of numbers of a whole set by leaving out "
    "groups of cases. An arrow shows which way is better. A recipe names everything that decides a number; "
    "compare numbers of one recipe only."
)


def page(
    title: str,
    tables: Sequence[Table],
    galleries: Sequence[Gallery],
    charts: Sequence[Plot] = (),
    about: str = _OF_AVERAGES,
) -> str:
    """The page; `about`: plain text under its title."""
    drawn = [_charts(charts)] if charts else []
    body = "\n".join([*map(_table, tables), *drawn, *map(_gallery, galleries)])
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>
<style>{_STYLE}</style>
<h1>{html.escape(title)}</h1>
<p>{html.escape(about)}</p>
{body}
</html>
"""


def best_and_worst(report: Report, column: ReportColumn, count: int = SHOWN) -> list[Gallery]:
    """The cases with the worst and with the best values of a column, worst and best first."""
    values = {key: value for key, value in report.values(column.name).items() if not math.isnan(value)}
    ranked = sorted(values, key=lambda key: (values[key], key), reverse=column.better == "up")
    worst, best = ranked[: -count - 1 : -1], ranked[:count]
    return [
        Gallery(f"{kind} cases by {column.heading}", [_shown(report, key) for key in keys])
        for kind, keys in (("worst", worst), ("best", [key for key in best if key not in worst]))
        if keys
    ]


def largest_changes(
    first: Report, other: Report, column: ReportColumn | None, count: int = SHOWN, keys: Sequence[str] = ()
) -> list[Gallery]:
    """The cases where one report is furthest ahead of another; with `keys` these cases.

    Without a column, only `keys` are shown.
    """
    if chosen := [key for key in keys if key in other.rows]:
        return [Gallery(f"chosen cases, {other.name}", [_pair(first, other, column, key) for key in chosen])]
    if column is None:
        return []
    before, after = first.values(column.name), other.values(column.name)
    gain = {key: after[key] - before[key] for key in before.keys() & after.keys()}
    sign = 1 if column.better == "up" else -1
    ranked = sorted(
        (key for key in gain if math.isfinite(gain[key])), key=lambda key: (sign * gain[key], key)
    )
    galleries = []
    for ahead, keys in ((other, ranked[: -count - 1 : -1]), (first, ranked[:count])):
        won = [key for key in keys if (sign * gain[key] > 0) == (ahead is other) and gain[key]]
        if won:
            title = f"where {ahead.name} is furthest ahead by {column.heading}"
            galleries.append(Gallery(title, [_pair(first, other, column, key) for key in won]))
    return galleries


def chosen_cases(report: Report, keys: Sequence[str]) -> list[Gallery]:
    """The cases with these keys, in this order."""
    return [Gallery("chosen cases", [_shown(report, key) for key in keys])] if keys else []


def strip(shown: Shown) -> Image.Image:
    """A case's pictures side by side."""
    gap, pictures = 6, [_small(picture) for picture in shown.pictures.values()]
    width = sum(picture.width + gap for picture in pictures)
    whole = Image.new("RGB", (max(width, 1), _CELL), "white")
    x = 0
    for picture in pictures:
        whole.paste(picture, (x, 0))
        x += picture.width + gap
    return whole


def _pair(first: Report, other: Report, column: ReportColumn | None, key: str) -> Shown:
    own, theirs = _pictures(first, key), _pictures(other, key)
    values = [
        f"{r.name}: {number(r.rows[key][column.name], column.digits)}" if column else r.name
        for r in (first, other)
    ]
    pictures = {name: picture for name, picture in own.items() if name != "result"}
    for report, found in ((first, own), (other, theirs)):
        if "result" in found:
            pictures[report.name] = found["result"]
    return Shown(" · ".join([key, *_asked(first, key), *values]), pictures)


def _shown(report: Report, key: str) -> Shown:
    values = [
        f"{column.title} {number(report.rows[key][column.name], column.digits)}"
        for column in report.columns
        if not math.isnan(report.rows[key][column.name])
    ]
    return Shown(" · ".join([key, *_asked(report, key), *values]), _pictures(report, key))


def _asked(report: Report, key: str) -> list[str]:
    return [text for text in (report.groups.get(key, ""), report.captions.get(key, "")) if text]


def _pictures(report: Report, key: str) -> dict[str, Image.Image]:
    """Picture with the hole, exemplar, result, truth: those that there are."""
    names = {"image": "picture", "exemplar": "exemplar", "result": "result", "truth": "truth"}
    files, found = report.files.get(key, {}), {}
    for kind, name in names.items():
        if kind not in files:
            continue
        try:
            pixels = read_picture(files[kind])
            if kind == "image" and (key in report.masks or "mask" in files):
                packed = report.masks.get(key)
                mask = unpack_mask(packed) if packed else read_mask(files["mask"])
                pixels, name = _with_hole(pixels, mask), "picture with the hole"
        except UserError:  # moved since it was scored
            continue
        found[name] = _large(pixels)
    return found


def _with_hole(pixels: Picture, edited: Mask) -> Picture:
    return (
        np.where(edited[..., None], np.uint8(_HOLE), pixels) if edited.shape == pixels.shape[:2] else pixels
    )


def _large(pixels: Picture) -> Image.Image:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BICUBIC)
    return picture


def _small(picture: Image.Image) -> Image.Image:
    picture = picture.copy()
    picture.thumbnail((_CELL, _CELL), Image.Resampling.BICUBIC)
    return picture


def _table(table: Table) -> str:
    header = "".join(
        f"<th{f' class={cell}' if cell in _WIDE else ''}>{html.escape(cell)}</th>" for cell in table.header
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            _cell(heading, cell, (number, place) in table.best)
            for place, (heading, cell) in enumerate(zip(table.header, row, strict=True))
        )
        + "</tr>"
        for number, row in enumerate(table.rows)
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return (
        f'<h2>{html.escape(table.title)}</h2><div class="wide"><table><tr>{header}</tr>\n{rows}</table></div>'
        + (f"<ul>{notes}</ul>" if notes else "")
    )


def _cell(heading: str, cell: str, best: bool = False) -> str:
    kinds = [heading] if heading in _WIDE else []
    if heading != "recipe" and ("≠" in cell or cell == "not comparable"):
        kinds.append("unlike")
    elif cell.startswith("beyond noise"):
        kinds.append("sure")
    text = f"<b>{html.escape(cell)}</b>" if best else html.escape(cell)
    return f'<td class="{" ".join(kinds)}">{text}</td>' if kinds else f"<td>{text}</td>"


def _gallery(gallery: Gallery) -> str:
    figures = "\n".join(map(_figure, gallery.cases))
    return f"<h2>{html.escape(gallery.title)}</h2><section>\n{figures}\n</section>"


def _figure(shown: Shown) -> str:
    pictures = "".join(
        f'<span><img src="{_data_uri(picture)}" {_size(picture)} alt="" {_CLICK}>{html.escape(name)}</span>'
        for name, picture in shown.pictures.items()
    )
    key, dot, rest = map(html.escape, shown.caption.partition(" · "))
    return f"<figure><figcaption><b>{key}</b>{dot}{rest}</figcaption><div>{pictures}</div></figure>"


def _size(picture: Image.Image) -> str:
    """The size in the row of pictures; a click shows the picture as it is."""
    side = min(_CELL / max(picture.size), 1.0)
    return f'style="width:{round(picture.width * side)}px"'


def _charts(charts: Sequence[Plot]) -> str:
    figures = "\n".join(
        f"<figure><figcaption>{html.escape(chart.title)}</figcaption>{chart.svg}</figure>" for chart in charts
    )
    return f"<h2>charts</h2><section>\n{figures}\n</section>"


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
