"""Every picture file is decoded upright to RGB or rejected with a reason; none crashes."""

import io
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dataprep.pictures.decode import DecodedPicture, decode_picture, load_picture
from dataprep.pictures.index import index_paths, index_pictures
from dataprep.pictures.reader import turn_upright
from dataprep.records import Rejected, RejectReason
from intarsia.errors import UserError
from intarsia.files import sha256_bytes
from tests.dataprep.toy import toy_picture
from tests.paths import COCO_MINI, SHARED_DATA


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def write(folder: Path, content: bytes, name: str = "a.jpg") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def picture_of(path: Path, size: tuple[int, int] | None = None) -> DecodedPicture:
    result = load_picture(path, size)
    assert isinstance(result, DecodedPicture), result
    return result


def reason_of(path: Path, size: tuple[int, int] | None = None) -> Rejected:
    result = load_picture(path, size)
    assert isinstance(result, Rejected)
    return result


@pytest.mark.parametrize("path", sorted((COCO_MINI / "images").glob("*.jpg"))[:6], ids=lambda p: p.name)
def test_photographs_decode_as_in_pillow_and_opencv(path: Path) -> None:
    ours = picture_of(path)
    with Image.open(path) as picture:
        assert np.array_equal(ours.pixels, np.array(ImageOps.exif_transpose(picture).convert("RGB")))
    assert np.array_equal(ours.pixels, cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
    assert ours.jpeg == path.read_bytes()
    assert ours.file_sha256 == sha256_bytes(path.read_bytes())
    assert ours.file_bytes == path.stat().st_size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(toy_picture(48, 32, 1), kind, exif=exif, **options)
    with Image.open(io.BytesIO(content)) as picture:
        upright = np.array(ImageOps.exif_transpose(picture))
    ours = picture_of(write(tmp_path, content))
    assert np.array_equal(ours.pixels, upright)
    assert (ours.jpeg is not None) == (kind == "JPEG" and orientation == 1)


@pytest.mark.parametrize("before", ["filling", "comments", "a long comment"])
def test_exif_may_stand_behind_other_segments(tmp_path: Path, before: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encoded(toy_picture(48, 32, 1), "JPEG", exif=exif)
    comment = b"\xff\xfe\x00\x09a note:"
    segments = {
        "filling": b"\xff" * 3,
        "comments": 20 * comment,
        "a long comment": b"\xff\xfe\xff\xff" + bytes(0xFFFD),
    }
    content = plain[:2] + segments[before] + plain[2:]
    assert picture_of(write(tmp_path, content)).size == (32, 48)


def test_a_picture_annotated_before_its_rotation_stays_as_it_was(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write(tmp_path, encoded(toy_picture(48, 32, 1), "JPEG", exif=exif))
    assert picture_of(path).size == (32, 48)
    assert picture_of(path, (32, 48)).size == (32, 48)
    assert picture_of(path, (48, 32)).size == (48, 32)
    rejected = reason_of(path, (64, 32))
    assert rejected == Rejected(RejectReason.SIZE_MISMATCH, "annotated as 64x32, is 48x32")


def test_every_orientation_is_undone_by_turning_back() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    turned = [turn_upright(pixels, orientation) for orientation in range(1, 9)]
    assert len({(result.shape, result.tobytes()) for result in turned}) == 8
    for there, back in ((2, 2), (3, 3), (4, 4), (5, 5), (6, 8), (7, 7), (8, 6)):
        assert np.array_equal(turn_upright(turn_upright(pixels, there), back), pixels)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = picture_of(write(tmp_path, encoded(Image.fromarray(levels), "PNG"))).pixels
    assert np.array_equal(pixels[:, :, 0], np.rint(levels / 257))  # 65535 / 257 = 255; never half-way
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = toy_picture(40, 30, 2).convert(mode)
    kind = "JPEG" if mode in ("L", "CMYK") else "PNG"
    options = {"quality": 98} if kind == "JPEG" else {}
    pixels = picture_of(write(tmp_path, encoded(picture, kind, **options))).pixels
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels.astype(int) - np.array(picture.convert("RGB"))).mean() < 3


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (4, 2), (200, 0, 0, 0))
    picture.putpixel((1, 1), (200, 0, 0, 255))
    picture.putpixel((2, 1), (200, 0, 0, 51))
    pixels = picture_of(write(tmp_path, encoded(picture, "PNG"))).pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [200, 0, 0]
    assert pixels[1, 2].tolist() == [244, 204, 204]


def test_a_picture_under_a_wrong_name_is_read(tmp_path: Path) -> None:
    picture = toy_picture(20, 20, 3)
    ours = picture_of(write(tmp_path, encoded(picture, "PNG"), "a.jpg"))
    assert np.array_equal(ours.pixels, np.array(picture))
    assert ours.jpeg is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", RejectReason.FILE_EMPTY),
        (b"version https://git-lfs.github.com/spec/v1\noid", RejectReason.LFS_POINTER),
        (b"just some text", RejectReason.NOT_AN_IMAGE),
        (encoded(Image.new("F", (4, 4)), "TIFF"), RejectReason.UNSUPPORTED_PIXELS),
        (encoded(Image.new("1", (12000, 10001)), "PNG"), RejectReason.TOO_MANY_PIXELS),
        (encoded(Image.fromarray(np.array([[70000]], np.int32)), "TIFF"), RejectReason.UNSUPPORTED_PIXELS),
        (encoded(Image.new("L", (16000, 15000)), "JPEG"), RejectReason.TOO_MANY_PIXELS),
        (encoded(toy_picture(60, 60, 1), "PNG")[:-200], RejectReason.DAMAGED),
    ],
    ids=lambda value: value.value if isinstance(value, RejectReason) else "",
)
def test_what_cannot_be_used_is_told(tmp_path: Path, content: bytes, reason: RejectReason) -> None:
    assert reason_of(write(tmp_path, content)).reason == reason


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "none.jpg").reason == RejectReason.FILE_MISSING
    assert reason_of(tmp_path).reason == RejectReason.FILE_UNREADABLE


