"""`show --recipe`: one picture drawn many times."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataprep.cli import main
from dataprep.draw.recipe import load_recipe
from dataprep.look.try_recipe import RecipeTrial, draw_often
from intarsia.boxes import Box
from tests.dataprep.test_mask_kinds import ellipse
from tests.dataprep.test_recipe import each_recipe
from tests.dataprep.toy import toy_picture

SIZE, BOX = (160, 120), Box(40, 30, 110, 90)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    toy_picture(*SIZE, 3).save(tmp_path / "dog.jpg", quality=95)
    Image.fromarray(ellipse(BOX, SIZE)).save(tmp_path / "dog.png")
    return tmp_path / "dog.jpg", tmp_path / "dog.png"


@each_recipe
def test_one_picture_is_drawn_twenty_times(
    name: str, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    command = ["show", "--recipe", name, "--image", str(files[0]), "--object-mask", str(files[1])]
    assert main([*command, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"20 samples by the recipe {name} in {out}\n"
    first = Image.open(out)
    assert first.height > 9 * 224
    again = tmp_path / "again.png"
    assert main([*command, "--out", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()
    assert main([*command, "--seed", "1", "--out", str(again)]) == 0
    assert again.read_bytes() != out.read_bytes()
    page = tmp_path / "sheet.html"
    assert main([*command, "--number", "3", "--out", str(page)]) == 0
    assert f"dog.jpg by {name}: 3 samples" in page.read_text()


def test_the_box_is_that_of_the_option_or_of_the_mask(files: tuple[Path, Path]) -> None:
    recipe = load_recipe("pbe")
    [by_mask] = draw_often(recipe, RecipeTrial(files[0], None, files[1]), 1)
    [by_option] = draw_often(recipe, RecipeTrial(files[0], (40, 30, 110, 90), None), 1)
    assert by_mask.meta.box == by_option.meta.box == BOX
    assert np.array_equal(by_mask.edit_mask, by_option.edit_mask)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--image", "DOG", "--box", "1,2,3"], 2, "'1,2,3' is not of the form X0,Y0,X1,Y1"),
        (
            ["--image", "DOG", "--box", "1,2,300,4"],
            2,
            "--box 1,2,300,4 is not a box inside a picture of 160x120",
        ),
        (["--image", "DOG", "--box", "9,9,9,20"], 2, "--box 9,9,9,20 is not a box inside"),
        (
            ["--image", "DOG"],
            2,
            "--recipe needs --box x0,y0,x1,y1, or an --object-mask whose bounds are the box",
        ),
        (["--image", "NONE", "--box", "1,2,30,40"], 1, "NONE: file_missing"),
        (["--image", "DOG", "--object-mask", "NONE"], 1, "--object-mask NONE: object_mask_missing"),
        ([], 2, "--recipe needs --image, the picture to draw"),
        (["OUT", "--image", "DOG"], 2, "leave the shard folder, --class and --worst out"),
        (["--image", "DOG", "--box", "1,2,30,40", "--number", "0"], 2, "--number 0: at least 1 is needed"),
    ],
)
def test_what_is_missing_or_wrong_is_said(
    options: list[str],
    code: int,
    said: str,
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(files[0]) if word == "DOG" else word for word in options]
    command = ["show", "--recipe", "pbe", "--out", str(tmp_path / "sheet.png"), *words]
    try:
        assert main(command) == code
    except SystemExit as end:  # of the parser
        assert end.code == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "sheet.png").exists()


def test_a_recipe_that_needs_a_mask_asks_for_it(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["show", "--recipe", "anydoor", "--image", str(files[0]), "--out", str(tmp_path / "x.png")]
    assert main([*command, "--box", "40,30,110,90"]) == 1
    said = capsys.readouterr().err
    assert "recipe anydoor does not take this box (no_object_mask); give --object-mask PNG" in said
    assert main(["show", "--out", str(tmp_path / "x.png")]) == 2
    assert "give a shard folder, or --recipe with --image" in capsys.readouterr().err
    assert main(["show", "OUT", "--image", str(files[0]), "--out", str(tmp_path / "x.png")]) == 2
    assert "--image, --box and --object-mask belong to --recipe" in capsys.readouterr().err
