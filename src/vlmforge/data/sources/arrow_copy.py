"""Copies of Parquet files as Arrow files, whose rows are reached by number.

A Parquet file is decoded a row group at a time. Where that would be done again and again, or a group is larger than
memory should hold, it is decoded once, a few rows at a time, into the cache folder, and that copy is mapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from vlmforge.data.sources.cache import find_kept, make_kept

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_BATCH_ROWS = 64


class ArrowCopy:
    """The rows of one Parquet file, from its copy."""

    def __init__(self, path: str, file: pq.ParquetFile, columns: Sequence[str]) -> None:
        """Make the copy if it is not there, and map it.

        Raises:
            DataError: there is no room for it.
        """
        import pyarrow as pa

        kept = find_kept(path, "arrow", "\n".join(columns))

        def write(target: IO[bytes]) -> None:
            schema = pa.schema([file.schema_arrow.field(name) for name in columns])
            with pa.ipc.new_file(target, schema) as writer:
                # One thread: pyarrow's pool does not survive the fork of a worker.
                for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False):
                    writer.write_batch(batch.select(list(columns)))

        make_kept(kept, write)
        self._reader = pa.ipc.open_file(pa.memory_map(str(kept)))
        counts = [self._reader.get_batch(k).num_rows for k in range(self._reader.num_record_batches)]
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])

    def row(self, i: int) -> dict[str, Any]:
        """Row i, counted from 0."""
        number = int(np.searchsorted(self._starts, i, side="right")) - 1
        row: dict[str, Any] = self._reader.get_batch(number).slice(i - int(self._starts[number]), 1).to_pylist()[0]
        return row
