"""A rank that an agent starts: without torch, it notes what a real one notes, and ends as its scenario says."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from vlmforge.commands.rank import run_as_rank
from vlmforge.commands.request import Request
from vlmforge.errors import EXIT_INTERRUPTED, DataError, Problem
from vlmforge.train.interrupt import watch_signals

FOLDER, SCENARIO = Path(sys.argv[1]), sys.argv[2]


def save_for(seconds: float) -> int:
    """Train until one rank of the scenario is told to stop, then save as slowly as said."""
    wish_of_all = FOLDER / f"{SCENARIO}.wish"
    with watch_signals() as wish:
        (FOLDER / f"{SCENARIO}.running.{os.environ['RANK']}").touch()
        while not wish.is_set and not wish_of_all.exists():
            time.sleep(0.05)
        wish_of_all.touch()
        time.sleep(seconds)
    with (FOLDER / f"{SCENARIO}.saved").open("a") as file:
        file.write(os.environ["RANK"])
    return EXIT_INTERRUPTED


def refuse() -> int:
    raise DataError(Problem("a sample that cannot be read", "rows.jsonl:7", "mend it"))


def be_killed() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


WORK: Mapping[str, Callable[[], int]] = {
    "stop": lambda: save_for(3.0),
    "elsewhere": lambda: save_for(0.5),
    "late": lambda: save_for(60.0),
    "refuse": refuse,
    "kill": be_killed,
}


def main() -> int:
    with (FOLDER / f"{SCENARIO}.started").open("a") as file:
        file.write(os.environ["RANK"])
    try:
        return run_as_rank(Request("train", {}, ()), lambda request: WORK[SCENARIO]())
    except DataError as error:
        # The agent that was told that all is over has stopped its ranks by now.
        time.sleep(1.0)
        print(error.report(), file=sys.stderr)
        return error.exit_code


sys.exit(main())
