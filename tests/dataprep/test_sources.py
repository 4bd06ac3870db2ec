"""A source is one value: what it says of itself holds, and nothing else needs to know its name."""

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from dataprep.check.verify import verify_folder
from dataprep.cli import main
from dataprep.estimate import estimate_build
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE, read_plan_header
from dataprep.records import Annotations, FilterRules
from dataprep.sources.source import Source, SourceInput
from dataprep.sources.table import SOURCES
from intarsia.errors import UsageError
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import toy_picture
from tests.paths import ROOT


def read_halves(inputs: Mapping[str, Path], rules: FilterRules, masks: bool) -> Annotations:
    """One box in the middle of each picture that the list names, in fractions."""
    names = inputs["list"].read_text().split()
    number = len(names)
    return Annotations(
        unit="fractions",
        image_ids=names,
        files=[f"{name}.png" for name in names],
        sizes=np.zeros((number, 2), np.int32),
        picture=np.arange(number, dtype=np.int32),
        box_ids=np.arange(number),
        bounds=np.tile([0.25, 0.25, 0.75, 0.75], (number, 1)),
        label=np.zeros(number, np.int32),
        labels=["thing"],
        flags={},
    )


HALVES = Source(
    name="halves",
    help="from a list of names",
    inputs=(SourceInput("list", "list of pictures"),),
    unit="fractions",
    licence="none is known",
    read=read_halves,
    key=lambda image_id: f"half-{image_id}",
)


@pytest.fixture
def halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildRequest:
    monkeypatch.setitem(SOURCES, "halves", HALVES)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        toy_picture(160, 120, number).save(tmp_path / "pictures" / f"p{number}.png")
    (tmp_path / "list.txt").write_text("p0 p1 p2")
    config = BuildConfig(source="halves", name="toy", image_size=64)
    return BuildRequest(config, {"list": tmp_path / "list.txt"}, tmp_path / "pictures", tmp_path / "out")


def test_a_source_of_ones_own_is_one_value(halves: BuildRequest) -> None:
    found = estimate_build(new_plan(halves))
    manifest = build_alone(halves)
    assert (found.pictures, found.boxes, found.samples) == (3, 3, 3)
    assert manifest["kept"] == {"pictures": 3, "boxes": 3, "samples": 3}
    assert verify_folder(halves.out, full=True) == []
    assert "Licences: none is known." in (halves.out / "README.md").read_text()
    assert read_plan_header(halves.out / PLAN_FILE)["unit"] == "fractions"


def test_its_command_has_its_options(
    halves: BuildRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--list", str(halves.inputs["list"]), "--images", str(halves.images)]
    assert main(["build", "halves", *files, "--out", str(tmp_path / "new"), "--dry-run"]) == 0
    assert "3 samples at most, from 3 of 3 pictures and 3 of 3 boxes" in capsys.readouterr().out


def test_masks_of_a_source_without_any_are_refused(halves: BuildRequest) -> None:
    config = halves.config.model_copy(update={"object_masks": True})
    with pytest.raises(UsageError, match="annotations of the source halves do not have; leave them out"):
        new_plan(BuildRequest(config, halves.inputs, halves.images, halves.out))


def test_a_reader_and_its_row_agree_on_the_unit(
    halves: BuildRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOURCES, "halves", Source(**{**vars(HALVES), "unit": "pixels"}))
    with pytest.raises(ValueError, match="the reader of halves gives fractions, its row says pixels"):
        new_plan(halves)


def test_an_unknown_source_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=f"not one of {', '.join(SOURCES)}"):
        BuildConfig(source="none", name="toy")


def test_nobody_asks_for_a_source_by_its_name() -> None:
    asked = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("dataprep", "sampling", "evaluation", "training", "slurm", "intarsia")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        and any(isinstance(side, ast.Attribute) and side.attr == "source" for side in ast.walk(node))
        and any(isinstance(side, ast.Constant) and side.value in SOURCES for side in ast.walk(node))
    ]
    assert not asked


def test_the_table_loads_nothing_heavy() -> None:
    heavy = ["numpy", "pyarrow", "cv2", "PIL", "pydantic", "yaml"]
    probe = f"import sys, dataprep.sources.table; print(sorted(set({heavy!r}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
