"""The page: a picture, a painted mask, an exemplar, and the edits. What happens on it is in events.py."""

from pathlib import Path
from typing import Any, get_args

import gradio as gr

from intarsia.files import ROOT
from sampling.settings import EditSettings, ExemplarBackground, Fit, MatchColour, SchedulerName
from sampling.web.events import canvas, offered, painter, path_of, show_pair, stopper, taker
from sampling.web.line import Stops
from sampling.web.service import Limits, Service

# Fonts of the system: others would come from a foreign host.
THEME = gr.themes.Default(
    font=["system-ui", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "monospace"],
)
CSS = ".gradio-container {max-width: 1400px !important; margin: auto}"

_EXAMPLES = ROOT / "examples"
_BUNDLED = [  # picture, mask, exemplar; absent from an installed copy
    ("coco-mini/images/000000017029.jpg", "edits/dog.mask.png", "edits/dog.exemplar.jpg"),
    ("coco-mini/images/000000015746.jpg", "edits/hydrant.mask.png", "edits/hydrant.exemplar.jpg"),
    ("coco-mini/images/000000017029.jpg", "edits/dog.mask.png", "edits/hydrant.exemplar.jpg"),
]
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", "concurrency_limit": 2}


def build_page(service: Service, browse: Path | None, batch_size: int, stops: Stops) -> gr.Blocks:
    """The page with its events.

    Args:
        service: service that makes the edits.
        browse: folder of pictures that the page offers.
        batch_size: edits of a request at the same time.
        stops: what stops each visitor's edits.
    """
    with gr.Blocks(title="Intarsia", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# Intarsia\nPaint over the part to replace, and give a picture of the new object.")
        with gr.Row():
            with gr.Column(scale=3):
                picture = _slot("1. Picture", "picture", 260)
                editor = _editor()
                with gr.Accordion("or give a mask file; it goes before what is painted", open=False):
                    mask = _slot("Mask: white is repainted", "mask", 200)
                    invert = gr.Checkbox(label="Black is repainted, not white")
            with gr.Column(scale=2):
                exemplar = _slot("3. Exemplar: what to paint, cut out tightly", "exemplar", 260)
                controls = _controls(service.limits)
                with gr.Row():
                    go = gr.Button("Edit", variant="primary", elem_id="go", scale=3)
                    end = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
        if browse is not None:
            _offer(service, browse.resolve(), {"picture": picture, "mask": mask, "exemplar": exemplar})
        notes = gr.Markdown(elem_id="notes")
        with gr.Row():
            slider = gr.ImageSlider(label="Before and after", elem_id="slider", interactive=False)
            gallery = gr.Gallery(
                label="Edits", elem_id="gallery", object_fit="contain", buttons=["fullscreen"]
            )
        files = gr.File(
            label="Download: each PNG says how it was made",
            file_count="multiple",
            elem_id="files",
            interactive=False,
        )
        pairs = gr.State([])
        examples = [[str(_EXAMPLES / file) for file in row] for row in _BUNDLED]
        if all(Path(file).is_file() for row in examples for file in row):
            gr.Examples(examples, [picture, mask, exemplar], label="Examples")

        picture.change(canvas(service), picture, editor, **_QUIET)
        go.click(
            painter(service, list(controls), batch_size, stops),
            [picture, editor, mask, invert, exemplar, *controls.values()],
            [gallery, files, notes, pairs, slider],
            concurrency_limit=service.limits.waiting + 1,  # they wait in our line, where they can be stopped
            api_visibility="private",
        )
        # Not through the framework's queue, where it would wait for others.
        end.click(stopper(stops), queue=False, api_visibility="private")
        gallery.select(show_pair, pairs, slider, **_QUIET)
    page.queue(max_size=service.limits.waiting + 1)
    return page


def _slot(label: str, name: str, height: int) -> gr.Image:
    """A place for a file."""
    slot = gr.Image(
        label=label, elem_id=name, type="filepath", sources=["upload", "clipboard"], height=height, buttons=[]
    )
    # The file's own bytes come to us: gradio would decode it first, and fail without a sentence.
    slot.preprocess = path_of  # type: ignore[method-assign]
    return slot


def _editor() -> gr.ImageEditor:
    orange = ("#ff7f0e", 0.7)  # the picture shines through
    brush = gr.Brush(default_size=40, colors=[orange], default_color=orange, color_mode="fixed")
    return gr.ImageEditor(
        label="2. Paint over what is to be repainted",
        elem_id="editor",
        sources=(),
        transforms=(),
        layers=False,
        brush=brush,
        image_mode="RGBA",
        format="png",
        type="numpy",
        height=560,
        buttons=[],
    )


def _controls(limits: Limits) -> dict[str, gr.components.Component]:
    """What may be chosen, by name: the settings of an edit, the seed and the number."""
    default = EditSettings()

    def choice(kind: Any, name: str, label: str) -> gr.Dropdown:
        return gr.Dropdown(list(get_args(kind)), value=getattr(default, name), label=label)

    controls: dict[str, gr.components.Component] = {
        "guidance_scale": gr.Slider(
            1,
            15,
            default.guidance_scale,
            step=0.5,
            label="Guidance scale: how strongly to follow the exemplar",
        ),
        "num_inference_steps": gr.Slider(
            1, 200, default.num_inference_steps, step=1, label="Steps", elem_id="steps"
        ),
        "scheduler": choice(SchedulerName, "scheduler", "Sampler"),
        "seed": gr.Number(0, precision=0, minimum=0, label="Seed", elem_id="seed"),
        "num_images": gr.Slider(1, limits.num_images, 1, step=1, label="Number of edits", elem_id="number"),
    }
    with gr.Accordion("More", open=False):
        controls |= {
            "fit": choice(Fit, "fit", "How the picture meets the model"),
            "context": gr.Slider(0, 4, default.context, step=0.1, label="Surroundings of a crop"),
            "blend": gr.Slider(0, 64, default.blend, step=1, label="Pixels over which the edit fades in"),
            "match_colour": choice(MatchColour, "match_colour", "Correct colours by the surroundings"),
            "exemplar_background": gr.Dropdown(
                list(get_args(ExemplarBackground)), value="crop", label="Around an exemplar with a cut-out"
            ),
        }
    return controls


def _offer(service: Service, root: Path, slots: dict[str, gr.Image]) -> None:
    """A list of the pictures in a folder, and buttons that put one into a slot."""
    with gr.Row():
        choice = gr.Dropdown(
            offered(root), value=None, label=f"Pictures in {root.name}", elem_id="browse", scale=4
        )
        for name, slot in slots.items():
            button = gr.Button(f"as {name}", elem_id=f"as-{name}")
            button.click(taker(service, root), choice, slot, **_QUIET)
