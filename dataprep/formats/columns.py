"""Columns that grow in place: to join pieces at the end would take the memory twice."""

import os
import tempfile
from array import array

import numpy as np
import pyarrow as pa

_FIRST = 1 << 20  # values; memory that is never written to costs nothing


class GrowingColumn:
    """An array to which rows are appended."""

    def __init__(self, kind: type[np.number], width: int | None = None) -> None:
        self._tail = () if width is None else (width,)
        self._values: np.ndarray = np.empty((_FIRST, *self._tail), kind)
        self._length = 0

    def append(self, values: np.ndarray) -> None:
        """Append [N] or [N, width] values."""
        end = self._length + len(values)
        if end > len(self._values):
            self._values.resize((max(end, len(self._values) * 5 // 4), *self._tail), refcheck=False)
        self._values[self._length : end] = values
        self._length = end

    def finish(self) -> np.ndarray:
        """The array; nothing may be appended afterwards."""
        self._values.resize((self._length, *self._tail), refcheck=False)
        return self._values


class TextColumn:
    """Texts in a nameless file (in TMPDIR): COCO's outlines alone are half a gigabyte."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the column
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        """Append a text."""
        content = text.encode()
        self._file.write(content)
        self._ends.append(self._ends[-1] + len(content))

    def take(self, rows: np.ndarray) -> pa.Array:
        """The texts at these places, in this order."""
        ends = np.frombuffer(self._ends, np.int64)
        starts, stops = ends[rows], ends[rows + 1]
        offsets = np.concatenate([[0], np.cumsum(stops - starts)]).astype(np.int32)
        self._file.flush()
        file, places = self._file.fileno(), zip(starts.tolist(), stops.tolist(), strict=True)
        content = b"".join(os.pread(file, stop - start, start) for start, stop in places)
        return pa.StringArray.from_buffers(len(rows), pa.py_buffer(offsets), pa.py_buffer(content))
