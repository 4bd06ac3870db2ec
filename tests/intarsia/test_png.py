"""Mask PNGs: what goes in comes out, in any reader; and no compressor but our own has a hand in the bytes."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from intarsia.png import decode_png, encode_png

VALUES = st.sampled_from([0, 255, 1, 128, 254])
RUNS = st.lists(st.tuples(VALUES, st.integers(1, 1100)), min_size=1, max_size=30)


@settings(deadline=None)
@given(RUNS, st.integers(1, 700))
def test_runs_come_back(runs: list[tuple[int, int]], width: int) -> None:
    values = np.concatenate([np.full(number, value, np.uint8) for value, number in runs])
    pixels = np.resize(values, (-(-len(values) // width), width))
    content = encode_png(pixels)
    assert np.array_equal(decode_png(content), pixels)
    with Image.open(io.BytesIO(content)) as picture:
        assert np.array_equal(np.array(picture), pixels)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_any_pixels_come_back(seed: int, height: int, width: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    assert np.array_equal(decode_png(encode_png(pixels)), pixels)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_runs_of_every_length_come_back(value: int) -> None:
    for length in range(1, 800):
        pixels = np.full((1, length), value, np.uint8)
        assert np.array_equal(decode_png(encode_png(pixels)), pixels)


def test_the_bytes_do_not_come_from_a_compressor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("zlib compresses")

    monkeypatch.setattr(zlib, "compress", refuse)
    monkeypatch.setattr(zlib, "compressobj", refuse)
    y, x = np.mgrid[0:512, 0:512]
    inside = (x - 250) ** 2 + (y - 200) ** 2
    soft = np.clip(150**2 - inside + 128, 0, 255).astype(np.uint8)  # an edge of a pixel or two
    content = encode_png(soft)
    assert len(content) < 4000
    body = content[content.index(b"IDAT") + 4 : -16]
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(512, 513)  # checks the sum at the end too
    assert np.array_equal(rows[:, 1:], soft)
    assert not rows[:, 0].any()


def test_what_is_cut_short_or_no_grey_png_is_refused() -> None:
    content = encode_png(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="its end is missing"):
        decode_png(content[:-1])
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "png")
    with pytest.raises(ValueError, match="mode RGB, not 8-bit grey"):
        decode_png(file.getvalue())
