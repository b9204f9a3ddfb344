"""Rows of a JSON-lines file, reached through a table of line starts.

Blank lines are no rows; line numbers in messages count them all the same, as an editor does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from vlmforge.data.bad import BadSampleError, tell_json_error
from vlmforge.data.files import open_file
from vlmforge.data.sources.base import RawRow, read_head
from vlmforge.data.sources.index import Table
from vlmforge.data.sources.text_rows import TextRows
from vlmforge.errors import DataError, Problem

_CHUNK_BYTES = 1 << 24
# A line that holds pictures may be long; the first few of them are looked for in this much.
_HEAD_BYTES = 1 << 26
_FIX = "write one JSON object on every line"


class JsonlRows(TextRows):
    """The rows of one `.jsonl` file."""

    kind = "jsonl"

    def head(self, count: int) -> list[RawRow | DataError]:
        """The first rows, from the start of the file alone."""
        return read_head(_JsonlHead(self.path), count)

    def _find_rows(self) -> Iterator[Table]:
        """Starts and line numbers, a piece of the file at a time."""
        offset, line, carry = 0, 0, b""
        with open_file(self.path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                block = carry + chunk
                cut = block.rfind(b"\n") + 1
                found, num_lines = _find_lines(block[:cut])
                yield np.add(found, [offset, line])
                offset, line, carry = offset + cut, line + num_lines, block[cut:]
        yield np.add(_find_lines(carry)[0], [offset, line])

    def _parse(self, raw: bytes, where: str) -> dict[str, Any]:
        """One line."""
        try:
            row = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise BadSampleError(
                Problem(f"the line is no JSON: {tell_json_error(error)}", where, _FIX), "unreadable_row"
            ) from None
        if not isinstance(row, dict):
            what = f"the line holds a {type(row).__name__}, not an object"
            raise BadSampleError(Problem(what, where, _FIX), "unreadable_row")
        return row


class _JsonlHead(JsonlRows):
    """The rows at the start of a file that is too large to be gone through."""

    def _find_rows(self) -> Iterator[Table]:
        """Whole lines of the first bytes."""
        with open_file(self.path) as file:
            block = file.read(_HEAD_BYTES)
        yield _find_lines(block[: block.rfind(b"\n") + 1])[0]

    @property
    def _rows(self) -> Table:
        if self._table is None:
            self._table = np.concatenate([*self._find_rows()])
        return self._table


def _find_lines(block: bytes) -> tuple[Table, int]:
    """Start and number of every line with something in it, within a block of whole lines; and how many lines."""
    if not block:
        return np.zeros((0, 2), np.int64), 0
    characters = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(characters == ord("\n")) + 1
    if not len(ends) or ends[-1] != len(block):
        ends = np.append(ends, len(block))
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    # Nearly every line starts with a brace, so nearly none has to be looked at closer.
    is_row = characters[starts] == ord("{")
    for line in np.flatnonzero(~is_row):
        is_row[line] = bool(block[int(starts[line]) : int(ends[line])].strip())
    lines = np.flatnonzero(is_row)
    return np.stack([starts[lines], lines], axis=1), len(starts)
