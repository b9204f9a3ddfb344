"""Tables of positions in large files: made once, kept in the cache folder, mapped instead of read.

A table is written piece by piece, so that memory does not grow with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from vlmforge.data.files import is_url, stamp
from vlmforge.data.sources.cache import find_kept, make_kept

# Tables of smaller files are made anew each time, which is as quick as looking them up.
_KEEP_FROM_BYTES = 4 << 20

Table = npt.NDArray[np.int64]


def load_table(path: str, kind: str, columns: int, make: Callable[[], Iterator[Table]]) -> Table:
    """The table of a file, `[rows, columns]`, from the cache folder or made now.

    Args:
        path: the file that the table is about.
        kind: what the table holds; part of its name.
        columns: numbers in a row.
        make: reads the file and yields the table in pieces.
    """
    kept = find_kept(path, kind)
    if not kept.is_file() and stamp(path).size < _KEEP_FROM_BYTES and not is_url(path):
        return np.concatenate([np.zeros((0, columns), np.int64), *make()])

    def write(file: IO[bytes]) -> None:
        for piece in make():
            file.write(np.ascontiguousarray(piece, np.int64).tobytes())

    make_kept(kept, write)
    if kept.stat().st_size == 0:
        return np.zeros((0, columns), np.int64)
    return np.memmap(kept, dtype=np.int64, mode="r").reshape(-1, columns)


def bytes_to_read(path: str, kind: str) -> int:
    """Bytes to go through before the table of a file is there; 0: it is. From afar, bytes count a hundredfold."""
    if find_kept(path, kind).is_file():
        return 0
    return stamp(path).size * (100 if is_url(path) else 1)
