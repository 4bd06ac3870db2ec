"""Columns that grow in place: joining pieces at the end would hold everything twice."""

import numpy as np

_FIRST = 1 << 20  # values; memory that is never written to costs nothing


class Column:
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
        """The array; nothing is to be appended after it."""
        self._values.resize((self._length, *self._tail), refcheck=False)
        return self._values
