"""Stray bytes between the segments of a JPEG, which a strict decoder takes for damage."""

import re

STRAY_BYTES = "stray_bytes"
_MOST = 5  # bytes: no segment that the pixels depend on is so short (DRI has 6, Adobe's 14)
_MARKER = re.compile(rb"\xff+([^\xff\x00])")  # any number of 0xff may stand before a marker's code
_IN_SCAN = re.compile(rb"\xff+[^\xff\x00\xd0-\xd7]")  # what ends the coded pixels
_START_OF_SCAN, _END = 0xDA, 0xD9
_COMMENTS = {*range(0xE0, 0xF0), 0xFE}  # all but Adobe's say nothing about the pixels
_BARE = {0x01, *range(0xD0, 0xD9)}  # codes of markers without a length


def without_stray_bytes(content: bytes) -> bytes | None:
    """A JPEG without the bytes that belong to none of its segments; None if there are none, or too many.

    A few bytes are left out, or many that cannot be a segment whose marker is damaged. Bytes behind the
    coded pixels of a scan cannot be told from these, and stay.

    Args:
        content: whole file, beginning with a JPEG's start.
    """
    parts, place = [content[:2]], 2
    while marker := _MARKER.search(content, place):
        gap, code = content[place : marker.start()], marker[1][0]
        if code in _BARE or (len(gap) > _MOST and not _is_harmless(gap, code)):
            return None
        if code == _END:
            parts.append(content[marker.start() :])
            break
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
        if code == _START_OF_SCAN:
            behind = _IN_SCAN.search(content, place)
            place = behind.start() if behind else len(content)
        parts.append(content[marker.start() : place])
    cleaned = b"".join(parts)
    return cleaned if len(cleaned) < len(content) else None


def _is_harmless(gap: bytes, code: int) -> bool:
    """Whether many bytes before a marker are zeros, or the rest of a comment whose length is wrong."""
    return not gap.strip(b"\0") or (code in _COMMENTS and b"Adobe" not in gap)
