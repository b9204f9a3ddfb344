"""Rows of a Parquet file, decoded a row group at a time.

Decoded groups of all files together stay in memory up to `_CACHE_BYTES`. A file whose groups do not fit there, which
shuffled reading would decode again and again, is decoded once into a copy on disk (`arrow_copy.py`).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmforge.data.files import is_url, split_url, stamp
from vlmforge.data.sources.arrow_copy import ArrowCopy
from vlmforge.data.sources.base import RawRow, empty_file_error
from vlmforge.errors import DataError, Problem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_CACHE_BYTES = 256 << 20
_HEAD_ROWS = 8


class ParquetRows:
    """The rows of one `.parquet` file."""

    def __init__(self, path: str, columns: Sequence[str] | None = None) -> None:
        """Read the footer.

        Args:
            path: file or address.
            columns: top-level columns to decode; None: all. Those that do not exist are left out.

        Raises:
            DataError: the file is no Parquet file, or holds no row.
        """
        self.path = path
        self._file = _open(path)
        self._process = os.getpid()
        self._stamp = stamp(path)
        metadata = self._file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        if not self._starts[-1]:
            raise empty_file_error(path)
        existing = self._file.schema_arrow.names
        self._columns = [name for name in existing if columns is None or name in columns]
        self._decoded_before: set[int] = set()
        self._copy: ArrowCopy | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._starts[-1])

    def __getitem__(self, i: int) -> RawRow:
        """Row i, counted from 0.

        Raises:
            DataError: the file is damaged there.
        """
        group = int(np.searchsorted(self._starts, i, side="right")) - 1
        first = int(self._starts[group])
        if self._copy is None and i - first < _HEAD_ROWS and self._is_large(group):
            # Somebody who only looks at a file should not have to wait for its copy.
            return self._decode_first(group, _HEAD_ROWS)[i - first]
        table = None if self._copy else self._load(group)
        if table is None:
            return self._open_copy().row(i)
        row: dict[str, Any] = table.slice(i - first, 1).to_pylist()[0]
        return row

    def locate(self, i: int) -> str:
        """`file row N`, counted from 0."""
        return f"{self.path} row {i}"

    def bytes_to_count(self) -> int:
        """None: the footer has told."""
        return 0

    def head(self, count: int) -> list[RawRow | DataError]:
        """The first rows, without the rest of their group."""
        return [*self._decode_first(0, count)]

    def _decode_first(self, group: int, count: int) -> list[RawRow]:
        """The first rows of a group."""
        batches = self._file.iter_batches(count, row_groups=[group], columns=self._columns, use_threads=False)
        rows: list[RawRow] = next(batches).to_pylist()
        return rows

    def _is_large(self, group: int) -> bool:
        """Whether a row group is more than memory should hold."""
        return int(self._file.metadata.row_group(group).total_byte_size) > _CACHE_BYTES

    def _open_copy(self) -> ArrowCopy:
        """The copy on disk.

        Raises:
            DataError: there is no room for it, or the file is damaged.
        """
        import pyarrow as pa

        if self._copy is None:
            try:
                self._copy = ArrowCopy(self.path, _open(self.path), self._columns)
            except (pa.ArrowException, OSError) as error:
                raise DataError(_damaged(self.path, self.path, error)) from None
        return self._copy

    def _load(self, group: int) -> pa.Table | None:
        """A decoded row group; None where a copy on disk serves better."""
        key = (self.path, self._stamp, group, tuple(self._columns))
        table = _DECODED.get(key)
        if table is not None:
            return table
        if group in self._decoded_before or self._is_large(group):
            return None
        import pyarrow as pa

        if is_url(self.path) and self._process != os.getpid():
            # A connection does not survive the fork of a worker.
            self._file, self._process = _open(self.path), os.getpid()
        try:
            # One thread: pyarrow's pool does not survive the fork either.
            table = self._file.read_row_group(group, columns=self._columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(_damaged(self.path, f"{self.path} row group {group}", error)) from None
        self._decoded_before.add(group)
        _DECODED.put(key, table)
        return table


class _DecodedGroups:
    """Decoded row groups of all files; the ones used longest ago make room.

    Validation may read while another thread prepares the next steps: each single operation is atomic, and a group that
    is gone in between is decoded anew.
    """

    def __init__(self) -> None:
        """Nothing is decoded."""
        self._tables: OrderedDict[Any, pa.Table] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: Any) -> pa.Table | None:
        """A group, if it is still there."""
        table = self._tables.get(key)
        with suppress(KeyError):
            self._tables.move_to_end(key)
        return table

    def put(self, key: Any, table: pa.Table) -> None:
        """Keep a group as long as there is room."""
        self._tables[key] = table
        self._num_bytes += table.nbytes
        while len(self._tables) > 1 and self._num_bytes > _CACHE_BYTES:
            self._num_bytes -= self._tables.popitem(last=False)[1].nbytes


_DECODED = _DecodedGroups()


def list_schema_paths(path: str) -> list[str]:
    """Dotted paths of all columns of a Parquet file, those of structs included, from the footer alone.

    Raises:
        DataError: it is no Parquet file.
    """
    import pyarrow as pa

    paths: list[str] = []

    def walk(fields: Any, prefix: str) -> None:
        for field in fields:
            paths.append(prefix + field.name)
            if pa.types.is_struct(field.type):
                walk(field.type, f"{prefix}{field.name}.")

    walk(_open(path).schema_arrow, "")
    return paths


def _open(path: str) -> pq.ParquetFile:
    """The file with its footer read.

    Raises:
        DataError: it is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if is_url(path):
            system, inner = split_url(path)
            return pq.ParquetFile(system.open(inner, "rb"))
        return pq.ParquetFile(path, memory_map=True)
    except pa.ArrowInvalid as error:
        raise DataError(_damaged(path, path, error)) from None


def _damaged(path: str, where: str, error: Exception) -> Problem:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return Problem(f"{path} is no Parquet file, or is damaged: {reason}", where, "write the file again")
