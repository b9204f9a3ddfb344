"""What the ranks of one machine leave for the agent that started them: that they run, were asked to stop, have ended.

torchrun's agent knows that a process has ended, and with a signal of its own not even with which code. Each rank has
one file, `<local rank>`, in a folder that the agent makes; without an agent of ours nothing is written.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from vlmforge.errors import EXIT_CHECKPOINT, EXIT_CONFIG, EXIT_DATA, EXIT_INTERRUPTED

# `<process id of the agent>:<folder>`.
AGENT = "VLMFORGE_AGENT"
RUNNING, ASKED = "running", "asked"
# Starting again would come to the same.
FINAL = (EXIT_CONFIG, EXIT_DATA, EXIT_CHECKPOINT)


def note_running() -> None:
    """From now on SIGTERM is a wish, which this rank fulfils."""
    _write(RUNNING)


def note_asked() -> None:
    """This rank itself was told to stop; its agent knows, for it passes signals on."""
    _write(ASKED)


def note_end(code: int) -> None:
    """Note the exit code; where all is over though the agent does not know it, tell it to end as well.

    A rank that has saved because another machine was told to stop, or that has refused the recipe, must not be started
    again, as torchrun would.
    """
    path = _path()
    if path is None:
        return
    was_asked = path.exists() and path.read_text() == ASKED
    _write(str(code))
    # The agent passes SIGTERM on, also what it is sent below: this rank ends by itself, and first tells its error. The
    # thread that watches for hangs, which may set no handler, has told it already and ends the process at once.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    is_over = code == EXIT_INTERRUPTED or (code in FINAL and restarts > 0)
    # One of a machine's ranks is enough: an agent that is told three times leaves its ranks behind.
    if is_over and not was_asked and os.environ.get("LOCAL_RANK") == "0":
        os.kill(os.getppid(), signal.SIGTERM)


def read_notes(folder: Path, num_ranks: int) -> list[str | None]:
    """What each rank has noted last; None: nothing."""
    paths = [folder / str(local_rank) for local_rank in range(num_ranks)]
    return [path.read_text() if path.exists() else None for path in paths]


def _path() -> Path | None:
    """This rank's file; None where the parent is no agent of ours."""
    pid, _, folder = os.environ.get(AGENT, "").partition(":")
    is_child = folder and pid == str(os.getppid()) and "LOCAL_RANK" in os.environ
    return Path(folder) / os.environ["LOCAL_RANK"] if is_child else None


def _write(text: str) -> None:
    path = _path()
    if path is not None:
        # Whole or not at all: the agent may look at any time.
        new = path.with_name(f"{path.name}.new")
        new.write_text(text)
        new.replace(path)
