"""Bytes of files, on this machine or at any address that fsspec knows; nothing here stays open over a fork.

A path with `scheme://` goes to fsspec, everything else to the operating system. Files are read by ranges, so that
neither memory nor open files grow with the data.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import IO, Any

from vlmforge.errors import DataError, Problem

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
# Descriptors kept open; a run may have thousands of shards.
_MAX_OPEN = 64


@dataclass(frozen=True)
class Stamp:
    """What tells whether a file is still the one that was looked at.

    Attributes:
        size: bytes.
        version: date, etag or whatever else the file system has.
    """

    size: int
    version: str


def is_url(path: str) -> bool:
    """Whether fsspec is to open a path."""
    return bool(_URL.match(path))


def split_url(path: str) -> tuple[Any, str]:
    """The file system behind an address, and the path there.

    Raises:
        DataError: fsspec does not know the scheme, or a package for it is missing.
    """
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(path)
    except (ImportError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        fix = "install what fsspec needs for this scheme (s3fs, gcsfs, adlfs ...), or copy the files here"
        raise DataError(Problem(f"{path} cannot be opened: {reason}", path, fix)) from None


def stamp(path: str) -> Stamp:
    """Size and version of a file.

    Raises:
        FileNotFoundError: it does not exist.
    """
    if not is_url(path):
        status = Path(path).stat()
        return Stamp(status.st_size, str(status.st_mtime_ns))
    system, inner = split_url(path)
    info = system.info(inner)
    version = next((info[key] for key in ("ETag", "etag", "mtime", "LastModified", "created") if info.get(key)), "")
    return Stamp(int(info["size"] or 0), str(version))


def is_file(path: str) -> bool:
    """Whether a file exists there."""
    if not is_url(path):
        return Path(path).is_file()
    system, inner = split_url(path)
    return bool(system.isfile(inner))


def is_folder(path: str) -> bool:
    """Whether a folder exists there."""
    if not is_url(path):
        return Path(path).is_dir()
    system, inner = split_url(path)
    return bool(system.isdir(inner))


@contextmanager
def open_file(path: str) -> Iterator[IO[bytes]]:
    """A file to read from start to end, or here and there."""
    if not is_url(path):
        with Path(path).open("rb") as file:
            yield file
        return
    system, inner = split_url(path)
    with system.open(inner, "rb") as file:
        yield file


def read_range(path: str, start: int, stop: int) -> bytes:
    """The bytes [start, stop) of a file.

    Raises:
        OSError: it cannot be read.
    """
    if is_url(path):
        system, inner = split_url(path)
        return bytes(system.cat_file(inner, start=start, end=stop))
    # A relative path is another file in another folder.
    descriptor, pieces = _OPEN.get(os.path.abspath(path)), []
    while start < stop:
        # One call gives 2 GiB at most; no shared position, so processes and threads do not disturb each other.
        piece = os.pread(descriptor, stop - start, start)
        if not piece:
            break
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)


def has_pattern(path: str) -> bool:
    """Whether a path stands for several: `*`, `?`, `[...]` or `{000..009}`."""
    return bool(_BRACES.search(path)) or has_magic(path)


def expand_pattern(path: str) -> list[str]:
    """The paths that a pattern stands for, sorted; numbers in braces are counted, whether files exist or not.

    `{000..009}` keeps the zeros in front, as in names of WebDataset shards.
    """
    braces = _BRACES.search(path)
    if braces:
        first, last = braces[1], braces[2]
        numbers = range(int(first), int(last) + 1)
        head, tail = path[: braces.start()], path[braces.end() :]
        return [name for n in numbers for name in expand_pattern(f"{head}{n:0{len(first)}d}{tail}")]
    if not has_magic(path):
        return [path]
    if not is_url(path):
        return sorted(glob(path, recursive=True))
    system, inner = split_url(path)
    return sorted(system.unstrip_protocol(found) for found in system.glob(inner))


class _OpenFiles(threading.local):
    """Descriptors of local files; the ones used longest ago are closed, so each thread has its own."""

    def __init__(self) -> None:
        """Nothing is open in a new thread."""
        self._descriptors: OrderedDict[str, int] = OrderedDict()

    def get(self, path: str) -> int:
        """A descriptor to `pread` from."""
        if path in self._descriptors:
            self._descriptors.move_to_end(path)
            return self._descriptors[path]
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._descriptors[path] = descriptor
        while len(self._descriptors) > _MAX_OPEN:
            os.close(self._descriptors.popitem(last=False)[1])
        return descriptor


_OPEN = _OpenFiles()
