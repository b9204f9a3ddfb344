"""SIGTERM and SIGINT as a wish to stop after the current step, or in the middle of what is only measured."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vlmforge.parallel.notes import note_asked, note_running


class Stopped(Exception):
    """Validating or scoring was given up, on every rank, because somebody asked the run to stop."""


class StopWish:
    """Whether somebody asked the run to stop."""

    def __init__(self) -> None:
        """Nobody has."""
        self.is_set = False
        self._process = os.getpid()

    def ask(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: the first time note the wish; a second SIGINT interrupts at once.

        Data workers inherit it, and a terminal signals them too: they end with the process that they work for.
        """
        if os.getpid() != self._process:
            return
        if self.is_set and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.is_set:
            # Written at once, past every buffer: a signal can come in the middle of a print.
            note_asked()
            again = b"; Ctrl-C again ends at once" if signum == signal.SIGINT else b""
            os.write(2, b"\nstopping after this step, then saving" + again + b"\n")
        self.is_set = True


@contextmanager
def watch_signals() -> Iterator[StopWish]:
    """Turn SIGTERM and SIGINT into a wish while the block runs."""
    wish = StopWish()
    before = {number: signal.signal(number, wish.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    note_running()
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
