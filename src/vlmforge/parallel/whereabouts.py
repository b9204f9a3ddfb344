"""Where each rank is, and the report that is made of it when they do not go on together."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import FrameType

from vlmforge.errors import Problem

# Of a stack: the innermost calls, and before them the innermost of vlmforge's own.
SHOWN_CALLS, SHOWN_OWN_CALLS = 6, 3
# How far inside a call into torch.distributed is looked for.
INNERMOST_CALLS = 6
# Where a stack's paths are cut: what comes before is the same for every file.
PATH_START = re.compile(r".*(/site-packages/|/src/|/lib/python[\d.]+/)")


@dataclass(frozen=True)
class Place:
    """What a rank is doing.

    Attributes:
        step: optimizer step; None before the first.
        doing: in words.
        since: when it began, by `time.monotonic`.
        limit_seconds: how long this may take, because others are waited for; None: work of its own.
    """

    step: int | None
    doing: str
    since: float
    limit_seconds: float | None

    def __str__(self) -> str:
        """`step 3, forward`."""
        return f"{'before the first step' if self.step is None else f'step {self.step}'}, {self.doing}"


@dataclass(frozen=True)
class Status:
    """A rank's answer to the question where it is.

    Attributes:
        rank: who answers.
        place: step and work, in words.
        seconds: how long it has been there.
        is_waiting: whether it is inside a collective.
        stack: calls of its main thread, outer to inner, as `file:line function`.
    """

    rank: int
    place: str
    seconds: float
    is_waiting: bool
    stack: tuple[str, ...]

    def to_json(self) -> str:
        """For the store."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> Status:
        """The same back."""
        values = json.loads(text)
        return Status(**{**values, "stack": tuple(values["stack"])})


def take_status(rank: int, place: Place, error: BaseException | None = None) -> Status:
    """Look at this process's main thread.

    Args:
        rank: this one.
        place: what it has noted.
        error: with which it has left its work; None: it is still there.
    """
    calls = _calls_of_main_thread() if error is None else _calls(traceback.walk_tb(error.__traceback__))
    is_waiting = any("torch/distributed/" in call for call in calls[-INNERMOST_CALLS:])
    return Status(rank, str(place), round(time.monotonic() - place.since, 1), is_waiting, _shorten(calls))


def _calls_of_main_thread() -> list[str]:
    """Calls of the main thread; while torch runs a backward pass in a thread of its own, of that one."""
    frames = sys._current_frames()
    main = threading.main_thread().ident
    assert main is not None
    calls = _calls_of(frames[main])
    if not calls[-1].endswith(" _engine_run_backward"):
        return calls
    others = [_calls_of(frame) for ident, frame in frames.items() if ident not in (main, threading.get_ident())]
    return next((other for other in others if any("torch/distributed/" in call for call in other)), calls)


def _calls_of(frame: FrameType) -> list[str]:
    return _calls(traceback.walk_stack(frame))[::-1]


def _calls(frames: Iterator[tuple[FrameType, int]]) -> list[str]:
    summary = traceback.StackSummary.extract(frames, lookup_lines=False)
    return [f"{PATH_START.sub('', call.filename)}:{call.lineno} {call.name}" for call in summary]


def _shorten(calls: Sequence[str]) -> tuple[str, ...]:
    inner = calls[-SHOWN_CALLS:]
    own = [call for call in calls[:-SHOWN_CALLS] if call.startswith("vlmforge/")][-SHOWN_OWN_CALLS:]
    return (*own, *(["..."] if own else []), *inner)


def name_ranks(ranks: Collection[int]) -> str:
    """`rank 3`, `ranks 0-2, 5`."""
    ordered = sorted(ranks)
    runs: list[list[int]] = []
    for rank in ordered:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"rank{'s' if len(ordered) > 1 else ''} {', '.join(words)}"


def on_hosts(ranks: Collection[int], hosts: Sequence[str]) -> str:
    """`ranks 0-7 on a, ranks 8-15 on b`."""
    by_host: dict[str, list[int]] = {}
    for rank in sorted(ranks):
        by_host.setdefault(hosts[rank], []).append(rank)
    return ", ".join(f"{name_ranks(found)} on {host}" for host, found in by_host.items())


def report(why: str, statuses: Mapping[int, Status], hosts: Sequence[str], fix: str) -> str:
    """Stacks of all ranks that answered, equal ones once, and the three lines of an error.

    Args:
        why: what was noticed, and by whom.
        statuses: rank to answer.
        hosts: of every rank.
        fix: last line.
    """
    silent = sorted(set(range(len(hosts))) - set(statuses))
    groups: dict[tuple[str, bool, tuple[str, ...]], list[Status]] = {}
    for status in sorted(statuses.values(), key=lambda status: status.rank):
        groups.setdefault((status.place, status.is_waiting, status.stack), []).append(status)
    blocks: list[str] = []
    places: list[str] = []
    for (place, is_waiting, stack), members in groups.items():
        ranks = [status.rank for status in members]
        longest = max(status.seconds for status in members)
        doing = f"{place}, {'waiting' if is_waiting else 'busy'} for {longest:g} s"
        places.append(f"{name_ranks(ranks)}: {doing}")
        blocks.append("\n".join([f"{on_hosts(ranks, hosts)}: {doing}", *(f"    {call}" for call in stack)]))
    if silent:
        places.append(f"{name_ranks(silent)}: no answer")
        blocks.append(f"{on_hosts(silent, hosts)}: no answer: ended, or stuck outside of Python")
    problem = Problem(f"{why}{_blame(statuses, silent)}", "; ".join(places), fix)
    return "\n\n".join([*blocks, str(problem), "1 error"])


def _blame(statuses: Mapping[int, Status], silent: Sequence[int]) -> str:
    """Who is most likely waited for: who gives no answer, else who is busy while others wait, else who is alone."""
    if silent:
        return f"; {name_ranks(silent)} gave no answer"
    busy = [rank for rank, status in statuses.items() if not status.is_waiting]
    if busy and len(busy) < len(statuses):
        return f"; {name_ranks(busy)} did not come to where the others wait"
    places = {status.place for status in statuses.values()}
    if len(places) > 1:
        return "; the ranks are at different places"
    return ""
