"""The contact sheet as one HTML page that needs no other file, with filters by class, mask and text."""

import base64
import html
import io
from collections import Counter

from PIL import Image

from dataprep.look.view import sample_caption
from intarsia.sample import Sample

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 0; color: #222; background: #fafafa }
header { position: sticky; top: 0; padding: .6em 1em; background: #fff; border-bottom: 1px solid #ddd }
h1 { font-size: 1.1em; margin: 0 0 .3em }
p { margin: .3em 0; color: #555 }
form { display: flex; flex-wrap: wrap; gap: .4em 1.2em; align-items: center }
input, select { font: inherit; padding: .15em .3em }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: .8em;
  padding: 1em; align-items: start }
figure { margin: 0; min-width: 0; padding: .5em; background: #fff; border: 1px solid #ddd;
  border-radius: 4px }
figure[hidden] { display: none }
figcaption { overflow-wrap: anywhere; padding-bottom: .3em }
small { color: #777 }
.cells { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; align-items: start }
img { width: 100%; height: auto }
"""
_SCRIPT = """
const controls = document.forms[0], figures = [...document.querySelectorAll("figure")];
function apply() {
  const words = controls.text.value.toLowerCase().split(/\\s+/);
  let shown = 0;
  for (const figure of figures) {
    const fits = (!controls.label.value || figure.dataset.label === controls.label.value)
      && (!controls.mask.value || figure.dataset.mask === controls.mask.value)
      && words.every(word => figure.textContent.toLowerCase().includes(word));
    figure.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").textContent = `${shown} of ${figures.length} shown`;
}
controls.addEventListener("input", apply);
controls.addEventListener("submit", event => event.preventDefault());
controls.addEventListener("reset", () => setTimeout(apply));
apply();
"""
_LEGEND = (
    "Left: the picture, the edit mask in red, the annotated box in yellow, the object's own mask, if stored, "
    "in blue. Middle: the edit mask (white = repaint), of a pair also the exemplar's own picture. Right: the "
    "exemplar."
)


def contact_page(samples: list[Sample], cells: list[list[Image.Image]], name: str) -> str:
    """The page of these samples, in their order.

    Args:
        samples: samples to show, at least one.
        cells: pictures of each (`view.sample_cells`).
        name: folder name, for the title.
    """
    labels = Counter(sample.meta.label for sample in samples)
    masks = Counter(_mask_of(sample) for sample in samples)
    title = html.escape(f"{name}: {len(samples)} samples")
    figures = "\n".join(_figure(*one) for one in zip(samples, cells, strict=True))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{title}</title>
<style>{_STYLE}</style>
<header><h1>{title}</h1><p>{_LEGEND}</p>
<form><label>class {_select("label", labels)}</label> <label>mask {_select("mask", masks)}</label>
<label>text <input name="text" type="search" placeholder="key, file, class"></label>
<button type="reset">all</button> <output id="shown"></output></form></header>
<main>
{figures}
</main>
<script>{_SCRIPT}</script></html>
"""


def _mask_of(sample: Sample) -> str:
    return sample.meta.mask_kind + (", squashed" if sample.meta.squashed else "")


def _select(name: str, numbers: Counter[str]) -> str:
    options = "".join(
        f'<option value="{html.escape(value)}">{html.escape(value)} ({number})</option>'
        for value, number in sorted(numbers.items())
    )
    return f'<select name="{name}"><option value="">any</option>{options}</select>'


def _figure(sample: Sample, cells: list[Image.Image]) -> str:
    meta = sample.meta
    caption = html.escape(sample_caption(sample))
    detail = html.escape(
        f"{meta.file}, {meta.image_size[0]}x{meta.image_size[1]}, "
        f"box {meta.box.as_list()} of {len(meta.boxes)}, draw {meta.draw}"
    )
    images = "".join(f'<img src="{_data_uri(cell)}" alt="">' for cell in cells)
    label, mask = html.escape(meta.label), html.escape(_mask_of(sample))
    return (
        f'<figure data-label="{label}" data-mask="{mask}"><figcaption>{caption}<br><small>{detail}</small>'
        f'</figcaption><div class="cells">{images}</div></figure>'
    )


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
