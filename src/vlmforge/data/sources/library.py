"""Rows by way of the `datasets` library: a folder that it saved, a folder that it can read, or a hub id.

The only file that imports it, and only when such a source is opened. Pictures and films are left as they are stored:
what decodes them is `data/media.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmforge.data.sources.base import RawRow, read_head
from vlmforge.errors import DataError, Problem, nearest, one_of

SAVED_MARKS = ("dataset_dict.json", "state.json")


class LibraryRows:
    """The rows of one split."""

    def __init__(self, path: str, split: str | None) -> None:
        """Open the data set.

        Args:
            path: folder of `save_to_disk`, folder of data files, or hub id.
            split: which split; needed where there are several.

        Raises:
            DataError: it cannot be opened, or the split is not one of its splits.
        """
        self.path = path
        self._split = split
        # As Arrow tables: any other way decodes pictures.
        self._rows = open_split(path, split, is_streaming=False).with_format("arrow")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def __getitem__(self, i: int) -> RawRow:
        """Row i, counted from 0."""
        row: RawRow = self._rows[i : i + 1].to_pylist()[0]
        return row

    def locate(self, i: int) -> str:
        """`path split row N`, counted from 0."""
        return _locate(self.path, self._split, i)

    def bytes_to_count(self) -> int:
        """None: the library has loaded everything."""
        return 0

    def head(self, count: int) -> list[RawRow | DataError]:
        """The first rows."""
        return read_head(self, count)


class LibraryStream:
    """The rows of one split as they arrive, in their own order."""

    def __init__(self, path: str, split: str | None) -> None:
        """Open the data set; no row is read.

        Raises:
            DataError: as for `LibraryRows`.
        """
        self.path = path
        self._split = split
        self._rows = open_split(path, split, is_streaming=True).decode(False)

    def read(self, state: Mapping[str, Any] | None) -> Iterator[tuple[int, RawRow, dict[str, Any]]]:
        """Rows from a state on, again and again; the state is the library's own and the row's number."""
        number = 0
        if state is not None:
            self._rows.load_state_dict(dict(state["library"]))
            number = int(state["number"])
        while True:
            for row in self._rows:
                number += 1
                yield number - 1, row, {"library": self._rows.state_dict(), "number": number}
            if number == 0:
                raise DataError(Problem(f"data set {self.path} holds no rows", self.path, "choose another"))
            # At its end the library's state stays there, so a new pass starts from a fresh one.
            self._rows, number = open_split(self.path, self._split, is_streaming=True).decode(False), 0

    def locate(self, i: int) -> str:
        """`path split row N`, counted from 0."""
        return _locate(self.path, self._split, i)


def open_split(path: str, split: str | None, *, is_streaming: bool) -> Any:
    """The split as the library gives it."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        if is_saved_folder(path):
            opened: Any = datasets.load_from_disk(path)
            if is_streaming:
                opened = _as_streams(opened)
        else:
            opened = datasets.load_dataset(path, streaming=is_streaming)
    except (OSError, ValueError, DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _error(path, f"cannot be opened: {reason}", "check the path or the hub id") from None
    if not isinstance(opened, datasets.DatasetDict | datasets.IterableDatasetDict):
        if split is not None:
            raise _error(path, f"has no splits, so no {split}", "leave out  split")
        return opened
    return _choose(path, split, opened)


def _as_streams(opened: Any) -> Any:
    """A saved data set read in order."""
    import datasets

    if isinstance(opened, datasets.DatasetDict):
        return datasets.IterableDatasetDict({name: part.to_iterable_dataset() for name, part in opened.items()})
    return opened.to_iterable_dataset()


def _choose(path: str, split: str | None, splits: Any) -> Any:
    """The wanted split; the only one where none is named."""
    names = list(splits)
    if split is None and len(names) == 1:
        return splits[names[0]]
    if split not in names:
        near = nearest(split or "train", names, limit=1) or names
        raise _error(path, f"has the splits {one_of(names)}, not {split}", f"use  split: {near[0]}")
    return splits[split]


def _locate(path: str, split: str | None, i: int) -> str:
    return f"{path}{f' {split}' if split else ''} row {i}"


def _error(path: str, rule: str, fix: str) -> DataError:
    """An error of a data set."""
    return DataError(Problem(f"data set {path} {rule}", path, fix))


def is_saved_folder(path: str) -> bool:
    """Whether the folder was written by `save_to_disk`."""
    return any((Path(path) / mark).is_file() for mark in SAVED_MARKS)
