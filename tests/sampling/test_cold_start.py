"""What an edit imports: each library costs every command seconds, and a server memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.sampling.painter_weights import make_own

# Of data prep, training, evaluation and the page; other painters' come with the painter.
NEVER = [
    "ray",
    "deepspeed",
    "wandb",
    "albumentations",
    "matplotlib",
    "gradio",
    "starlette",
    "uvicorn",
]
OURS = ["sampling.web.service", "sampling.methods", "sampling.couplings", "evaluation", "training", "slurm"]
PICTURES = ["--image", "coco-mini/images/000000017029.jpg", "--mask", "edits/dog.mask.png"]


@pytest.mark.processes
@pytest.mark.parametrize("painter", ["own", "cv2"])
def test_an_edit_imports_no_library_of_other_commands(painter: str, tmp_path: Path) -> None:
    words = [str(ROOT / "examples" / word) if "/" in word else word for word in PICTURES]
    model = str(make_own(tmp_path)) if painter == "own" else "cv2"
    words += ["--model", model, "--out", str(tmp_path / "out.png"), "--device", "cpu"]
    if painter == "own":
        words += ["--exemplar", str(ROOT / "examples/edits/dog.exemplar.jpg"), "--num-inference-steps", "2"]
    unwanted = [*NEVER, *OURS, *(["cv2"] if painter == "own" else ["sampling.painters.own"])]
    code = (
        "import sys; from sampling.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {unwanted!r} if name in sys.modules]); sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "edit", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"
