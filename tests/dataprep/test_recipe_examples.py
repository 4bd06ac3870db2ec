"""The recipe and the mask kind of docs/extending.md and docs/dataprep.md do what the pages say."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataprep.check.verify import verify_folder
from dataprep.draw.pipeline import check_pipeline
from dataprep.draw.recipe import load_recipe
from dataprep.masks.mask_kind import MASKS, read_mask_kind
from tests.dataprep.test_mask_kinds import EXTENDED, draw
from tests.dataprep.test_object_masks import coco as coco  # a fixture
from tests.dataprep.test_recipe_builds import request, samples_of
from tests.dataprep.test_shards import build_alone
from tests.extending import write_example
from tests.paths import ROOT

_YAML = re.compile(r"```yaml\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", ["extending", "dataprep"])
def test_the_recipe_of_the_page_builds(page: str, tmp_path: Path, coco: tuple[Path, Path]) -> None:
    [text] = _YAML.findall((ROOT / "docs" / f"{page}.md").read_text())
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    recipe = load_recipe(str(mine))
    check_pipeline(recipe)
    build_alone(request(tmp_path / "out", coco, str(mine), draws_per_image=6, all_boxes=True))
    assert verify_folder(tmp_path / "out", full=True) == []
    samples = samples_of(tmp_path / "out")
    assert {sample.meta.mask_kind for sample in samples} == {"brush", "box"}
    assert {sample.meta.recipe for sample in samples} == {"mine"}


def test_the_mask_kind_of_the_page_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coco: tuple[Path, Path]
) -> None:
    write_example(tmp_path, "ellipse", "dataprep/masks/ellipse.py", "dataprep/masks/mask_kind.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("ellipse")
    try:
        made = draw("ellipse", 0, scale=0.9)
        inside = EXTENDED.cut(made.pixels)
        assert (inside > 0).mean() == pytest.approx(0.81 * 3.1416 / 4, rel=0.03)
        assert inside.sum() == made.pixels.sum()
        mine: dict[str, Any] = {"masks": [{"kind": "ellipse", "share": 1, "scale": 0.9}]}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
        build_alone(request(tmp_path / "out", coco, str(tmp_path / "mine.yaml")))
        assert verify_folder(tmp_path / "out", full=True) == []
        assert read_mask_kind(mine["masks"][0]).reach == 0
    finally:
        MASKS.pop("ellipse")
        sys.modules.pop("ellipse")
