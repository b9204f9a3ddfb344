"""Rows of a JSON-lines file, reached through a table of line starts.

The file is mapped, not read: memory grows by 16 bytes a line. Blank lines are no rows; line numbers in
messages count them all the same, as an editor does.
"""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmforge.errors import DataError, Problem

_CHUNK_BYTES = 1 << 24


class JsonlRows:
    """The rows of one `.jsonl` file."""

    def __init__(self, path: str) -> None:
        """Map the file and find its lines.

        Raises:
            DataError: the file holds no row.
        """
        self.path = path
        if Path(path).stat().st_size == 0:
            raise empty_file_error(path)
        with Path(path).open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._starts, self._line_numbers = self._find_rows()
        if not len(self._line_numbers):
            raise empty_file_error(path)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._line_numbers)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Row i, counted from 0.

        Raises:
            DataError: the line is no JSON object.
        """
        line = int(self._line_numbers[i])
        raw = self._bytes[int(self._starts[line]) : int(self._starts[line + 1])]
        fix = "write one JSON object on every line"
        try:
            row = json.loads(raw)
        except ValueError as error:
            raise DataError(Problem(f"the line is no JSON: {error}", self.locate(i), fix)) from None
        if not isinstance(row, dict):
            raise DataError(Problem(f"the line holds a {type(row).__name__}, not an object", self.locate(i), fix))
        return row

    def locate(self, i: int) -> str:
        """`file:line` of row i, the line counted from 1."""
        return f"{self.path}:{int(self._line_numbers[i]) + 1}"

    def _find_rows(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Starts of all lines and the end of the file, and the numbers (from 0) of those with a row."""
        ends: list[npt.NDArray[np.int64]] = []
        size = len(self._bytes)
        for start in range(0, size, _CHUNK_BYTES):
            chunk = np.frombuffer(self._bytes[start : start + _CHUNK_BYTES], dtype=np.uint8)
            ends.append(np.flatnonzero(chunk == ord("\n")) + start + 1)
        starts = np.concatenate([np.zeros(1, np.int64), *ends])
        if starts[-1] != size:
            starts = np.append(starts, size)
        is_row = np.ones(len(starts) - 1, np.bool_)
        # Nearly every line starts with a brace, so nearly none has to be looked at closer.
        first_bytes = np.frombuffer(self._bytes, dtype=np.uint8)[starts[:-1]]
        for line in np.flatnonzero(first_bytes != ord("{")):
            is_row[line] = bool(self._bytes[int(starts[line]) : int(starts[line + 1])].strip())
        return starts, np.flatnonzero(is_row)


def empty_file_error(path: str) -> DataError:
    """A file without rows."""
    return DataError(Problem(f"{path} holds no rows", path, "point the source at a file with data"))