@settings(deadline=None, max_examples=60)
@given(st.floats(0.02, 0.97))
def test_a_jpeg_cut_anywhere_is_noticed(share: float) -> None:
    content = encoded(toy_picture(200, 160, 1), "JPEG")
    result = decode_picture(content[: int(len(content) * share)])
    assert isinstance(result, Rejected)
    assert result.reason in (RejectReason.DAMAGED, RejectReason.NOT_AN_IMAGE)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=300), st.sampled_from(["", "JPEG", "PNG", "WEBP", "GIF"]), st.integers(0, 400))
def test_rubbish_never_raises(rubbish: bytes, kind: str, place: int) -> None:
    content = encoded(toy_picture(24, 24, 1), kind) if kind else b""
    result = decode_picture(content[:place] + rubbish + content[place + len(rubbish) :])
    if not isinstance(result, Rejected):
        pixels, orientation = result
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert 1 <= orientation <= 8


def segments(content: bytes) -> list[tuple[int, int]]:
    """(code, end) of each segment of a JPEG up to its first scan."""
    found, place = [(0xD8, 2)], 2
    while found[-1][0] != 0xDA:
        code = content[place + 1]
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        found.append((code, place))
    return found


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("stray", [b"\0", b"\x55", b"\xff", b"\1\2\3\4", b"\0\xff\0\xff\0", bytes(40)])
def test_stray_bytes_between_segments_are_left_out(tmp_path: Path, progressive: bool, stray: bytes) -> None:
    content = encoded(toy_picture(160, 120, 1), "JPEG", progressive=progressive)
    whole = picture_of(write(tmp_path, content))
    for _, end in segments(content)[1:-1]:
        given = content[:end] + stray + content[end:]
        ours = picture_of(write(tmp_path, given))
        assert np.array_equal(ours.pixels, whole.pixels)
        assert (ours.file_bytes, ours.file_sha256) == (len(given), sha256_bytes(given))
        if stray == b"\xff":  # these may fill the room before a marker
            assert (ours.jpeg, ours.changes) == (given, ())
        else:
            assert (ours.jpeg, ours.changes) == (content, ("stray_bytes",))


@pytest.mark.parametrize("kind", ["comment", "exif", "adobe", "table"])
def test_many_stray_bytes_count_as_damage_where_they_may_be_a_segment(tmp_path: Path, kind: str) -> None:
    content = encoded(toy_picture(160, 120, 1), "JPEG", comment=b"a comment of some length")
    ends = dict(segments(content))
    if kind == "comment":  # its length is too small
        place = content.index(b"a comment")
        given = content[: place - 2] + b"\0\x09" + content[place:]
        assert reason_of(write(tmp_path, given)).reason == RejectReason.DAMAGED  # a table follows
    elif kind == "exif":  # the same, before another comment
        given = content[:20] + b"\xff\xe1\0\x04abrest of it, of 20 bytes" + content[20:]
        assert content[20:22] == b"\xff\xfe"
        assert picture_of(write(tmp_path, given)).jpeg == content[:20] + b"\xff\xe1\0\x04ab" + content[20:]
    elif kind == "adobe":  # its marker is damaged: without it, the colours would be others
        cmyk, note = encoded(toy_picture(160, 120, 1).convert("CMYK"), "JPEG"), b"\xff\xfe\0\x04ab"
        assert cmyk[2:4] == b"\xff\xee"
        whole = cmyk[:2] + note + cmyk[2:18] + note + cmyk[18:]
        assert picture_of(write(tmp_path, whole)).size == (160, 120)
        given = whole.replace(b"\xff\xee", b"\x7f\xee", 1)
        assert reason_of(write(tmp_path, given)).reason == RejectReason.DAMAGED
    else:
        place = content.index(b"\xff\xc4")
        given = content[:place] + b"\xfe" + content[place + 1 :]
        assert reason_of(write(tmp_path, given)).reason == RejectReason.DAMAGED
    assert 0xC4 in ends


