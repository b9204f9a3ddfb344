"""Rows of a CSV file (commas) or TSV file (tabs) whose first line names the columns.

A quoted field may hold line ends, so rows are found by the csv module and kept in a table of their starts. Every
value is a string; the encoding is UTF-8, with or without a byte-order mark.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from vlmforge.data.bad import BadSampleError
from vlmforge.data.files import open_file, read_range
from vlmforge.data.sources.base import RawRow, empty_file_error, read_head
from vlmforge.data.sources.index import Table
from vlmforge.data.sources.text_rows import TextRows
from vlmforge.errors import DataError, Problem

_PIECE_ROWS = 1 << 16
# A field may be as long as a text; the module's own limit of 128 KiB is meant for forms.
_MAX_FIELD_BYTES = 1 << 28
# What part fields in tables that programs save under either ending.
_SIGNS = ";\t,"


class CsvRows(TextRows):
    """The rows of one `.csv` or `.tsv` file, the first line not counted."""

    kind = "csv"

    def __init__(self, path: str) -> None:
        """Read the names of the columns.

        Raises:
            DataError: there is no line, or two columns have one name.
        """
        super().__init__(path)
        self._delimiter = "\t" if path.endswith(".tsv") else ","
        csv.field_size_limit(_MAX_FIELD_BYTES)
        self.columns = self._read_columns()

    def head(self, count: int) -> list[RawRow | DataError]:
        """The first rows, from the start of the file alone."""
        first = CsvRows(self.path)
        first._table = np.array([*islice(self._iterate_rows(), 1, count + 2)], np.int64).reshape(-1, 2)
        return read_head(first, count)

    def _find_rows(self) -> Iterator[Table]:
        """The table in pieces, without the line of names."""
        rows = islice(self._iterate_rows(), 1, None)
        while piece := [*islice(rows, _PIECE_ROWS)]:
            yield np.array(piece, np.int64)

    def _iterate_rows(self) -> Iterator[tuple[int, int]]:
        """Start and line number of every row that is not blank, the line of names included."""
        ends = [0]

        def lines() -> Iterator[str]:
            for line in file:
                ends.append(ends[-1] + len(line))
                yield line.decode("utf-8")

        with open_file(self.path) as file:
            reader, line = self._open_reader(lines()), 0
            try:
                for fields in reader:
                    if fields:
                        yield ends[0], line
                    del ends[:-1]
                    line = reader.line_num
            except (csv.Error, UnicodeDecodeError) as error:
                where = f"{self.path}:{line + 1}"
                fix = "write the file as UTF-8, close every quote, and write one within quotes twice"
                raise DataError(Problem(f"no row can be read: {error}", where, fix)) from None

    def _read_columns(self) -> list[str]:
        """The names in the first line."""
        first = [start for start, _ in islice(self._iterate_rows(), 2)]
        if not first:
            raise empty_file_error(self.path)
        raw = read_range(self.path, first[0], first[1] if len(first) > 1 else self._size)
        names = self._split(raw.removeprefix(b"\xef\xbb\xbf"))
        if len(names) == 1 and any(sign in names[0] for sign in _SIGNS):
            what = (
                f"the first line names one column, {names[0]!r}; fields are parted by commas in a .csv, tabs in a .tsv"
            )
            raise DataError(Problem(what, f"{self.path}:1", "save the table with commas and the ending .csv"))
        if len(set(names)) < len(names) or not all(names) or any(name != name.strip() for name in names):
            what = f"the first line must name every column once, without blanks around it; it names {names}"
            raise DataError(Problem(what, f"{self.path}:1", "name the columns, for example  image,caption"))
        return names

    def _split(self, raw: bytes) -> list[str]:
        """The fields of one row."""
        # Not `splitlines`, for which a line ends at U+2028 and a form feed too.
        return next(fields for fields in self._open_reader(io.StringIO(raw.decode("utf-8"), newline="")) if fields)

    def _open_reader(self, lines: Iterable[str]) -> Any:
        """The csv module's, to which a quote that is never closed is an error and not the rest of the file."""
        return csv.reader(lines, delimiter=self._delimiter, strict=True)

    def _parse(self, raw: bytes, where: str) -> RawRow:
        """The fields by their columns."""
        fields = self._split(raw)
        if len(fields) == len(self.columns):
            return dict(zip(self.columns, fields, strict=True))
        what = f"the row has {len(fields)} fields, and the first line names {len(self.columns)} columns"
        fix = 'quote fields that hold commas or line ends, as in  cat.png,"a cat, asleep"'
        raise BadSampleError(Problem(what, where, fix), "unreadable_row")
