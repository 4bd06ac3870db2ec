"""Reading pictures and masks of every kind."""

import csv
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from dataprep.pictures.decode import DecodedPicture, load_picture
from intarsia.errors import UserError
from intarsia.towers.settings import TOWERS
from sampling.inputs import read_inputs
from sampling.pictures import (
    open_mask,
    open_picture,
    read_exemplar,
    read_mask,
    read_picture,
    write_png,
)
from sampling.settings import NEUTRAL
from tests.paths import ROOT, SHARED_DATA

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


def test_pictures_are_read_as_data_prep_reads_them(tmp_path: Path) -> None:
    """One reader: whatever the kind of file, training and editing see the same pixels."""
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 4), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "turned.png": (colours.convert("RGB"), {"exif": exif}),
        "turned.jpg": (colours.convert("RGB"), {"exif": exif}),
        "alpha.png": (colours, {}),
        "grey-alpha.png": (colours.convert("LA"), {}),
        "palette.png": (colours.convert("P"), {"transparency": 3}),
        "palette.gif": (colours.convert("P"), {}),
        "ink.jpg": (colours.convert("CMYK"), {}),
        "ink.tif": (colours.convert("CMYK"), {"icc_profile": SRGB}),  # which is no profile of inks
        "deep.png": (Image.fromarray(np.arange(0, 65536, 137, np.uint16).reshape(1, -1)), {}),
        "deep.tif": (Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256)), {}),
        "one-bit.png": (colours.convert("1"), {}),
        "a.webp": (colours, {"lossless": True}),
        "a.bmp": (colours.convert("RGB"), {}),
    }
    for name, (image, options) in kinds.items():
        image.save(tmp_path / name, **options)
        prepared = load_picture(tmp_path / name)
        assert isinstance(prepared, DecodedPicture), name
        assert np.array_equal(prepared.pixels, read_picture(tmp_path / name)), name


@pytest.mark.parametrize("row", HARD_ROWS, ids=lambda row: Path(row["file"]).name)
def test_awkward_files_are_read_as_data_prep_reads_them(row: dict[str, str]) -> None:
    prepared = load_picture(HARD / row["file"])
    if isinstance(prepared, DecodedPicture):  # it is the stricter one about damage
        assert np.array_equal(prepared.pixels, read_picture(HARD / row["file"]))


def ink_profile(lab: tuple[int, int, int]) -> bytes:
    """A profile (ICC.1:2001-04) of a press: white paper, this colour for any ink, black for all four."""
    colour = bytes([round(lab[0] * 2.55), lab[1] + 128, lab[2] + 128])
    corners = bytes([255, 128, 128]) + colour * 14 + bytes([0, 128, 128])
    ramp, unit = bytes(range(256)), struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + 4 * ramp + corners + 3 * ramp
    header = struct.pack(">I4sI4s4s4s", 144 + len(table), bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">12s4s4s", bytes(12), b"acsp", bytes(4)) + bytes(24)
    header += struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def test_ink_becomes_colour_by_its_own_profile(tmp_path: Path) -> None:
    """L* 50 without colour is the sRGB grey of 119 (CIE 1976, IEC 61966-2-1); Pillow's own guess is cyan."""
    path, ink = tmp_path / "ink.tif", np.array([[[0, 0, 0, 0], [255, 0, 0, 0]]], np.uint8)
    Image.fromarray(ink, "CMYK").save(path, icc_profile=ink_profile((50, 0, 0)))
    picture = read_picture(path)
    assert np.abs(picture.astype(int) - [[[255] * 3, [119] * 3]]).max() <= 2
    prepared = load_picture(path)
    assert isinstance(prepared, DecodedPicture)
    assert np.array_equal(prepared.pixels, picture)


@pytest.mark.processes
def test_reading_pictures_needs_what_sampling_installs() -> None:
    heavy = ["cv2", "pyarrow", "simplejpeg", "torch", "ray"]
    program = f"import sys, sampling.pictures; print(sorted(set({heavy!r}) & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


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
    with pytest.raises(UserError, match="is a folder; give one picture"):
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


@pytest.mark.parametrize("where", ["text", "profile"])
def test_a_png_with_too_much_beside_its_pixels_is_refused_in_our_words(tmp_path: Path, where: str) -> None:
    note = PngInfo()
    note.add_text("comment", "x" * (3 << 20), zip=True)
    more = {"text": {"pnginfo": note}, "profile": {"icc_profile": bytes(3 << 20)}}[where]
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png", **more)
    with pytest.raises(
        UserError, match=r"p\.png cannot be read: its text or colour profile has more than 1 MiB"
    ):
        read_picture(tmp_path / "p.png")


