"""A small bench in PIE-Bench's layout on bundled pictures, and tiny models that edit it."""

import json
from pathlib import Path

from PIL import Image

from intarsia.weights import save_model
from tests.paths import ROOT
from tests.sampling.tiny import tiny_model
from tests.text import text_model

PROMPTS = (
    ("a [round] cake on a plate", "a [square] cake on a plate", "cake cake"),
    ("a [cat] on a mat", "a [dog] on a mat", ""),
    ("a red house", "a blue house", "barn house"),  # the first is not in its prompt
    ("a tree", "a tree in snow", "tree tree"),
)


def write_pie_bench(folder: Path, count: int = 4) -> Path:
    """Records 000000000000 ... with a rectangle to edit each."""
    names = sorted((ROOT / "examples/coco-mini/images").iterdir())[:count]
    records = {}
    for number, (source, (before, after, words)) in enumerate(zip(names, PROMPTS, strict=False)):
        path = folder / "annotation_images" / "1_change" / f"{number:012}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(source).convert("RGB").resize((512, 512)).save(path, quality=95)
        records[f"{number:012}"] = {
            "image_path": f"1_change/{number:012}.jpg",
            "original_prompt": before,
            "editing_prompt": after,
            "blended_word": words,
            "editing_type_id": "1",
            "mask": [value for row in range(150, 300) for value in (512 * row + 100, 200)],
        }
    (folder / "mapping_file.json").write_text(json.dumps(records))
    return folder


def write_text_model(folder: Path) -> Path:
    """A tiny model that takes prompts and does not see the picture, as Stable Diffusion 1.4."""
    save_model(text_model(0, "text", "model.unet.in_channels=4"), folder)
    return folder


def write_exemplar_model(folder: Path) -> Path:
    """A tiny model that takes an exemplar and sees the picture around the mask."""
    save_model(tiny_model(), folder)
    return folder
