"""What a rank leaves for its agent, whichever thread ends it."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlmforge.parallel.notes import AGENT, note_end, note_running, read_notes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process as a rank of an agent."""
    monkeypatch.setenv(AGENT, f"{os.getppid()}:{tmp_path}")
    monkeypatch.setenv("LOCAL_RANK", "0")
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("is_watcher", [False, True])
def test_the_end_is_noted_by_the_main_thread_and_by_the_one_that_watches(is_watcher: bool, folder: Path) -> None:
    note_running()
    errors: list[BaseException] = []

    def end() -> None:
        try:
            note_end(1)
        except BaseException as error:
            errors.append(error)

    if is_watcher:
        thread = threading.Thread(target=end)
        thread.start()
        thread.join()
    else:
        end()
    assert (errors, read_notes(folder, 1)) == ([], ["1"])
    # The agent passes SIGTERM on while a rank tells its error.
    assert (signal.getsignal(signal.SIGTERM) == signal.SIG_IGN) == (not is_watcher)
