"""The command line, on a saved model folder and real pictures."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intarsia.errors import UserError
from sampling.cli import main
from sampling.pictures import read_mask, read_picture
from tests.paths import COCO_MINI, ROOT

PICTURES = sorted((COCO_MINI / "images").glob("*.jpg"))


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Image.open(PICTURES[0]) as image:
        mask = Image.new("L", image.size)
    mask.paste(255, (50, 60, 220, 200))
    path = tmp_path_factory.mktemp("mask") / "mask.png"
    mask.save(path)
    return path


@pytest.fixture
def command(model_folder: Path, mask_file: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "--model": str(model_folder),
        "--image": str(PICTURES[0]),
        "--mask": str(mask_file),
        "--exemplar": str(PICTURES[1]),
        "--out": str(tmp_path / "out.png"),
        "--num-inference-steps": "3",
        "--device": "cpu",
    }


def run(command: dict[str, str], **changes: str) -> int:
    merged = command | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return main(["edit", *(word for pair in merged.items() for word in pair)])


def test_an_edit_writes_the_result_and_the_side_by_side(
    command: dict[str, str], tmp_path: Path, mask_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.png", "out.side-by-side.png"]
    image, result, mask = (
        read_picture(PICTURES[0]),
        read_picture(tmp_path / "out.png"),
        read_mask(mask_file),
    )
    assert (result[~mask] == image[~mask]).all()
    assert (result[mask] != image[mask]).any()
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "out.png"),
        str(tmp_path / "out.side-by-side.png"),
    ]


def test_several_images_are_the_single_ones_of_their_seeds(command: dict[str, str], tmp_path: Path) -> None:
    assert run(command, seed="5", num_images="2") == 0
    assert run(command, seed="6", out=str(tmp_path / "single.png")) == 0
    assert {p.name for p in tmp_path.iterdir()} >= {"out-5.png", "out-6.png", "out.side-by-side.png"}
    five, six, single = (
        read_picture(tmp_path / name).astype(int) for name in ("out-5.png", "out-6.png", "single.png")
    )
    assert np.abs(six - single).max() <= 1
    assert (five != six).any()


def test_the_options_reach_the_sampler(command: dict[str, str], tmp_path: Path) -> None:
    assert run(command) == 0
    variants = {
        "scheduler": {"scheduler": "ddim"},
        "guidance": {"guidance_scale": "1"},
        "steps": {"num_inference_steps": "4"},
    }
    base = read_picture(tmp_path / "out.png")
    for name, change in variants.items():
        assert run(command, out=str(tmp_path / f"{name}.png"), **change) == 0
        assert (read_picture(tmp_path / f"{name}.png") != base).any(), name


def test_without_compositing_pixels_outside_change(
    command: dict[str, str], tmp_path: Path, mask_file: Path
) -> None:
    words = [word for pair in command.items() for word in pair]
    assert main(["edit", *words, "--no-composite"]) == 0
    mask = read_mask(mask_file)
    assert (read_picture(tmp_path / "out.png")[~mask] != read_picture(PICTURES[0])[~mask]).any()


def test_several_scales_make_one_grid(command: dict[str, str], tmp_path: Path) -> None:
    assert run(command, guidance_scale="1,4", num_images="2") == 0
    names = {"out-0-w1.png", "out-0-w4.png", "out-1-w1.png", "out-1-w4.png", "out.side-by-side.png"}
    assert {p.name for p in tmp_path.iterdir()} == names
    sheet = read_picture(tmp_path / "out.side-by-side.png")
    assert sheet.shape == (22 + 2 * (256 + 8), 8 + 4 * (256 + 8), 3), "two seeds; hole, exemplar, two scales"
    assert run(command, guidance_scale="4", seed="1", out=str(tmp_path / "alone.png")) == 0
    alone, swept = (read_picture(tmp_path / name).astype(int) for name in ("alone.png", "out-1-w4.png"))
    assert np.abs(alone - swept).max() <= 1


def test_an_inverted_mask_and_its_remark(
    command: dict[str, str], tmp_path: Path, mask_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for pair in command.items() for word in pair]
    assert main(["edit", *words, "--invert-mask"]) == 0
    kept = read_mask(mask_file)
    assert (read_picture(tmp_path / "out.png")[kept] == read_picture(PICTURES[0])[kept]).all()
    assert main(["edit", *words, "--guidance-scale", "1"]) == 0
    assert "note: guidance scale 1: the exemplar is followed weakly" in capsys.readouterr().err


WRONG = [
    ({"model": "no/model"}, 1, "model folder no/model does not exist"),
    ({"model": "configs"}, 1, "configs is not a model folder: it has no model_index.json"),
    ({"model": "README.md"}, 1, "README.md is a file, not a model folder; `python -m sampling import"),
    ({"image": "no.jpg"}, 1, "no.jpg does not exist"),
    ({"image": "configs"}, 1, "configs is a folder; give one picture"),
    ({"mask": "README.md"}, 1, "README.md is not a picture that can be read"),
    ({"mask": str(PICTURES[1])}, 1, "give a mask of the same size"),
    ({"out": "result.jpg"}, 2, "--out result.jpg must end in .png"),
    ({"out": "README.md/result.png"}, 1, "README.md cannot be read or written (File exists); check the path"),
    ({"num_inference_steps": "0"}, 2, "num_inference_steps=0: Input should be greater than or equal to 1"),
    ({"num_inference_steps": "501"}, 2, "num_inference_steps=501: Input should be less than or equal to 500"),
    ({"guidance_scale": "-1"}, 2, "guidance_scale=-1.0: Input should be greater than or equal to 0"),
    ({"num_images": "0"}, 2, "--num-images 0 must be 1 or more"),
    ({"seed": "-1"}, 2, "--seed -1 must be 0 or more"),
    ({"batch_size": "0"}, 2, "batch_size=0"),
    ({"guidance_scale": "2,3,2"}, 2, "a scale appears twice in --guidance-scale"),
    ({"guidance_interval": "0.8,0.2"}, 2, "guidance_interval=0.8,0.2 must be two numbers 0 <= LOW < HIGH"),
    ({"eta": "0.5"}, 2, "eta=0.5 works with ddim only, not with plms"),
    ({"blend": "-1"}, 2, "blend=-1"),
    ({"device": "abacus"}, 2, "--device abacus does not exist on this machine; try cpu or auto"),
]


@pytest.mark.parametrize(("changes", "code", "sentence"), WRONG, ids=[c[2][:40] for c in WRONG])
def test_mistakes_are_one_sentence_and_an_exit_code(
    command: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    code: int,
    sentence: str,
) -> None:
    assert run(command, **changes) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["edit", "invert"])
def test_an_input_is_not_replaced_and_a_folder_is_tried_before_the_work(
    command: dict[str, str],
    mask_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    before = mask_file.read_bytes()
    words = [word for pair in (command | {"--out": str(mask_file)}).items() for word in pair]
    assert main([name, *words]) == 2
    assert "mask.png would replace the mask itself; give --out another name" in capsys.readouterr().err
    assert mask_file.read_bytes() == before
    mask_file.with_name("folder.png").mkdir(exist_ok=True)
    assert main([name, *words, "--out", str(mask_file.with_name("folder.png"))]) == 2
    assert "folder.png is a folder; give --out the name of a file" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda *_: False)
    assert main([name, *words, "--out", str(mask_file.with_name("new.png"))]) == 1
    assert "is not writable; choose another folder" in capsys.readouterr().err


def options_of(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    return set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help", "--debug"}


def test_the_docs_name_every_option_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    documented = set(re.findall(r"--[a-z][a-z-]+", (ROOT / "docs" / "sampling.md").read_text()))
    commands = ("edit", "batch", "show", "invert", "merge-lora", "import", "export")
    valid = set().union(*(options_of(command, capsys) for command in commands), {"--array"})  # sbatch's
    assert options_of("edit", capsys) | options_of("batch", capsys) <= documented <= valid


def test_debug_shows_the_traceback(command: dict[str, str]) -> None:
    words = [word for pair in (command | {"--image": "no.jpg"}).items() for word in pair]
    with pytest.raises(UserError, match=r"no\.jpg does not exist"):
        main(["edit", *words, "--debug"])


def test_a_missing_or_unknown_option_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    number = ["edit", "--guidance-scale", "much"]
    for words in (["edit"], number, ["edit", "--scheduler", "heun"], ["paint"], []):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.endswith("--help\n")
        assert said.count("\n") == 1


def test_options_are_written_in_full(command: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["sampling", "edit", *sum(command.items(), ())], ["evaluation", "compare", "A", "B"]):
        with pytest.raises(SystemExit):
            importlib.import_module(f"{words[0]}.cli").main([*words[1:], "--se", "1"])
        assert "unrecognized arguments: --se 1" in capsys.readouterr().err
