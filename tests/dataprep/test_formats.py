"""Files that are there under any extension: read by content, or reported with the format's name."""

import base64
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataprep.pictures.decode import DecodedPicture, decode_picture, load_picture
from dataprep.pictures.index import index_paths
from dataprep.pictures.reader import open_image
from dataprep.plan.inputs import BuildRequest, new_plan
from dataprep.records import Rejected, RejectReason
from intarsia.errors import UserError
from sampling.pictures import read_picture
from tests.dataprep.test_shards import build_alone
from tests.dataprep.test_tool_files import BOX, IMAGE, coco_request
from tests.dataprep.toy import toy_picture

# 64x48: blue, with a red quarter at the upper left.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9j"
    "AAAAAERAAAEAAQAAAAABoQABAAAAAAAAADgAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/Wlw"
    "cnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AA"
    "AAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAA"
    "QAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWB"
    "AgMFhAAAAEBtZGF0AAAANCgBrwngITip/+44//ywdl7eip5Wnv1j/49vvFKP/libdH6WUa37/+OIgP4fTL/5j4JI/rM="
)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    toy_picture(160, 120, 3).save(buffer, format=kind)
    return buffer.getvalue()


def request_for(folder: Path, name: str, content: bytes, image: dict | None = None) -> BuildRequest:
    request = coco_request(folder, [IMAGE | {"file_name": name} | (image or {})], [BOX], [])
    (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "images" / name).write_bytes(content)
    return request


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jpe", "JPEG"),
        ("a", "JPEG"),
        ("camera/IMG_0001", "PNG"),
        ("a.jpg_large", "JPEG"),
        ("a.jpg!w640", "WEBP"),
        ("a.picture", "AVIF"),
        ("a.bin", "JPEG2000"),
        ("a.J2K", "JPEG2000"),
    ],
)
def test_a_file_under_exactly_its_annotated_name_is_read_by_its_content(
    tmp_path: Path, name: str, kind: str
) -> None:
    manifest = build_alone(request_for(tmp_path, name, encoded(kind)))
    assert manifest["kept"]["samples"] == 1


@pytest.mark.parametrize(
    ("name", "content", "format_name"),
    [
        ("a.tga", encoded("TGA"), "TGA"),
        ("a.psd", b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x40\0\0\0\x40\0\x08\0\3", "PSD"),
        ("a.jxl", b"\xff\x0a" + bytes(100), "JPEG XL"),
        ("a.exr", b"\x76\x2f\x31\x01" + bytes(100), "OpenEXR"),
        ("a.svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        ("a.hdr", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n", "Radiance HDR"),
        ("a.dds", encoded("DDS"), "DDS"),
        ("a.ico", encoded("ICO"), "ICO"),
        ("a.pcx", encoded("PCX"), "PCX"),
        ("scan", b"%PDF-1.7\n", "PDF"),
    ],
)
def test_a_picture_of_a_format_that_is_not_read_is_named(
    tmp_path: Path, name: str, content: bytes, format_name: str
) -> None:
    request = request_for(tmp_path, name, content)
    manifest = build_alone(request)
    assert manifest["rejected"]["pictures"] == {"format_unknown": 1}
    assert open_image(content) == Rejected(RejectReason.FORMAT_UNKNOWN, format_name)
    assert f'"detail":"{format_name}"' in (request.out / "rejects.jsonl").read_text()
    with pytest.raises(UserError, match=f"is of a format that is not read .{format_name}"):
        read_picture(tmp_path / "images" / name)


@pytest.mark.parametrize("content", [b"just some text", b"<html>404</html>", b"\0" * 300, bytes(range(256))])
def test_what_is_no_picture_is_not_named_after_a_format(content: bytes) -> None:
    rejected = open_image(content)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == RejectReason.NOT_AN_IMAGE


@pytest.mark.parametrize("name", ["a.heic", "a.HIF", "deep/a.heif", "a.jpg"])
def test_heic_is_read_with_pi_heif(tmp_path: Path, name: str) -> None:
    request = request_for(tmp_path, name, HEIC, {"width": 64, "height": 48})
    request.inputs["annotations"].write_text(
        request.inputs["annotations"].read_text().replace("[20, 20, 60, 50]", "[2, 2, 40, 40]")
    )
    assert build_alone(request)["kept"]["samples"] == 1
    picture = load_picture(request.images / name)  # type: ignore[operator]
    assert isinstance(picture, DecodedPicture)
    assert picture.size == (64, 48)
    assert np.abs(picture.pixels[5, 5].astype(int) - (220, 40, 30)).max() < 9
    assert np.abs(picture.pixels[40, 50].astype(int) - (40, 90, 200)).max() < 9


def test_heic_without_pi_heif_is_named_with_what_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    detail = "HEIF; `pip install pi-heif` reads it"
    assert decode_picture(HEIC) == Rejected(RejectReason.FORMAT_UNKNOWN, detail)


@pytest.mark.parametrize("cut", [40, 200, 440])
def test_damaged_heic_is_a_reject(cut: int) -> None:
    rejected = decode_picture(HEIC[:cut])
    assert isinstance(rejected, Rejected)
    assert rejected.reason in (RejectReason.DAMAGED, RejectReason.NOT_AN_IMAGE, RejectReason.FORMAT_UNKNOWN)


def test_names_without_extension_mean_pictures_and_not_the_labels_beside_them() -> None:
    index = index_paths(["a.txt", "a.tga", "b.txt", "b.json", "deep/c.dng", "d.jpg", "d", "e.csv"])
    names = ["a", "b", "c", "deep/c", "d", "e", "e.csv"]
    found = index.find(names, names).to_pylist()
    assert found == ["a.tga", "", "deep/c.dng", "deep/c.dng", "d.jpg", "", "e.csv"]


def test_files_of_any_name_in_tars_and_on_servers(tmp_path: Path) -> None:
    request = request_for(tmp_path, "camera/IMG_0001", encoded("JPEG"))
    for packed in (False, True):
        tar = tmp_path / ("p.tar.gz" if packed else "p.tar")
        with tarfile.open(tar, "w:gz" if packed else "w") as file:
            file.add(tmp_path / "images" / "camera" / "IMG_0001", "camera/IMG_0001")
        out = tmp_path / ("out.gz" if packed else "out.tar")
        plan = new_plan(BuildRequest(request.config, request.inputs, tar, out))
        assert plan.files.to_pylist() == ["camera/IMG_0001"]
    served = BuildRequest(request.config, request.inputs, "http://127.0.0.1:9/set", tmp_path / "out")
    assert new_plan(served).files.to_pylist() == ["camera/IMG_0001"]


def test_avif_needs_nothing_but_pillow() -> None:
    decoded = decode_picture(encoded("AVIF"))
    assert not isinstance(decoded, Rejected)
    with Image.open(io.BytesIO(encoded("AVIF"))) as picture:
        assert np.array_equal(decoded[0], np.array(picture.convert("RGB")))
