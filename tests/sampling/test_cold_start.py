"""What an edit imports: each library costs every command seconds, and a server memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.sampling.painter_weights import MAKERS

# Of data prep, training, evaluation and the page.
NEVER = [
    "ray",
    "deepspeed",
    "wandb",
    "albumentations",
    "matplotlib",
    "gradio",
    "starlette",
    "uvicorn",
    *("sampling.web.service", "sampling.methods", "sampling.couplings", "evaluation", "training", "slurm"),
]
# Painter -> what other painters need, and this one not.
OTHERS = {
    "own": ["cv2"],
    "lama": ["cv2", "diffusers", "transformers", "sampling.painters.own"],
    "cv2": ["torch", "diffusers", "transformers", "sampling.painters.own"],
}
PICTURES = ["--image", "coco-mini/images/000000017029.jpg", "--mask", "edits/dog.mask.png"]


@pytest.mark.processes
@pytest.mark.parametrize("painter", OTHERS)
def test_an_edit_imports_no_library_of_others(painter: str, tmp_path: Path) -> None:
    weights = MAKERS[painter](tmp_path)
    model = {"own": str(weights), "cv2": "cv2"}.get(painter, f"{painter}:{weights}")
    words = [str(ROOT / "examples" / word) if "/" in word else word for word in PICTURES]
    words += ["--model", model, "--out", str(tmp_path / "out.png"), "--device", "cpu"]
    if painter == "own":
        words += ["--exemplar", str(ROOT / "examples/edits/dog.exemplar.jpg"), "--num-inference-steps", "2"]
    code = (
        "import sys; from sampling.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {[*NEVER, *OTHERS[painter]]!r} if name in sys.modules]); sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "edit", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"
