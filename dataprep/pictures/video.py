"""Frames of video files, decoded in one pass from the start: a jump into a video may land elsewhere."""

import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dataprep.pictures.decode import DecodedPicture, Readable
from dataprep.pictures.reader import MAX_PIXELS
from dataprep.records import Rejected, RejectReason
from intarsia.files import sha256_bytes

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")


def is_video(file: str) -> bool:
    """Whether a name ends as a video's does."""
    return file.lower().endswith(VIDEOS)


def load_frames(place: Readable, frames: Collection[int]) -> dict[int, DecodedPicture] | Rejected:
    """Some frames of a video, each decoded once, upright.

    Args:
        place: video file.
        frames: numbers of the frames, from 0 on.

    Returns:
        The pictures by number, without those that the video does not have; or why it cannot be used.
    """
    try:
        content = place.read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = RejectReason.FILE_MISSING if missing else RejectReason.FILE_UNREADABLE
        return Rejected(reason, error.strerror or str(error))
    if not content:
        return Rejected(RejectReason.FILE_EMPTY)
    with _on_disk(place, content) as path:
        return _decode(path, frozenset(frames), len(content), sha256_bytes(content))


def _decode(
    path: Path, frames: frozenset[int], size: int, sha256: str
) -> dict[int, DecodedPicture] | Rejected:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what it would print, is reported
    import cv2

    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        width, height = (
            int(video.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if not video.isOpened() or not width * height:
            return Rejected(RejectReason.NOT_AN_IMAGE, f"{size} bytes of no known video format")
        if width * height > MAX_PIXELS:
            return Rejected(RejectReason.TOO_MANY_PIXELS, f"{width}x{height}")
        found = {}
        for number in range(max(frames, default=-1) + 1):
            if not video.grab():
                break
            if number in frames:
                done, pixels = video.retrieve()
                if done:
                    found[number] = DecodedPicture(np.ascontiguousarray(pixels[:, :, ::-1]), size, sha256)
        return found
    finally:
        video.release()


@contextmanager
def _on_disk(place: Readable, content: bytes) -> Iterator[Path]:
    """A path of the file: its own, or that of a copy of what is inside a tar or on a server."""
    if isinstance(place, Path):
        yield place
        return
    with tempfile.NamedTemporaryFile(suffix=Path(place.name).suffix) as file:
        file.write(content)
        file.flush()
        yield Path(file.name)
