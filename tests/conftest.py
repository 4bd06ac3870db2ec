"""Shared fixtures: the real pictures beside the checkout, where they are, and the bundled ones that always are."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"  # parametrize over its files: none where it is absent


@pytest.fixture(scope="session")
def shared_data() -> Path | None:
    return SHARED_DATA if SHARED_DATA.is_dir() else None


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """The bundled CC BY pictures with their boxes: annotations.json and images/."""
    return ROOT / "examples" / "coco-mini"
