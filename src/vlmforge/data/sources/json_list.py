"""Rows of a JSON file that is one long list of objects, as LLaVA's data comes; reached through a table of positions.

The list is gone through once, a piece at a time: the table says where each object starts and ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import IO

import numpy as np

from vlmforge.data.bad import BadSampleError, tell_json_error
from vlmforge.data.files import open_file, read_range
from vlmforge.data.sources.base import RawRow, empty_file_error, read_head, unreadable_error
from vlmforge.data.sources.index import Table, bytes_to_read, load_table
from vlmforge.errors import DataError, Problem

_CHUNK_BYTES = 1 << 22
_PIECE_ROWS = 1 << 16
_WHITESPACE = re.compile(r"[ \t\n\r]*")
_FIX = "write a list of objects, [{...}, {...}], or one object on every line of a .jsonl file"


class JsonListRows:
    """The rows of one `.json` file."""

    def __init__(self, path: str) -> None:
        """Remember the file; its rows are found when one is first asked for."""
        self.path = path
        self._table: Table | None = None

    def __len__(self) -> int:
        """Number of rows.

        Raises:
            DataError: the file is no list, or an empty one.
        """
        return len(self._rows)

    def __getitem__(self, i: int) -> RawRow:
        """Row i, counted from 0.

        Raises:
            BadSampleError: the item is no object.
            DataError: the file cannot be read.
        """
        start, stop = (int(place) for place in self._rows[i])
        try:
            row = json.loads(read_range(self.path, start, stop))
        except OSError as error:
            raise unreadable_error(self.path, error) from None
        except (ValueError, RecursionError) as error:
            raise BadSampleError(
                Problem(f"the item is no JSON: {tell_json_error(error)}", self.locate(i), _FIX), "unreadable_row"
            ) from None
        if not isinstance(row, dict):
            what = f"the item is of type {type(row).__name__}, not an object"
            raise BadSampleError(Problem(what, self.locate(i), _FIX), "unreadable_row")
        return row

    def locate(self, i: int) -> str:
        """`file item N`, counted from 0."""
        return f"{self.path} item {i}"

    def bytes_to_count(self) -> int:
        """All of them, unless the rows are found already."""
        # Ten times as slow as looking for line ends.
        return 10 * bytes_to_read(self.path, "json") if self._table is None else 0

    def head(self, count: int) -> list[RawRow | DataError]:
        """The first rows, from the start of the file alone."""
        first = JsonListRows(self.path)
        first._table = np.array([*islice(_iterate_items(self.path), count)], np.int64).reshape(-1, 2)
        return read_head(first, count)

    @property
    def _rows(self) -> Table:
        """Start and end of every row."""
        if self._table is None:
            self._table = load_table(self.path, "json", 2, self._find_rows)
        if not len(self._table):
            raise empty_file_error(self.path)
        return self._table

    def _find_rows(self) -> Iterator[Table]:
        """The table in pieces."""
        items = _iterate_items(self.path)
        while piece := [*islice(items, _PIECE_ROWS)]:
            yield np.array(piece, np.int64)


class _Text:
    """The part of a file that is looked at; one character is one byte, so that positions are those of the file."""

    def __init__(self, file: IO[bytes]) -> None:
        """Start at the beginning."""
        self._file = file
        self.text = ""
        self.offset = 0

    def more(self, done: int) -> bool:
        """Forget what is done and read on; False at the end of the file."""
        chunk = self._file.read(max(_CHUNK_BYTES, len(self.text) - done))
        self.text, self.offset = self.text[done:] + chunk.decode("latin-1"), self.offset + done
        return bool(chunk)

    def skip_blanks(self, at: int) -> int:
        """The next position that is no blank; reads on where there is none."""
        while True:
            match = _WHITESPACE.match(self.text, at)
            assert match is not None, "nothing is a blank too"
            if match.end() < len(self.text) or not self.more(match.end()):
                return min(match.end(), len(self.text))
            at = 0


def _iterate_items(path: str) -> Iterator[tuple[int, int]]:
    """Start and end of every item of the list in a file."""
    decoder = json.JSONDecoder()
    with open_file(path) as file:
        part = _Text(file)
        part.more(0)
        at = part.skip_blanks(part.text.startswith("\xef\xbb\xbf") * 3)
        if part.text[at : at + 1] != "[":
            raise DataError(Problem(f"{path} is no list in JSON", path, _FIX))
        at = part.skip_blanks(at + 1)
        while part.text[at : at + 1] != "]":
            try:
                _, end = decoder.raw_decode(part.text, at)
            except ValueError as error:
                # Either the item goes on behind what was read, or it is none.
                if not part.more(at):
                    what = f"{path} is damaged or cut off: {str(error).split(':')[0]}"
                    raise DataError(Problem(what, f"{path} byte {part.offset}", _FIX)) from None
                at = 0
                continue
            yield part.offset + at, part.offset + end
            at = part.skip_blanks(end)
            if part.text[at : at + 1] == ",":
                at = part.skip_blanks(at + 1)
            elif part.text[at : at + 1] != "]":
                raise DataError(Problem(f"{path} is damaged or cut off", f"{path} byte {part.offset + at}", _FIX))
