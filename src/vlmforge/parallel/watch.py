"""Ends a run whose ranks no longer go on together, with one report, instead of letting it wait in silence.

Every rank notes what it is doing (`doing`, `at_step`); a thread looks at the note. A rank that waits too long, loses
its connection or ends with an error says so in the store that all ranks share. The others see it within seconds and
answer where they are; the first of them reports, and all end. Only waiting is limited, never a rank's own work, and
with one rank there is nothing to wait for.

As torch's process group is, the watch is one per process: `doing` is called from deep inside, and does nothing where no
watch has been started.
"""

# torch documents its stores, but does not list them in __all__.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch.distributed as dist

from vlmforge.errors import EXIT_BUG, EXIT_INTERRUPTED, VlmforgeError
from vlmforge.parallel.launch import ERROR_FILE, report_error
from vlmforge.parallel.notes import note_end
from vlmforge.parallel.whereabouts import Place, Status, report, take_status

# How often the notes are looked at, in seconds: often where the limit is short.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
# After a rank has ended with an error of its own, the others get this long to find the same one.
GRACE_SECONDS = 3.0
# What gloo, NCCL and torch's stores say when a peer or the connection to it is gone, or took too long.
SIGNS = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting", "gloo/transport", "NCCL")

TRIP, TOLD = "trip", "told"


@dataclass(frozen=True)
class Trip:
    """Why all ranks must end.

    Attributes:
        why: for the report.
        exit_code: of every rank.
        text: a report that is complete, where a rank ended with an error of its own.
        is_told: whether that rank prints it itself.
        fix: last line of the report.
    """

    why: str
    exit_code: int = EXIT_BUG
    text: str | None = None
    is_told: bool = False
    fix: str = ""


