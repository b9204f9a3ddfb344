"""Tables of positions in large files: made once, kept in the cache folder, mapped instead of read.

A table is named after its file, size and date, so that a file written anew gets a new one. It is written piece by
piece, so that memory does not grow with the file. Two processes that make the same table at once each write a whole
one of their own, and the last one stays.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlmforge.data.files import is_url, stamp

CACHE_FOLDER = Path("~/.cache/vlmforge/index")
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
    kept = _table_path(path, kind)
    if not kept.is_file():
        if stamp(path).size < _KEEP_FROM_BYTES and not is_url(path):
            return _join(make(), columns)
        kept.parent.mkdir(parents=True, exist_ok=True)
        _write(kept, make())
    if kept.stat().st_size == 0:
        return np.zeros((0, columns), np.int64)
    return np.memmap(kept, dtype=np.int64, mode="r").reshape(-1, columns)


def bytes_to_read(path: str, kind: str) -> int:
    """Bytes to go through before the table of a file is there; 0: it is. From afar, bytes count a hundredfold."""
    if _table_path(path, kind).is_file():
        return 0
    return stamp(path).size * (100 if is_url(path) else 1)


def _join(pieces: Iterator[Table], columns: int) -> Table:
    """A table in memory."""
    return np.concatenate([np.zeros((0, columns), np.int64), *pieces])


def _table_path(path: str, kind: str) -> Path:
    """Where a table is kept."""
    whole = path if is_url(path) else str(Path(path).resolve())
    mark = stamp(path)
    digest = hashlib.sha256(f"{kind}\n{whole}\n{mark.size}\n{mark.version}".encode()).hexdigest()
    return CACHE_FOLDER.expanduser() / f"{digest}.{kind}"


def _write(kept: Path, pieces: Iterator[Table]) -> None:
    """Write a table whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=kept.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(np.ascontiguousarray(piece, np.int64).tobytes())
        os.replace(name, kept)
    finally:
        Path(name).unlink(missing_ok=True)