def test_a_written_picture_reads_back_bit_for_bit(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_png(pixels, tmp_path / "new" / "p.png")
    assert (read_picture(tmp_path / "new" / "p.png") == pixels).all()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["p.png"]


# -- what a result keeps of its picture --------------------------------------------------------------------

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HOLE = np.zeros((8, 16), bool)
HOLE[2:5, 3:9] = True


def test_profile_and_exif_stay_and_the_picture_stays_upright(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    Image.fromarray(stored).save(tmp_path / "p.png", exif=exif, icc_profile=SRGB)
    source = open_picture(tmp_path / "p.png")
    assert source.pixels.shape == (8, 16, 3)
    write_png(source.pixels, tmp_path / "out.png", source, HOLE, text={"seed": "3 ä"})
    with Image.open(tmp_path / "out.png") as written:
        assert written.info["icc_profile"] == SRGB
        assert written.getexif()[0x010F] == "a camera"
        assert 0x0112 not in written.getexif()
        assert written.text == {"seed": "3 ä"}
    assert (read_picture(tmp_path / "out.png") == source.pixels).all()
    assert source.remarks == ()


def test_a_transparent_picture_keeps_its_colours_and_alpha_outside_the_mask(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 4), dtype=np.uint8)
    source = open_picture(save(tmp_path, pixels))
    edited = 255 - source.pixels
    write_png(edited, tmp_path / "out.png", source, HOLE)
    written = np.asarray(Image.open(tmp_path / "out.png"))
    assert (written[~HOLE] == pixels[~HOLE]).all()
    assert (written[HOLE, :3] == edited[HOLE]).all()
    assert (written[HOLE, 3] == 255).all()
    write_png(edited, tmp_path / "all.png", source)
    assert Image.open(tmp_path / "all.png").mode == "RGB"


def test_an_opaque_alpha_channel_is_no_transparency(tmp_path: Path) -> None:
    assert open_picture(save(tmp_path, np.full((4, 4, 4), 255, np.uint8))).rgba is None


def test_what_reading_changes_is_remarked(tmp_path: Path) -> None:
    deep = save(tmp_path, np.full((2, 2), 700, np.uint16), name="deep.png")
    assert "deep.png has 16 bits per channel; they become 8" in open_picture(deep).remarks[0]
    Image.new("CMYK", (4, 4)).save(tmp_path / "c.jpg", icc_profile=b"no profile")
    ink = open_picture(tmp_path / "c.jpg")
    assert "c.jpg is CMYK; it becomes RGB" in ink.remarks[0]
    assert ink.icc_profile is None
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    moving = open_picture(tmp_path / "a.gif")
    assert "a.gif has 2 frames; only the first is used" in moving.remarks[0]
    assert (moving.pixels == (255, 0, 0)).all()
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(UserError, match=r"f\.tif has floating-point pixels; save it with 8 bits per channel"):
        open_picture(tmp_path / "f.tif")
    Image.fromarray(np.array([[70000]], np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(UserError, match=r"i\.tif has 32-bit integer pixels; save it with 8 bits per channel"):
        open_picture(tmp_path / "i.tif")
    (tmp_path / "e.png").touch()
    with pytest.raises(UserError, match=r"e\.png is empty"):
        open_picture(tmp_path / "e.png")
    (tmp_path / "l.png").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match=r"l\.png is a git-LFS pointer, not the picture; fetch the file with"):
        open_picture(tmp_path / "l.png")


def test_the_remarks_on_all_three_files_of_an_edit_are_kept(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "e.gif", save_all=True, append_images=frames[1:])
    files = {
        "image": save(tmp_path, np.full((4, 4), 700, np.uint16), name="i.png"),
        "mask": save(tmp_path, np.full((4, 4), 200, np.uint8), name="m.png"),
        "exemplar": tmp_path / "e.gif",
    }
    deep, soft, moving = read_inputs(files).remarks
    assert "i.png has 16 bits" in deep
    assert "100.0% of the mask's pixels are neither" in soft
    assert "(is it the mask?)" in soft
    assert "e.gif has 2 frames" in moving


@pytest.mark.processes
def test_a_large_picture_is_read_without_a_warning_of_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, np.zeros((4, 4), np.uint8))
    program = f"""if True:
        from PIL import Image
        from sampling.pictures import open_picture
        Image.MAX_IMAGE_PIXELS = 10
        open_picture({str(path)!r})
    """
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not told.stderr
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with pytest.raises(UserError, match="has too many pixels to be read safely"):
        open_picture(path)


def test_a_grey_profile_does_not_go_to_an_rgb_result(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "g.png", icc_profile=SRGB[:16] + b"GRAY" + SRGB[20:])
    assert open_picture(tmp_path / "g.png").icc_profile is None


# -- masks and exemplars -----------------------------------------------------------------------------------


def test_an_inverted_mask_is_the_other_half(tmp_path: Path) -> None:
    path = save(tmp_path, np.array([[0, 127, 128, 255]], np.uint8))
    assert (read_mask(path, invert=True) == ~read_mask(path)).all()


def test_an_empty_mask_is_refused_with_the_way_out(tmp_path: Path) -> None:
    black, white = (
        save(tmp_path, np.full((4, 4), level, np.uint8), name=f"{level}.png") for level in (0, 255)
    )
    with pytest.raises(UserError, match=r"0\.png has no white .* has 0, so it marks nothing .*; paint white"):
        read_mask(black)
    with pytest.raises(UserError, match=r"255\.png is completely white, so inverted it .*; paint black"):
        read_mask(white, invert=True)


def segmented(where: Path, name: str, marked: np.ndarray) -> Path:
    """A mask as segmenters write it: the marked pixels have 1, of 8 or 16 bits, or one dark colour."""
    path = where / f"{name}.png"
    match name:
        case "one":
            image = Image.fromarray(marked.astype(np.uint8))
        case "sixteen":
            image = Image.fromarray(marked.astype(np.uint16))
        case "colour":
            image = Image.fromarray(marked[..., None] * np.array([128, 0, 0], np.uint8))
        case _:
            image = Image.fromarray(marked.astype(np.uint8) * 3, "P")
            image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0, 128])
    image.save(path)
    return path


