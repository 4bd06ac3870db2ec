"""Reading pictures and masks of every kind."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intarsia.errors import UserError
from sampling.pictures import read_mask, read_picture, write_png
from tests.paths import SHARED_DATA

HARD = SHARED_DATA / "hard-inputs"
EXPECTED = HARD / "expected_behaviour.csv"
HARD_ROWS = list(csv.DictReader(EXPECTED.open())) if EXPECTED.is_file() else []


@pytest.mark.parametrize("row", HARD_ROWS, ids=lambda row: Path(row["file"]).name)
def test_every_awkward_file_is_read_upright_or_refused_in_words(row: dict[str, str]) -> None:
    path = HARD / row["file"]
    if row["pil_rgb"] == "ok":
        width, height = map(int, row["upright_size"].split("x"))
        picture = read_picture(path)
        assert picture.shape == (height, width, 3)
        assert picture.dtype == np.uint8
    else:
        with pytest.raises(UserError) as refused:
            read_picture(path)
        assert str(path) in str(refused.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[:4, :8] = (255, 0, 0)  # red in the stored picture's top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "p.png", exif=exif)
    upright = read_picture(tmp_path / "p.png")
    assert upright.shape[:2] == ((8, 16) if orientation < 5 else (16, 8))
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert tuple(upright[corner[orientation]]) == (255, 0, 0)


def save(folder: Path, pixels: np.ndarray, mode: str | None = None, name: str = "p.png") -> Path:
    Image.fromarray(pixels, mode).save(folder / name)
    return folder / name


def test_transparent_parts_of_a_picture_are_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = (10, 20, 30, 255)
    picture = read_picture(save(tmp_path, pixels))
    assert (picture[0] == (10, 20, 30)).all()
    assert (picture[1] == 255).all()


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    grey = read_picture(save(tmp_path, np.array([[0, 257 * 7, 65535]], np.uint16)))
    assert grey[0].tolist() == [[0] * 3, [7] * 3, [255] * 3]


def test_grey_and_cmyk_become_rgb(tmp_path: Path) -> None:
    assert (read_picture(save(tmp_path, np.full((2, 2), 9, np.uint8))) == 9).all()
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "c.jpg")
    red = read_picture(tmp_path / "c.jpg")[0, 0]
    assert red[0] > 200
    assert red[1:].max() < 60


def test_a_mask_is_divided_at_one_half_and_white_is_repaint(tmp_path: Path) -> None:
    mask = read_mask(save(tmp_path, np.array([[0, 127, 128, 255]], np.uint8)))
    assert mask.dtype == np.bool_
    assert mask.tolist() == [[False, False, True, True]]


def test_masks_of_other_kinds(tmp_path: Path) -> None:
    colour = np.array([[[255, 255, 255], [0, 0, 0]]], np.uint8)
    assert read_mask(save(tmp_path, colour)).tolist() == [[True, False]]
    painted = np.array([[[255, 255, 255, 255], [255, 255, 255, 0]]], np.uint8)
    assert read_mask(save(tmp_path, painted)).tolist() == [[True, False]], "transparent is not painted"
    assert read_mask(save(tmp_path, np.array([[65535, 300]], np.uint16))).tolist() == [[True, False]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one-bit.png")
    assert read_mask(tmp_path / "one-bit.png").tolist() == [[True, False]]


def test_what_cannot_be_read_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png does not exist"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match="is not a picture"):
        read_picture(tmp_path / "text.png")
    whole = save(tmp_path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:4000])
    with pytest.raises(UserError, match=r"cut\.png cannot be read"):
        read_picture(tmp_path / "cut.png")
    with pytest.raises(UserError, match="marks nothing to repaint"):
        read_mask(save(tmp_path, np.full((4, 4), 127, np.uint8)))


def test_a_written_picture_reads_back_bit_for_bit(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_png(pixels, tmp_path / "new" / "p.png")
    assert (read_picture(tmp_path / "new" / "p.png") == pixels).all()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["p.png"]