class Watch:
    """One rank's thread; see the module."""

    def __init__(self, store: dist.Store, rank: int, hosts: Sequence[str], timeout_seconds: float) -> None:
        """Nothing runs yet.

        Args:
            store: shared by all ranks; used by no other thread.
            rank: this one.
            hosts: of all ranks.
            timeout_seconds: longest wait.
        """
        self.place = Place(None, "its own work", time.monotonic(), None)
        self.timeout_seconds = timeout_seconds
        self._store = store
        self._rank = rank
        self._hosts = hosts
        self._pause = min(LONGEST_PAUSE, max(SHORTEST_PAUSE, timeout_seconds / 10))
        self._is_over = threading.Event()
        self._ending = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; waits for the thread, which uses the store."""
        self._is_over.set()
        self._thread.join(timeout=LONGEST_PAUSE)

    def leave(self, error: BaseException) -> None:
        """Tell the others that this rank ends with an error; a lost connection ends all ranks here, with a report."""
        if is_lost_connection(error):
            # Its first sentence, which is the one about this case.
            said = " ".join(str(error).split()).partition(". ")[0].encode("ascii", "ignore").decode()
            lost = f"rank {self._rank} lost its connection to another rank in {self.place} ({said[:200]})"
            self._end(Trip(lost, fix=_look_at_logs()), error)
        self._is_over.set()
        with self._ending:
            self._say(self._own_error(error))

    def _own_error(self, error: BaseException) -> Trip:
        """An error that this rank tells itself, unless it is one that only the first rank tells."""
        if not isinstance(error, VlmforgeError):
            code = EXIT_BUG if isinstance(error, Exception) else EXIT_INTERRUPTED
            return Trip("", code, text=repr(error), is_told=True)
        is_told = ERROR_FILE in os.environ or not error.is_on_every_rank or self._rank == 0
        return Trip("", error.exit_code, text=error.report(), is_told=is_told)

    def _run(self) -> None:
        while not self._is_over.wait(self._pause):
            place = self.place
            if place.limit_seconds is not None and time.monotonic() - place.since > place.limit_seconds:
                self._end(self._overdue(place, place.limit_seconds))
            elif self._is_tripped():
                self._end(None)

    def _overdue(self, place: Place, limit: float) -> Trip:
        key = "launch.timeout_seconds" if limit == self.timeout_seconds else "launch.preflight_seconds"
        longer = f"{key}={2 * limit:g} if this may take so long"
        fix = f"the stacks above show where each rank is; {longer}; the same command goes on from the last checkpoint"
        return Trip(f"rank {self._rank} has waited for {limit:g} s ({key}) in {place}", fix=fix)

    def _is_tripped(self) -> bool:
        try:
            return self._store.check([TRIP])
        except RuntimeError:
            # Whoever serves the store has ended; how is for the main thread to find out.
            return False

    def _say(self, trip: Trip) -> None:
        """Say it, unless another rank was first."""
        try:
            if self._store.add("trips", 1) == 1:
                self._store.set(TRIP, json.dumps(asdict(trip)))
        except RuntimeError:
            return

    def _end(self, own: Trip | None, error: BaseException | None = None) -> None:
        """End this process, together with all others; the first to come reports.

        Args:
            own: what this rank has noticed; None: what another one has.
            error: with which the main thread has left its work.
        """
        with self._ending:
            if own is not None:
                self._say(own)
            try:
                trip = Trip(**json.loads(self._store.get(TRIP)))
                if trip.text is not None and own is None and self._is_over.wait(GRACE_SECONDS):
                    return
                self._store.set(f"status/{self._rank}", take_status(self._rank, self.place, error).to_json())
                is_first = self._store.add("speakers", 1) == 1
                if is_first:
                    self._tell(trip, self._collect() if trip.text is None else {})
                    self._store.set(TOLD, "")
                else:
                    self._store.wait([TOLD], timedelta(seconds=2 * self._answer_seconds()))
            except RuntimeError:
                trip = own or Trip("the store that the ranks share is gone", fix=_look_at_logs())
                if self._speaks_for_its_machine():
                    self._tell(trip, {self._rank: take_status(self._rank, self.place, error)})
            sys.stdout.flush()
            note_end(trip.exit_code)
            os._exit(trip.exit_code)

    def _speaks_for_its_machine(self) -> bool:
        """Whether this rank tells it where ranks can no longer agree on who does: rank 0 has ended, most likely."""
        own = self._hosts[self._rank]
        return self._rank == min(rank for rank, host in enumerate(self._hosts) if host == own and rank > 0)

    def _answer_seconds(self) -> float:
        """Within which every rank that lives has seen the question."""
        return 3 * self._pause + 2

    def _collect(self) -> dict[int, Status]:
        """The ranks' answers; those that do not come in time are left out."""
        ranks = range(len(self._hosts))
        deadline = time.monotonic() + self._answer_seconds()
        while time.monotonic() < deadline and not self._store.check([f"status/{rank}" for rank in ranks]):
            time.sleep(SHORTEST_PAUSE)
        answered = [rank for rank in ranks if self._store.check([f"status/{rank}"])]
        return {rank: Status.from_json(self._store.get(f"status/{rank}")) for rank in answered}

    def _tell(self, trip: Trip, statuses: dict[int, Status]) -> None:
        """Print, or leave to the parent that prints for all ranks; nothing if a rank has printed already."""
        if trip.is_told:
            return
        text = trip.text if trip.text is not None else report(trip.why, statuses, self._hosts, trip.fix)
        if not report_error(trip.exit_code, text):
            print(text, file=sys.stderr, flush=True)


def _look_at_logs() -> str:
    return (
        "the log of the rank that is gone, or `dmesg` of its machine, says how it ended; the same command goes on from "
        "the last checkpoint"
    )


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error means that another rank, or the way to it, is gone."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


_current: Watch | None = None


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Make it this process's watch while the block runs."""
    global _current
    _current = watch
    watch.start()
    try:
        yield
    finally:
        _current = None
        watch.stop()


def at_step(step: int) -> None:
    """Note which optimizer step this rank is in."""
    if _current is not None:
        place = _current.place
        _current.place = Place(step, place.doing, time.monotonic(), place.limit_seconds)


@contextmanager
def doing(name: str, *, waits: bool = True, limit_seconds: float | None = None) -> Iterator[None]:
    """Note what this rank is doing while the block runs.

    Args:
        name: for the report.
        waits: whether other ranks are waited for in it, so that it must not take for ever.
        limit_seconds: how long; None: what the recipe sets.
    """
    watch = _current
    if watch is None:
        yield
        return
    outer = watch.place
    limit = (limit_seconds or watch.timeout_seconds) if waits else None
    watch.place = Place(outer.step, name, time.monotonic(), limit)
    yield
    # Not after an error: where it happened is what is asked for then.
    watch.place = Place(watch.place.step, outer.doing, time.monotonic(), outer.limit_seconds)