@pytest.mark.parametrize("name", ["one", "sixteen", "colour", "palette"])
@pytest.mark.parametrize("invert", [False, True])
def test_a_mask_of_black_and_one_dark_value_marks_that_value(tmp_path: Path, name: str, invert: bool) -> None:
    marked = np.zeros((6, 8), bool)
    marked[1:4, 2:7] = True
    read = open_mask(segmented(tmp_path, name, marked), invert)
    assert (read.edit_mask == (marked != invert)).all()
    assert "is read as white" in read.remarks[-1]


def test_white_beside_black_is_read_as_it_is_and_so_are_grey_palettes(tmp_path: Path) -> None:
    levels = np.array([[0, 100, 200, 255]], np.uint8)
    image = Image.fromarray(levels, "P")
    image.putpalette([level for level in range(256) for _ in range(3)])
    image.save(tmp_path / "grey.png")
    for path in (tmp_path / "grey.png", save(tmp_path, levels)):
        assert (read_mask(path) == [[False, False, True, True]]).all()
    dark = np.zeros((16, 16), np.uint8)
    dark[8, 8] = 1
    Image.fromarray(dark).save(tmp_path / "noise.jpg", quality=100)
    with pytest.raises(UserError, match="marks nothing to repaint"):
        read_mask(tmp_path / "noise.jpg")


@pytest.mark.parametrize("invert", [False, True])
def test_a_picture_of_labels_is_named_and_not_split_by_brightness(tmp_path: Path, invert: bool) -> None:
    image = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8), "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 192, 128, 128, 224, 224, 192])
    image.save(tmp_path / "labels.png")
    with pytest.raises(UserError, match=r"labels.png shows 3 labels in colours \(numbers 1, 2, 3 of its pal"):
        read_mask(tmp_path / "labels.png", invert)


def test_numbers_of_labels_are_named_without_advice_that_marks_all(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no white .*: its values are 0, 1, 2, so it marks nothing"
    ) as caught:
        read_mask(save(tmp_path, np.array([[0, 1, 2]], np.uint8)))
    assert "invert" not in str(caught.value)


def test_a_green_area_with_soft_edges_is_one_colour(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0, 0, 100, 0, 0, 255, 0])
    image.save(tmp_path / "green.png")
    assert (read_mask(tmp_path / "green.png") == [[False, False, True, True]]).all()


def test_an_exemplar_mask_of_zeros_and_ones_shows_the_object(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    marked = np.zeros((6, 8), bool)
    marked[1:4, 2:7] = True
    shown = read_exemplar(save(tmp_path, pixels), "crop", segmented(tmp_path, "one", marked))
    assert (shown == pixels[1:4, 2:7]).all()


def test_soft_masks_are_divided_with_a_remark(tmp_path: Path) -> None:
    hard = np.zeros((40, 40), np.uint8)
    hard[10:20] = 255
    assert open_mask(save(tmp_path, hard)).remarks == ()
    hard[20:22] = 100
    [remark] = open_mask(save(tmp_path, hard)).remarks
    assert "5.0% of the mask's pixels are neither black nor white; they are split at one half" in remark


def test_alpha_cuts_an_exemplar_out(tmp_path: Path) -> None:
    pixels = np.full((40, 30, 4), (200, 10, 60, 0), np.uint8)
    pixels[10:30, 5:15, 3] = 255
    path = save(tmp_path, pixels)
    neutral, cropped = read_exemplar(path, "neutral"), read_exemplar(path, "crop")
    assert neutral.shape == (40, 30, 3)
    assert (neutral[pixels[..., 3] == 0] == NEUTRAL).all(), "what is transparent has no say"
    assert (neutral[pixels[..., 3] == 255] == (200, 10, 60)).all()
    assert cropped.shape == (20, 10, 3)
    assert (cropped == (200, 10, 60)).all()
    assert np.abs(np.array(NEUTRAL) - np.array(TOWERS["clip"].mean) * 255).max() < 0.51
    with pytest.raises(UserError, match=r"none\.png is completely transparent"):
        read_exemplar(save(tmp_path, np.zeros((4, 4, 4), np.uint8), name="none.png"))


def test_an_exemplar_without_alpha_stays_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    assert (read_exemplar(save(tmp_path, pixels), "crop") == pixels).all()
