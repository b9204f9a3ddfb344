"""Sources: the files behind one entry of a blend as one numbered list of samples.

This file decides which reader a path gets, what a source is called, and what `rows` and several files mean.
It knows nothing of order or tokens.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from vlmforge.config.schema import SourceConfig
from vlmforge.data.builtin import BUILTINS, PREFIX, Builtin, nest_fields
from vlmforge.data.formats import FORMATS, Format
from vlmforge.data.locations import FILE_SUFFIXES
from vlmforge.data.sample import Place, Sample
from vlmforge.data.sources.jsonl import JsonlRows
from vlmforge.data.sources.library import LibraryRows
from vlmforge.data.sources.parquet import ParquetRows
from vlmforge.errors import DataError, Problem


class Rows(Protocol):
    """Numbered raw rows of one file or one built-in set."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Row i, counted from 0."""
        ...

    def locate(self, i: int) -> str:
        """Where row i is, for messages."""
        ...


class BuiltinRows:
    """Rows that the package makes, laid out under the source's own `columns`."""

    def __init__(self, name: str, builtin: Builtin, columns: Mapping[str, str]) -> None:
        """Keep the recipe for a row."""
        self._name = name
        self._builtin = builtin
        self._columns = columns

    def __len__(self) -> int:
        """Number of rows."""
        return self._builtin.num_rows

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Row i, counted from 0."""
        return nest_fields(self._builtin.fields(i), self._columns)

    def locate(self, i: int) -> str:
        """`builtin:name row N`."""
        return f"{PREFIX}{self._name} row {i}"


@dataclass(frozen=True)
class Source:
    """One entry of a blend, opened.

    Attributes:
        name: as sample ids, ledger and logs have it.
        format: how its rows are read.
        columns: where the format's columns are.
        parts: its files, in order.
        ends: rows up to and with each part.
        start: first row that is used.
        stop: end of the rows that are used.
        media_roots: where relative paths of images start, by part.
        may_fetch: whether addresses that rows give may be fetched.
    """

    name: str
    format: Format
    columns: Mapping[str, str]
    parts: tuple[Rows, ...]
    ends: tuple[int, ...]
    start: int
    stop: int
    media_roots: tuple[str, ...] = ()
    may_fetch: bool = False

    def __len__(self) -> int:
        """Number of samples."""
        return self.stop - self.start

    def place(self, i: int) -> Place:
        """Where sample i of [0, len) is; its index counts all rows of the source, unused ones too."""
        index = self.start + i
        part, row = self._find(index)
        return Place(self.name, index, self.parts[part].locate(row), self.media_roots[part], self.may_fetch)

    def sample(self, i: int) -> Sample:
        """Sample i of [0, len).

        Raises:
            DataError: the row cannot be read.
        """
        part, row = self._find(self.start + i)
        return self.format.parse(self.parts[part][row], self.columns, self.place(i))

    def _find(self, index: int) -> tuple[int, int]:
        """The number of the part that holds a row, and the row's number in it."""
        number = bisect.bisect_right(self.ends, index)
        return number, index - (self.ends[number - 1] if number else 0)


def open_sources(configs: Sequence[SourceConfig]) -> tuple[Source, ...]:
    """Open all sources of a blend."""
    names = name_sources(configs)
    return tuple(open_source(config, name) for config, name in zip(configs, names, strict=True))


def open_source(config: SourceConfig, name: str) -> Source:
    """Open one source.

    Raises:
        DataError: a file is absent or empty, or `rows` reaches beyond the end.
    """
    format = FORMATS[config.format]
    parts = tuple(_open_path(path, config, format) for path in config.path)
    ends = tuple(accumulate(len(part) for part in parts))
    start, stop = config.rows or (0, ends[-1])
    if stop > ends[-1]:
        raise DataError(rows_problem(config, name, ends[-1], f"source {name}"))
    roots = tuple(config.media_root or _folder_of(path) for path in config.path)
    return Source(name, format, config.columns, parts, ends, start, stop, roots, config.fetch_media)


def _folder_of(path: str) -> str:
    """The folder of a data file; empty for what is none."""
    return str(Path(path).parent) if path.endswith(FILE_SUFFIXES) else ""


def rows_problem(config: SourceConfig, path: str, num_rows: int, where: str) -> Problem:
    """`rows` beyond the end; `path` is the source's name or its dotted path in the recipe."""
    start, stop = config.rows or (0, 0)
    return Problem(
        what=f"{path}: rows = [{start}, {stop}] reaches beyond the end; there are {num_rows} rows",
        where=where,
        fix=f"rows: [{min(start, num_rows - 1)}, {num_rows}]",
    )


def name_sources(configs: Sequence[SourceConfig]) -> list[str]:
    """Names that tell the sources apart: `name`, else the first file's stem; a second one gets `-2`."""
    names: list[str] = []
    for config in configs:
        wanted = config.name or derive_name(config.path)
        name, count = wanted, 1
        while name in names:
            count += 1
            name = f"{wanted}-{count}"
        names.append(name)
    return names


def derive_name(paths: Sequence[str]) -> str:
    """The stem of the first file, the last part of a hub id, or what follows `builtin:`."""
    if not paths:
        return "unnamed"
    first = paths[0].removeprefix(PREFIX)
    return Path(first).stem if first.endswith(FILE_SUFFIXES) else Path(first).name


def _open_path(path: str, config: SourceConfig, format: Format) -> Rows:
    """The reader that fits a path."""
    if path.startswith(PREFIX):
        name = path.removeprefix(PREFIX)
        return BuiltinRows(name, BUILTINS[name], config.columns)
    if not path.endswith(FILE_SUFFIXES):
        return LibraryRows(path, config.split)
    if not Path(path).is_file():
        raise DataError(Problem(f"file {path} does not exist", f"source of {path}", "give the path of a file"))
    try:
        return (
            JsonlRows(path) if path.endswith(".jsonl") else ParquetRows(path, format.top_level_columns(config.columns))
        )
    except OSError as error:
        problem = Problem(f"{path} cannot be opened: {error.strerror}", path, "check who may read the file")
        raise DataError(problem) from None
