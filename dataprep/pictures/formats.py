"""Which format a picture file has that the reader does not read, by its content; HEIC through `pi-heif`."""

import io

from PIL import Image

HEIF = "HEIF"
# Formats that Pillow knows by their headers, and that are not pictures of a data set here.
_OF_PILLOW = (
    *("PCX", "DCX", "DDS", "SGI", "ICO", "CUR", "ICNS", "QOI", "XPM", "XBM", "SUN", "FITS", "FLI"),
    *("MSP", "BLP", "FTEX", "PIXAR", "SPIDER", "WMF", "IM", "TGA"),  # TGA has no mark: it comes last
)
_STARTS = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"II\xbc": "JPEG XR",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"#?RGBE": "Radiance HDR",
    b"8BPS": "PSD",
    b"gimp xcf": "XCF",
    b"FUJIFILMCCD-RAW": "RAF",
    b"IIRO": "ORF",
    b"IIU\0": "RW2",
    b"\0MRM": "MRW",
    b"FOVb": "X3F",
    b"AT&TFORM": "DjVu",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"BPG\xfb": "BPG",
    b"farbfeld": "farbfeld",
}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


def is_heif(content: bytes) -> bool:
    """Whether a file's first box says that it is HEIF, and not AVIF or a video."""
    if content[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(content[:4], "big"), 256)
    brands = {content[8:12], *(content[place : place + 4] for place in range(16, end, 4))}
    return bool(brands & _HEIF_BRANDS) and not brands & {b"avif", b"avis"}


def open_heif(content: bytes) -> Image.Image | None:
    """A HEIF picture with its header read, upright; None if `pi-heif` is not installed."""
    try:
        import pi_heif
    except ImportError:
        return None
    pi_heif.register_heif_opener()
    return Image.open(io.BytesIO(content), formats=(HEIF,))


def name_format(content: bytes) -> str:
    """The name of the picture format of a file that the reader does not read; empty if it is none."""
    if is_heif(content):
        return HEIF
    if content[4:12] == b"ftypcrx ":
        return "CR3"
    for start, name in _STARTS.items():
        if content.startswith(start):
            return name
    if content[128:132] == b"DICM":
        return "DICOM"
    head = content[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return "SVG"
    try:
        with Image.open(io.BytesIO(content), formats=_OF_PILLOW) as image:
            return image.format or ""
    except Exception:  # noqa: BLE001 - plugins raise anything on what is not theirs
        return ""
