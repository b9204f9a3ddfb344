"""Rows of a Parquet file, decoded a row group at a time.

Decoded groups stay in memory up to `_CACHE_BYTES`. A shuffled file larger than that is decoded again and
again: such data belongs in JSON lines or in a `datasets` folder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmforge.data.sources.jsonl import empty_file_error
from vlmforge.errors import DataError, Problem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_CACHE_BYTES = 256 << 20


class ParquetRows:
    """The rows of one `.parquet` file."""

    def __init__(self, path: str, columns: Sequence[str] | None = None) -> None:
        """Read the footer.

        Args:
            path: the file.
            columns: top-level columns to decode; None: all. Those that do not exist are left out.

        Raises:
            DataError: the file is no Parquet file, or holds no row.
        """
        self.path = path
        self._file = _open(path)
        metadata = self._file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        if not self._starts[-1]:
            raise empty_file_error(path)
        existing = self._file.schema_arrow.names
        self._columns = [name for name in existing if columns is None or name in columns]
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._starts[-1])

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Row i, counted from 0.

        Raises:
            DataError: the file is damaged there.
        """
        group = int(np.searchsorted(self._starts, i, side="right")) - 1
        row: dict[str, Any] = self._load(group).slice(i - int(self._starts[group]), 1).to_pylist()[0]
        return row

    def locate(self, i: int) -> str:
        """`file row N`, counted from 0."""
        return f"{self.path} row {i}"

    def _load(self, group: int) -> pa.Table:
        """A decoded row group; the ones used longest ago make room."""
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        import pyarrow as pa

        try:
            # One thread: pyarrow's pool does not survive the fork of a worker.
            table = self._file.read_row_group(group, columns=self._columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(_damaged(self.path, f"{self.path} row group {group}", error)) from None
        self._cache[group] = table
        while len(self._cache) > 1 and sum(held.nbytes for held in self._cache.values()) > _CACHE_BYTES:
            self._cache.popitem(last=False)
        return table


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
        return pq.ParquetFile(path, memory_map=True)
    except pa.ArrowInvalid as error:
        raise DataError(_damaged(path, path, error)) from None


def _damaged(path: str, where: str, error: Exception) -> Problem:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return Problem(f"{path} is no Parquet file, or is damaged: {reason}", where, "write the file again")
