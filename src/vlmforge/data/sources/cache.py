"""Files that are made once out of data files and kept in the cache folder: made whole, by one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vlmforge.data.files import is_url, stamp
from vlmforge.errors import DataError, Problem

CACHE_FOLDER = Path("~/.cache/vlmforge")


def find_kept(path: str, kind: str, detail: str = "") -> Path:
    """Where what is made of a data file is kept; another size or date of the file is another place.

    Args:
        path: the data file.
        kind: what is made of it; ends the name.
        detail: what else it depends on.
    """
    whole = path if is_url(path) else str(Path(path).resolve())
    mark = stamp(path)
    digest = hashlib.sha256(f"{kind}\n{detail}\n{whole}\n{mark.size}\n{mark.version}".encode()).hexdigest()
    return CACHE_FOLDER.expanduser() / f"{digest}.{kind}"


def make_kept(kept: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a kept file if it is not there; processes that want it at once wait for the one that writes it.

    Raises:
        DataError: the cache folder cannot be written, or is full.
    """
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with _locked(kept.with_suffix(".lock")):
            if not kept.is_file():
                _write_whole(kept, write)
    except OSError as error:
        fix = f"make room in {kept.parent}, or make it a link to a folder with room"
        raise DataError(Problem(f"{kept.parent} cannot be written: {error.strerror}", str(kept), fix)) from None


def _write_whole(kept: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write beside the place and move there at the end."""
    descriptor, name = tempfile.mkstemp(dir=kept.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
        os.replace(name, kept)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else of this machine is in such a block with this path."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
