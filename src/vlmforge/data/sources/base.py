"""What a source's files look like from above, whatever their kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from vlmforge.data.bad import BadSampleError
from vlmforge.errors import DataError, Problem

RawRow = dict[str, Any]


class Rows(Protocol):
    """Numbered raw rows of one file or one built-in set."""

    def __len__(self) -> int:
        """Number of rows; may take a pass over the file the first time."""
        ...

    def __getitem__(self, i: int) -> RawRow:
        """Row i, counted from 0."""
        ...

    def locate(self, i: int) -> str:
        """Where row i is, for messages."""
        ...

    def bytes_to_count(self) -> int:
        """Bytes to go through before `len` is known; 0: it is."""
        ...

    def head(self, count: int) -> list[RawRow | DataError]:
        """The first rows, or what is wrong with them, without a pass over the file."""
        ...


class RowStream(Protocol):
    """Raw rows that can only be read one after the other.

    A state is small, made of plain JSON values, and says where to go on; only the stream that made it understands
    it. A stream starts again at its end, for ever.
    """

    def read(self, state: Mapping[str, Any] | None) -> Iterator[tuple[int, RawRow, dict[str, Any]]]:
        """Rows from a state on; None: from the start.

        Yields:
            The row's number in its epoch, the row, and the state after it.
        """
        ...

    def locate(self, i: int) -> str:
        """Where row i of an epoch is, for messages."""
        ...


def read_head(rows: Rows, count: int) -> list[RawRow | DataError]:
    """`Rows.head` of rows that are reached one by one."""
    found: list[RawRow | DataError] = []
    for i in range(min(count, len(rows))):
        try:
            found.append(rows[i])
        except BadSampleError as error:
            found.append(error)
    return found


def empty_file_error(path: str) -> DataError:
    """A file without rows."""
    return DataError(Problem(f"{path} holds no rows", path, "point the source at a file with data"))


def unreadable_error(path: str, error: Exception) -> DataError:
    """A file that the system does not let us read."""
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(Problem(f"{path} cannot be read: {reason}", path, "check the file and who may read it"))