HARD = SHARED_DATA / "hard-inputs" / "images"
HARD_REASONS = {
    "broken.png": "not_an_image",
    "broken_data_stream.png": "damaged",
    "decompression_bomb.gif": "too_many_pixels",
    "dummy.container": "not_an_image",
    "empty.jpg": "file_empty",
    "icc-after-SOF.jpg": "damaged",
    "jpeg12bit_monkey12.jpg": "unsupported_pixels",
    "lfs_pointer.jpg": "lfs_pointer",
    "png_decompression_dos.png": "damaged",
    "skimage_truncated.jpg": "damaged",
    "truncated_image.png": "damaged",
    "truncated_jpeg.jpg": "damaged",
    "ultrahdr.jpg": "damaged",  # its file is cut in the second picture; strict, as for any cut file
    "unknown_compression_method.png": "not_an_image",
    "zero_width.gif": "not_an_image",
}


@pytest.mark.parametrize("path", sorted(HARD.glob("*")), ids=lambda p: p.name)
def test_awkward_files_are_handled_or_rejected(path: Path) -> None:
    result = load_picture(path)
    if path.name in HARD_REASONS:
        assert isinstance(result, Rejected)
        assert result.reason.value == HARD_REASONS[path.name]
    else:
        assert isinstance(result, DecodedPicture), result
        assert result.pixels.dtype == np.uint8
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            assert result.size == upright.size


def test_pictures_are_found_in_flat_and_split_folders(tmp_path: Path) -> None:
    for name in (
        "a.jpg",
        "train_0/b.jpg",
        "train_f/deep/c.PNG",
        "train_1/b.jpg",
        "train_0/a.png",
        "notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    index = index_pictures(tmp_path)
    wanted = {
        "a": "a.jpg",  # a JPEG before another format
        "a.jpg": "a.jpg",
        "b": "train_0/b.jpg",  # the first of equal names
        "c": "train_f/deep/c.PNG",
        "c.PNG": "train_f/deep/c.PNG",
        "train_1/b.jpg": "train_1/b.jpg",
        "notes": "",
    }
    assert index.find([""] * len(wanted), list(wanted)).to_pylist() == list(wanted.values())
    assert index.find(["c.PNG", ""], ["a", "a"]).to_pylist() == ["train_f/deep/c.PNG", "a.jpg"]
    (tmp_path / "train_1" / "up").symlink_to(tmp_path, target_is_directory=True)  # no end to it
    (tmp_path / "train_2").symlink_to(tmp_path / "train_f", target_is_directory=True)
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    paths = sorted(set(index_pictures(tmp_path).paths.to_pylist()) - set(index.paths.to_pylist()))
    assert paths == ["gone.jpg", "train_2/deep/c.PNG"]
    with pytest.raises(UserError, match=r"the folder of pictures .*none does not exist"):
        index_pictures(tmp_path / "none")


@pytest.mark.parametrize(
    ("there", "wanted", "found"),
    [
        (["a.jpg", "b/a.jpg"], ["/data/photos/b/a.jpg"], ["b/a.jpg"]),  # the annotations' root lies above
        (["deep/a.jpg"], ["elsewhere/a.jpg"], ["deep/a.jpg"]),
        (["deep/a.jpg"], ["elsewhere/a"], ["deep/a.jpg"]),
        (["x/a.jpg", "y/a.jpg"], ["z/a.jpg"], [""]),  # which?
        (["x/a.jpg"], ["x/a.jpg", "z/a.jpg"], ["x/a.jpg", ""]),  # the boxes of one, the pixels of the other
        (["a.jpg"], ["x/a.jpg", "z/a.jpg"], ["", ""]),
        (["a.jpg"], ["x/a.jpg", "x/a.jpg"], ["a.jpg", "a.jpg"]),  # one picture, annotated twice
        ([], ["x/a.jpg"], [""]),
        (["x/a.jpg", "y/a.jpg", "y/b.png"], ["y/a", "y/b"], ["y/a.jpg", "y/b.png"]),
    ],
)
def test_no_picture_gets_the_boxes_of_one_in_another_folder(
    there: list[str], wanted: list[str], found: list[str]
) -> None:
    assert index_paths(there).find(wanted, wanted).to_pylist() == found


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "group4", "jpeg"])
def test_damaged_pictures_print_nothing(
    tmp_path: Path, compression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    picture = toy_picture(160, 120, 1)
    picture = picture.convert("1") if compression == "group4" else picture
    content = bytearray(encoded(picture, "TIFF", compression=compression))
    rng = np.random.default_rng(5)
    for place in rng.integers(8, len(content) // 2, 40).tolist():
        content[place] ^= 0x5A
    with warnings.catch_warnings():  # pytest shows them all; a program shows what its filters let through
        warnings.filterwarnings("ignore", module=r"PIL\.")
        load_picture(write(tmp_path, bytes(content), "a.tif"))
    print("still there", file=sys.stderr)
    assert capfd.readouterr() == ("", "still there\n")
