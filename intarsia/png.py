"""Grey PNGs of masks with our own deflate, because zlib's bytes differ between versions and replacements.

A mask consists of long runs of few values. Each run is written as its value and matches at distance 1, with
one fixed Huffman table for all masks (RFC 1951, block type 2), so that nothing is searched or counted.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

_START = b"\x89PNG\r\n\x1a\n"
_END = b"IEND\xaeB`\x82"
_ZLIB_HEADER = b"\x78\x01"
_LONGEST = 258  # largest number of bytes that one match repeats; the smallest is 3
_MATCH = 256  # a match of n bytes has index _MATCH + n in the tables below; literals have lower indices
_END_OF_BLOCK = 256
# Code lengths of the 286 symbols, a complete code: 1/4 for a match of 258, 1/8 each for bytes 0 and 255.
_WIDTHS = np.array([3, *[10] * 127, 9, *[10] * 126, 3, 10, *[7] * 24, *[6] * 4, 2])
_META_WIDTHS = {10: 1, 7: 2, 6: 4, 3: 4, 2: 4, 9: 5, 1: 5}  # lengths of the code for the widths
_META_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


def encode_png(pixels: np.ndarray) -> bytes:
    """8-bit grey PNG of uint8 [H, W]; the bytes do not depend on library versions.

    A mask of 512 x 512 takes a third of a millisecond and 2 kB, as with zlib; other pictures become slightly
    larger than their pixels.
    """
    height, width = pixels.shape
    rows: np.ndarray = np.zeros((height, 1 + width), np.uint8)  # a row begins with its filter type: 0 = none
    rows[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = _ZLIB_HEADER + _deflate(rows.reshape(-1)) + struct.pack(">I", zlib.adler32(rows.data))
    return _START + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def decode_png(content: bytes) -> np.ndarray:
    """Decode an 8-bit grey PNG to uint8 [H, W]; ValueError for a truncated file or another kind of PNG."""
    if not content.endswith(_END):  # Pillow accepts a file whose end is missing
        raise ValueError("its end is missing")
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        if picture.mode != "L":
            raise ValueError(f"mode {picture.mode}, not 8-bit grey")
        return np.array(picture)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _deflate(flat: np.ndarray) -> bytes:
    """One deflate block of uint8 [N], N > 0."""
    tokens = _tokens(flat)
    widths = _TOKEN_WIDTHS[tokens]
    ends = len(_HEADER) + np.cumsum(widths)
    places = ends - widths
    bits = _TOKEN_BITS[tokens] << (places & 7)  # at most 7 + 13 bits, within three bytes
    total = (int(ends[-1]) + 7) // 8
    packed: np.ndarray = np.zeros(total + 2, np.int64)
    packed[: len(_HEADER_BYTES)] = _HEADER_BYTES
    for byte in range(3):
        # No bit is set twice, so a sum is a bitwise or; the sums are small integers, exact in float64.
        share = np.bincount((places >> 3) + byte, (bits >> (8 * byte)) & 255, minlength=len(packed))
        packed += share.astype(np.int64)
    return packed[:total].astype(np.uint8).tobytes()


def _tokens(flat: np.ndarray) -> np.ndarray:
    """Runs as literals and matches: int64 [T], indices into the tables; the last is the end of the block."""
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    again = np.diff(starts, append=len(flat)) - 1
    values = flat[starts]
    longest, rest = np.divmod(again, _LONGEST)
    ends = np.cumsum(1 + longest + np.where(rest < 3, rest, 1))
    tokens: np.ndarray = np.full(ends[-1] + 1, _MATCH + _LONGEST)
    tokens[np.concatenate([[0], ends[:-1]])] = values
    match, one, two = rest >= 3, (rest == 1) | (rest == 2), rest == 2  # short rests are literals
    tokens[ends[match] - 1] = _MATCH + rest[match]
    tokens[ends[one] - 1] = values[one]
    tokens[ends[two] - 2] = values[two]
    tokens[-1] = _END_OF_BLOCK
    return tokens


def _codes(widths: np.ndarray) -> list[str]:
    """The canonical Huffman code of each symbol in writing order, first bit first (RFC 1951, 3.2.2)."""
    codes, code = [""] * len(widths), 0
    for width in range(1, int(widths.max()) + 1):
        code <<= 1
        for symbol in np.flatnonzero(widths == width).tolist():
            codes[symbol] = f"{code:0{width}b}"
            code += 1
    return codes


def _number(value: int, width: int) -> str:
    """The bits of a number in writing order: lowest bit first."""
    return f"{value:0{width}b}"[::-1] if width else ""


def _match_codes(codes: list[str]) -> list[str]:
    """The bits of a match of 3 … 258 bytes at distance 1: symbol, extra bits, distance (3.2.5)."""
    matches = []
    for length in range(3, _LONGEST):
        above = length - 3
        extra = max(above.bit_length() - 3, 0)
        symbol = 257 + 4 * extra + (above >> extra)
        matches.append(codes[symbol] + _number(above & ((1 << extra) - 1), extra) + "0")
    return [*matches, codes[285] + "0"]


def _header() -> str:
    """The header of the block: final block, type 2, and the widths of all codes (3.2.7)."""
    meta = np.array([_META_WIDTHS.get(symbol, 0) for symbol in range(19)])
    codes = _codes(meta)
    counts = _number(len(_WIDTHS) - 257, 5) + _number(0, 5) + _number(len(_META_ORDER) - 4, 4)
    told = "".join(_number(int(meta[symbol]), 3) for symbol in _META_ORDER)
    widths = "".join(codes[width] for width in [*_WIDTHS.tolist(), 1])  # the last one is the only distance's
    return "1" + _number(2, 2) + counts + told + widths


def _table() -> tuple[np.ndarray, np.ndarray]:
    """The bits (first bit lowest) and their number for literals, end of block and matches; int64 each."""
    codes = _codes(_WIDTHS)
    texts = [*codes[:257], "", "", *_match_codes(codes)]
    return np.array([int(text[::-1] or "0", 2) for text in texts]), np.array([len(text) for text in texts])


_HEADER = _header()
_HEADER_BYTES = np.packbits(np.array(list(_HEADER), np.uint8), bitorder="little")
_TOKEN_BITS, _TOKEN_WIDTHS = _table()
