"""Rows by way of the `datasets` library: a folder that it saved, a folder that it can read, or a hub id.

The only file that imports it, and only when such a source is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
        self._rows = self._open()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Row i, counted from 0."""
        return self._rows[i]

    def locate(self, i: int) -> str:
        """`path split row N`, counted from 0."""
        return f"{self.path}{f' {self._split}' if self._split else ''} row {i}"

    def _open(self) -> Any:
        """The split as the library gives it."""
        import datasets
        from datasets.exceptions import DatasetsError

        try:
            if is_saved_folder(self.path):
                opened = datasets.load_from_disk(self.path)
            else:
                opened = datasets.load_dataset(self.path)
        except (OSError, ValueError, DatasetsError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise self._error(f"cannot be opened: {reason}", "check the path or the hub id") from None
        if not isinstance(opened, datasets.DatasetDict):
            if self._split is not None:
                raise self._error(f"has no splits, so no {self._split}", "leave out  split")
            return opened
        return self._choose(opened)

    def _choose(self, splits: Any) -> Any:
        """The wanted split; the only one where none is named."""
        names = list(splits)
        if self._split is None and len(names) == 1:
            return splits[names[0]]
        if self._split not in names:
            near = nearest(self._split or "train", names, limit=1) or names
            raise self._error(f"has the splits {one_of(names)}, not {self._split}", f"use  split: {near[0]}")
        return splits[self._split]

    def _error(self, rule: str, fix: str) -> DataError:
        """An error of this data set."""
        return DataError(Problem(f"data set {self.path} {rule}", self.path, fix))


def is_saved_folder(path: str) -> bool:
    """Whether the folder was written by `save_to_disk`."""
    return any((Path(path) / mark).is_file() for mark in SAVED_MARKS)
