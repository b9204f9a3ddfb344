"""Rows that the package makes."""

from __future__ import annotations

from collections.abc import Mapping

from vlmforge.data.builtin import PREFIX, Builtin, nest_fields
from vlmforge.data.sources.base import RawRow, read_head
from vlmforge.errors import DataError


class BuiltinRows:
    """Rows laid out under the source's own `columns`."""

    def __init__(self, name: str, builtin: Builtin, columns: Mapping[str, str]) -> None:
        """Keep the recipe for a row."""
        self._name = name
        self._builtin = builtin
        self._columns = columns

    def __len__(self) -> int:
        """Number of rows."""
        return self._builtin.num_rows

    def __getitem__(self, i: int) -> RawRow:
        """Row i, counted from 0."""
        return nest_fields(self._builtin.fields(i), self._columns)

    def locate(self, i: int) -> str:
        """`builtin:name row N`."""
        return f"{PREFIX}{self._name} row {i}"

    def bytes_to_count(self) -> int:
        """None."""
        return 0

    def head(self, count: int) -> list[RawRow | DataError]:
        """The first rows."""
        return read_head(self, count)
