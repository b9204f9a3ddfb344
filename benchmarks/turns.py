"""Several systems on one machine, a training step of each in turn, so that what slows the machine slows all of them.

A shared machine is not always as fast: one system after the other, their ratio changed by a fifth from run to run. Here
all are there at once and only one runs; the others are stopped where their last step ended. A step is timed from
outside, from when its process may go on until it has reported the step.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# How often a process is looked at, in seconds: a thousandth of a step.
POLL = 0.005


@dataclass(frozen=True)
class System:
    """A process that trains.

    Attributes:
        name: for messages.
        command: its words.
        report: the file to which it adds a line of JSON a step.
        log: where its output goes.
    """

    name: str
    command: Sequence[str]
    report: Path
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        """What it has reported so far; the line it is writing is left out."""
        text = self.report.read_text() if self.report.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


@dataclass
class Process:
    """A system that runs, or stands still."""

    system: System
    running: subprocess.Popen[bytes]

    def step(self) -> float:
        """Let it go on until it has reported one more step; the seconds of that."""
        before, start = len(self.system.lines()), time.perf_counter()
        self.send(signal.SIGCONT)
        while len(self.system.lines()) == before:
            # Of a process that has ended meanwhile all lines are there.
            if self.running.poll() is not None and len(self.system.lines()) == before:
                raise self.failed(f"ended after {before} steps")
            time.sleep(POLL)
        seconds = time.perf_counter() - start
        self.send(signal.SIGSTOP)
        return seconds

    def finish(self) -> None:
        """Let it go on to its end."""
        self.send(signal.SIGCONT)
        if self.running.wait() != 0:
            raise self.failed("failed")

    def failed(self, what: str) -> SystemExit:
        """With the end of its output."""
        return SystemExit(f"{self.system.name} {what}:\n{self.system.log.read_text()[-3000:]}")

    def end(self) -> None:
        """Kill it if it has not ended; what it writes to may be removed then."""
        self.send(signal.SIGKILL)
        self.running.wait()

    def send(self, number: signal.Signals) -> None:
        """A signal to it and to all that it has started."""
        if self.running.poll() is None:
            os.killpg(self.running.pid, number)


def time_in_turns(systems: Sequence[System], num_steps: int) -> list[list[float]]:
    """Seconds of each step of each system; the first ones hold the start of the process.

    Raises:
        SystemExit: one of them failed, with the end of its output.
    """
    processes: list[Process] = []
    seconds: list[list[float]] = [[] for _ in systems]
    with _ending_by_exit():
        try:
            for turn in range(num_steps):
                for index, system in enumerate(systems):
                    if turn == 0:
                        with system.log.open("wb") as log:
                            running = subprocess.Popen(
                                system.command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                            )
                        processes.append(Process(system, running))
                    seconds[index].append(processes[index].step())
            for process in processes:
                process.finish()
        finally:
            for process in processes:
                process.end()
    return seconds


@contextmanager
def _ending_by_exit() -> Iterator[None]:
    """A signal to end is an exception meanwhile: a process that stands still would stay for ever otherwise."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    # What is ignored, as a closed terminal by nohup, stays so.
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, lambda which, _: sys.exit(128 + which))
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
