"""Rows of a text file, reached through a table of where they start."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from vlmforge.data.files import read_range, stamp
from vlmforge.data.sources.base import RawRow, empty_file_error, unreadable_error
from vlmforge.data.sources.index import Table, bytes_to_read, load_table


class TextRows(ABC):
    """The rows of one file."""

    # Of the table in the cache.
    kind: ClassVar[str]

    def __init__(self, path: str) -> None:
        """Remember the file; its rows are found when one is first asked for."""
        self.path = path
        self._size = stamp(path).size
        self._table: Table | None = None

    def __len__(self) -> int:
        """Number of rows.

        Raises:
            DataError: there is none.
        """
        return len(self._rows)

    def __getitem__(self, i: int) -> RawRow:
        """Row i, counted from 0.

        Raises:
            BadSampleError: it is none.
            DataError: the file cannot be read.
        """
        start = int(self._rows[i, 0])
        stop = int(self._rows[i + 1, 0]) if i + 1 < len(self._rows) else self._size
        try:
            raw = read_range(self.path, start, stop)
        except OSError as error:
            raise unreadable_error(self.path, error) from None
        return self._parse(raw, self.locate(i))

    def locate(self, i: int) -> str:
        """`file:line` at which row i starts, the line counted from 1."""
        return f"{self.path}:{int(self._rows[i, 1]) + 1}"

    def bytes_to_count(self) -> int:
        """All of them, unless the rows are found already."""
        return bytes_to_read(self.path, self.kind) if self._table is None else 0

    @property
    def _rows(self) -> Table:
        """Start and line number (from 0) of every row."""
        if self._table is None:
            self._table = load_table(self.path, self.kind, 2, self._find_rows)
            if not len(self._table):
                raise empty_file_error(self.path)
        return self._table

    @abstractmethod
    def _find_rows(self) -> Iterator[Table]:
        """The table in pieces."""

    @abstractmethod
    def _parse(self, raw: bytes, where: str) -> RawRow:
        """One row."""
