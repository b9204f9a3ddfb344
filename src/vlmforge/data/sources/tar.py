"""Samples of a WebDataset tar shard: members that share a name up to the first dot are one sample.

A table of where samples start is all that is kept of a shard: 8 bytes a sample, mapped. It is energon's own
(`shard.tar.idx`) where that lies beside the shard, else made once and cached. A sample is one read.

Members without an extension, hidden ones and `__meta__` are no samples, as in WebDataset.
"""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from vlmforge.data.bad import BadSampleError, tell_json_error
from vlmforge.data.files import is_file, open_file, read_range, stamp
from vlmforge.data.sources.base import RawRow, empty_file_error, read_head, unreadable_error
from vlmforge.data.sources.index import Table, bytes_to_read, load_table
from vlmforge.data.sources.tar_members import read_members
from vlmforge.errors import DataError, Problem

KEY = "__key__"
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_META = re.compile(r"__[^/]*__($|/)")
_TEXTS = ("txt", "text", "transcript")
_NUMBERS = ("cls", "cls2", "class", "count", "index", "inx", "id")
_BLOCK_BYTES = 512
_PIECE_SAMPLES = 1 << 16


class TarRows:
    """The samples of one shard."""

    def __init__(self, path: str) -> None:
        """Remember the shard; where its samples start is found out when one is first asked for."""
        self.path = path
        self._table: Table | None = None

    def __len__(self) -> int:
        """Number of samples.

        Raises:
            DataError: the file is no tar file, or has none.
        """
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> RawRow:
        """Sample i, counted from 0: `__key__`, and what its members hold by their extension.

        Raises:
            BadSampleError: a member cannot be read as what its extension says.
            DataError: the shard cannot be read.
        """
        return self._parse(self._read(i), i)

    def locate(self, i: int) -> str:
        """`shard sample N`, counted from 0."""
        return f"{self.path} sample {i}"

    def bytes_to_count(self) -> int:
        """All of them, unless where its samples start is known."""
        if self._table is not None or is_file(f"{self.path}.idx"):
            return 0
        return bytes_to_read(self.path, "tar")

    def head(self, count: int) -> list[RawRow | DataError]:
        """The first samples, from the start of the shard alone."""
        first = TarRows(self.path)
        first._table = np.array([*islice(_iterate_starts(self.path), count + 1)], np.int64)
        return read_head(first, count)

    @property
    def _starts(self) -> Table:
        """Where samples start, and where the last one ends."""
        if self._table is None:
            self._table = self._load_starts()
        if len(self._table) < 2:
            raise empty_file_error(self.path)
        return self._table

    def _load_starts(self) -> Table:
        """Energon's own table, a cached one, or a new one."""
        starts = _load_energon_table(self.path)
        return load_table(self.path, "tar", 1, lambda: _find_starts(self.path))[:, 0] if starts is None else starts

    def _read(self, i: int) -> bytes:
        """The bytes of one sample."""
        try:
            return read_range(self.path, int(self._starts[i]), int(self._starts[i + 1]))
        except OSError as error:
            raise unreadable_error(self.path, error) from None

    def _parse(self, raw: bytes, i: int) -> dict[str, Any]:
        """The members of one sample."""
        row: dict[str, Any] = {}
        try:
            for path, content in read_members(raw):
                name = split_name(path)
                if name is not None:
                    self._add(row, *name, content, i)
        except (tarfile.TarError, EOFError) as error:
            raise self._error(i, f"the shard is damaged: {error}", "write the shard again") from None
        return row

    def _add(self, row: dict[str, Any], key: str, extension: str, content: bytes, i: int) -> None:
        """Enter one member in its row."""
        if extension in row:
            raise self._error(i, f"{key}.{extension} comes twice", "give every sample of a shard a key of its own")
        row[KEY] = key
        try:
            row[extension] = decode_member(extension, content)
        except (ValueError, RecursionError) as error:
            raise self._error(
                i, f"{key}.{extension} cannot be read: {tell_json_error(error)}", f"write {extension} again"
            ) from None

    def _error(self, i: int, what: str, fix: str) -> BadSampleError:
        return BadSampleError(Problem(what, self.locate(i), fix), "unreadable_row")


def split_name(path: str) -> tuple[str, str] | None:
    """Key and extension of a member by its name, or None: `a/1.seg.png` is `a/1` and `seg.png`."""
    match = _NAME.fullmatch(path.removeprefix("./"))
    if match is None or _META.match(path):
        return None
    return match[1], match[2].lower()


def decode_member(extension: str, content: bytes) -> Any:
    """What a member holds: text, a number, JSON or an array by its extension, bytes otherwise.

    Raises:
        ValueError: it holds something else.
    """
    kind = extension.rpartition(".")[2]
    decoders: dict[str, Callable[[bytes], Any]] = {
        "json": json.loads,
        "npy": _read_array,
        **dict.fromkeys(_TEXTS, lambda raw: raw.decode("utf-8")),
        **dict.fromkeys(_NUMBERS, lambda raw: int(raw.decode("ascii"))),
    }
    return decoders[kind](content) if kind in decoders else content


def _read_array(raw: bytes) -> list[Any]:
    """The array of a `.npy` member, as lists; numpy itself would first make room for all that the header promises."""
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
    count = math.prod(shape)
    if dtype.hasobject or count * dtype.itemsize != len(raw) - file.tell():
        raise ValueError(f"its header says {shape} of {dtype}, and {len(raw) - file.tell()} bytes follow")
    return np.frombuffer(raw, dtype, count, file.tell()).reshape(shape, order="F" if is_fortran else "C").tolist()


def _find_starts(path: str) -> Iterator[Table]:
    """The table of a shard in pieces."""
    starts = _iterate_starts(path)
    while piece := [*islice(starts, _PIECE_SAMPLES)]:
        yield np.array(piece, np.int64).reshape(-1, 1)


def _iterate_starts(path: str) -> Iterator[int]:
    """Where each sample of a shard starts, and where the last one ends."""
    last, end = None, 0
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                name = split_name(member.name) if member.isreg() else None
                if name is not None and name[0] != last:
                    last = name[0]
                    yield member.offset
                end = member.offset_data + -(-member.size // _BLOCK_BYTES) * _BLOCK_BYTES
                # The archive remembers every member, which a shard of a million would feel; the stubs leave it out.
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
    except tarfile.TarError as error:
        raise DataError(
            Problem(f"{path} is no tar file, or is damaged or compressed: {error}", path, "write a plain .tar file")
        ) from None
    except OSError as error:
        raise unreadable_error(path, error) from None
    if last is not None:
        yield end


def _load_energon_table(path: str) -> Table | None:
    """The table that `energon prepare` wrote beside a shard, if it is there and fits."""
    beside = f"{path}.idx"
    if not is_file(beside):
        return None
    with open_file(beside) as file:
        starts = np.frombuffer(file.read(), dtype="<u8").astype(np.int64)
    fits = len(starts) > 0 and starts[0] >= 0 and starts[-1] <= stamp(path).size and bool((np.diff(starts) > 0).all())
    if not fits:
        fix = f"energon prepare again, or delete {beside}"
        raise DataError(Problem(f"{beside} is not the index of {path}: its positions do not fit", beside, fix))
    return starts
