"""Making windows in order, in this process or ahead of time in worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader, Dataset

from vlmforge.data.window import Window, WindowFailure, WindowMaker
from vlmforge.errors import DataError

# Further than any training gets: the end of a stream that only `max_steps` ends.
_ENDLESS = 1 << 62


def iterate_windows(windows: WindowMaker, first: int, num_workers: int) -> Iterator[Window]:
    """Windows from number `first` to the end of the stream; the same for any number of workers.

    Raises:
        DataError: a window cannot be made, in whichever process.
    """
    numbers = range(first, _ENDLESS if windows.num_windows is None else windows.num_windows)
    if num_workers == 0:
        yield from map(windows.make, numbers)
        return
    # Forked, whatever Python's default is: a worker shares the mapped files, which cannot be handed over otherwise.
    loader = DataLoader(
        _WindowDataset(windows),
        sampler=numbers,
        batch_size=None,
        collate_fn=_keep,
        num_workers=num_workers,
        multiprocessing_context="fork",
    )
    with _tokenizers_stay_quiet():
        made = iter(loader)
    try:
        for window in made:
            if isinstance(window, WindowFailure):
                raise DataError(window.problems)
            yield window
    finally:
        # Its workers end here, and not whenever what an error's traceback holds is collected: torch then waits for
        # seconds for them.
        del made


class _WindowDataset(Dataset[Window | WindowFailure]):
    """Windows by number, as torch's workers ask for them."""

    def __init__(self, windows: WindowMaker) -> None:
        """Keep the maker, which each worker gets a copy of."""
        self._windows = windows

    def __getitem__(self, number: int) -> Window | WindowFailure:
        """A window, or its problems: torch would make another exception of theirs on the way."""
        return self._windows.try_make(number)


def _keep(window: Any) -> Any:
    """Collate nothing: windows are numpy arrays, and stay so."""
    return window


@contextmanager
def _tokenizers_stay_quiet() -> Iterator[None]:
    """Tokenizers warn when a process forks after using threads, unless told that workers use none."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = before or "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
