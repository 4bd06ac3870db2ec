"""Where the tests' real pictures lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COCO_MINI = ROOT / "examples" / "coco-mini"  # bundled: annotations.json and images/
SHARED_DATA = ROOT.parent / "shared" / "data"  # beside the checkout where CI runs; parametrize over its files
