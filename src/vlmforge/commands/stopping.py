"""SIGTERM before a command takes it for a wish, as a training does between its steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class ToldToStop(KeyboardInterrupt):
    """SIGTERM, to be caught where Ctrl-C is.

    A class of its own, because Python notes when a plain KeyboardInterrupt leaves an `exec` of text, as dataclasses
    make one at import, and then ends by SIGINT whatever exit code it is given, even if somebody has caught it.
    """


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends what the block does as Ctrl-C would.

    Not in a rank: whoever started it tells one that was stopped, by its signal, from one that has saved. What is
    ignored or handled already stays so.
    """
    if "RANK" in os.environ or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise ToldToStop
