"""A source is one value: what it says of itself holds, and nothing else needs to know its name."""

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataprep.check.verify import verify_folder
from dataprep.cli import main
from dataprep.estimate import estimate_build
from dataprep.plan.check_notes import check_notes
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE, read_plan_header
from dataprep.records import Annotations
from dataprep.shards.build_shard import tar_samples
from dataprep.sources.source import SOURCES, Source, source_of
from intarsia.errors import UsageError, UserError
from intarsia.sample import decode_sample
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import toy_picture
from tests.extending import write_example
from tests.paths import ROOT


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BuildRequest]:
    """The example of docs/extending.md with its row, three pictures, and a box in the middle of each."""
    write_example(tmp_path, "lines", "dataprep/sources/lines.py", "dataprep/sources/source.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("lines")
    (tmp_path / "pictures").mkdir()
    rows = []
    for number in range(3):
        toy_picture(160, 120, number).save(tmp_path / "pictures" / f"{number}.png")
        box = {"file": f"{number}.png", "label": "cup", "centre": [0.5, 0.5], "size": [0.5, 0.5]}
        rows.append(json.dumps(box))
    (tmp_path / "boxes.jsonl").write_text("\n".join(rows))
    config = BuildConfig(source="lines", name="toy", image_size=64)
    inputs = {"lines": tmp_path / "boxes.jsonl"}
    yield BuildRequest(config, inputs, tmp_path / "pictures", tmp_path / "out")
    SOURCES.pop("lines")
    sys.modules.pop("lines")


def test_a_source_of_your_own_is_one_file_and_one_row(lines: BuildRequest) -> None:
    found = estimate_build(new_plan(lines))
    manifest = build_alone(lines)
    assert (found.pictures, found.boxes, found.samples) == (3, 3, 3)
    assert manifest["kept"] == {"pictures": 3, "boxes": 3, "samples": 3}
    assert verify_folder(lines.out, full=True) == []
    assert "Licences: those of the pictures." in (lines.out / "README.md").read_text()
    assert read_plan_header(lines.out / PLAN_FILE)["unit"] == "fractions"
    samples = tar_samples(lines.out / "toy-train-000000.tar", range(3))
    boxes = [decode_sample(members, key).meta.box.as_list() for key, members in samples]
    assert boxes == [[40, 30, 120, 90]] * 3  # pixels would leave none


def test_its_command_has_its_options(
    lines: BuildRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--lines", str(lines.inputs["lines"]), "--images", str(lines.images)]
    command = ["build", "lines", *files, "--out", str(tmp_path / "new"), "--dry-run"]
    assert main(command) == 0
    assert "3 samples at most, from 3 of 3 pictures and 3 of 3 boxes" in capsys.readouterr().out
    lines.inputs["lines"].write_text('{"file": "0.png", "label": "cup", "centre": 3}')
    assert main(command) == 1
    assert "boxes.jsonl, line 1: not a box (" in capsys.readouterr().err


def test_masks_of_a_source_without_any_are_refused(lines: BuildRequest) -> None:
    request = replace(lines, config=lines.config.model_copy(update={"object_masks": True}))
    with pytest.raises(UsageError, match="annotations of the source lines do not have; leave them out"):
        new_plan(request)


def test_a_reader_and_its_source_agree_on_the_unit(
    lines: BuildRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["lines"]
    monkeypatch.setattr(module, "SOURCE", replace(source_of("lines"), unit="pixels"))
    with pytest.raises(ValueError, match="the reader of lines gives fractions, its row says pixels"):
        new_plan(lines)


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


@pytest.mark.processes
def test_help_loads_no_reader() -> None:
    heavy = ["numpy", "pyarrow", "cv2", "PIL", "pydantic", "yaml"]
    probe = (
        "import sys\nfrom dataprep.cli import main\n"
        "try:\n    main(['build', 'yolo', '--help'])\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', sorted(set({heavy!r}) & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "LOADED []"


def notes_of(image_ids: list[str], **columns: object) -> Annotations:
    number = len(image_ids)
    content: dict[str, object] = {
        "unit": "pixels",
        "image_ids": image_ids,
        "files": [f"{name}.jpg" for name in image_ids],
        "sizes": np.full((number, 2), 100, np.int32),
        "picture": np.arange(number, dtype=np.int32),
        "box_ids": np.arange(number),
        "bounds": np.tile([10.0, 10, 90, 90], (number, 1)),
        "label": np.zeros(number, np.int32),
        "labels": ["cup"],
        "flags": {},
    }
    return Annotations(**(content | columns))  # type: ignore[arg-type]


def boxes_source(key: Callable[[str], str] = str) -> Source:
    return replace(source_of("boxes"), key=key)


def test_two_pictures_with_one_sample_key_are_refused() -> None:
    check_notes("boxes", boxes_source(), notes_of(["a", "b"]))
    with pytest.raises(
        UserError, match=r"'a\.jpg' and 'a\.jpg' would have the same sample key 'a'; give each"
    ):
        check_notes("boxes", boxes_source(), notes_of(["b", "a", "a"]))
    with pytest.raises(UserError, match=r"'a1\.jpg' and 'a2\.jpg' would have the same sample key 'a'"):
        check_notes("boxes", boxes_source(lambda name: name[0]), notes_of(["a1", "a2"]))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"sizes": np.zeros((1, 2), np.int32)}, "the reader of boxes gives 1 sizes for 2 pictures"),
        ({"files": ["a.jpg"]}, "gives 1 files for 2 pictures"),
        ({"bounds": np.zeros((3, 4))}, "gives 3 bounds for 2 boxes"),
        ({"flags": {"is_crowd": np.zeros(1, np.int8)}}, "gives 1 is_crowd for 2 boxes"),
        ({"label": np.ones(2, np.int32)}, "gives a label that is not a place in `labels`"),
        ({"unit": "fractions"}, "gives fractions, its row says pixels"),
    ],
)
def test_a_reader_whose_columns_do_not_go_together_is_named(columns: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_notes("boxes", boxes_source(), notes_of(["a", "b"], **columns))


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_file_that_is_missing_or_a_folder_is_named_by_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    (tmp_path / "boxes.csv").touch()
    command = ["build", "boxes", "--images", str(tmp_path), "--out", str(tmp_path / "out"), *more]
    assert main([*command, "--boxes", str(tmp_path / "box.csv")]) == 1
    assert f"--boxes {tmp_path / 'box.csv'} does not exist" in capsys.readouterr().err
    assert main([*command, "--boxes", str(tmp_path)]) == 1
    assert (
        f"--boxes {tmp_path} is a folder; give the file; {tmp_path} has 'boxes.csv'"
        in capsys.readouterr().err
    )
