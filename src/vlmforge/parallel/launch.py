"""Starting the ranks of one machine as processes of the same command, and ending them as one.

torchrun would do for starting, but it exits with 1 whatever a rank's exit code was, prints every rank's error, and
passes Ctrl-C on twice. Here the ranks are in a session of their own: a signal reaches them once, through their
parent; one message is printed, and the exit code is that of the rank that failed first.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from vlmforge.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, Problem

ERROR_FILE = "VLMFORGE_ERROR_FILE"
# Where the ranks of one machine find each other when vlmforge started them; torchrun's own way otherwise.
RENDEZVOUS = "VLMFORGE_RENDEZVOUS"

# After one rank has failed the others wait for it in a collective; they get this long to fail by themselves.
GRACE_SECONDS = 3.0
POLL_SECONDS = 0.05
LOG_TAIL_CHARACTERS = 4000


def launch_ranks(arguments: Sequence[str], num_ranks: int, killed_fix: str, *, saves: bool = True) -> int:
    """Run `python -m vlmforge <arguments>` as `num_ranks` processes and wait for them.

    Rank 0 writes to this process's terminal, the others to log files that are shown only when one dies silently.

    Args:
        arguments: verb and words.
        num_ranks: how many.
        killed_fix: what helps when the system has killed a rank for want of memory.
        saves: whether ranks that are told to stop save first, so that SIGTERM and SIGINT are passed on to them; else
            whoever turns a signal into an exception here ends them at once.

    Returns:
        The exit code of the rank that failed first, or 0.
    """
    with tempfile.TemporaryDirectory(prefix="vlmforge-ranks-") as name:
        folder = Path(name)
        ranks: list[subprocess.Popen[bytes]] = []
        forwarded: list[int] = []

        def forward(signum: int, frame: FrameType | None) -> None:
            forwarded.append(signum)
            for process in ranks:
                if process.poll() is None:
                    process.send_signal(signum)

        taken = (signal.SIGTERM, signal.SIGINT) if saves else ()
        previous = {number: signal.signal(number, forward) for number in taken}
        try:
            # Whoever was told to stop in between starts no more.
            while len(ranks) < num_ranks and not forwarded:
                ranks.append(_start(arguments, len(ranks), num_ranks, folder))
            first = _wait(ranks) if len(ranks) == num_ranks else None
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            _end(ranks)
        if len(ranks) < num_ranks or (first is not None and -ranks[first].returncode in forwarded):
            # The signal came before the rank had anything to save.
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        if first is None:
            return EXIT_OK
        return _report(folder, ranks, first, killed_fix)


def report_error(exit_code: int, report: str) -> bool:
    """Leave an error for the parent to print; False when there is no parent, so that the caller prints it."""
    path = os.environ.get(ERROR_FILE)
    if path is None:
        return False
    Path(path).write_text(json.dumps({"time": time.time(), "exit_code": exit_code, "report": report}))
    return True


def _start(arguments: Sequence[str], rank: int, num_ranks: int, folder: Path) -> subprocess.Popen[bytes]:
    threads = max(1, len(os.sched_getaffinity(0)) // num_ranks)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        # A file has no port that another program could take in between.
        RENDEZVOUS: f"file://{folder}/rendezvous",
        ERROR_FILE: str(folder / f"error-{rank}.json"),
    }
    command = [sys.executable, "-m", "vlmforge", *arguments]
    if rank == 0:
        return subprocess.Popen(command, env=environment, start_new_session=True)
    with (folder / f"rank-{rank}.log").open("wb") as log:
        return subprocess.Popen(
            command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all; the index of a rank that failed, or None. After a failure the others get a short grace."""
    failed: int | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
        if failed is None:
            failed = next((index for index, process in enumerate(ranks) if process.poll()), None)
            # An interrupted rank is no failure: the others are saving the same checkpoint.
            if failed is not None and ranks[failed].returncode != EXIT_INTERRUPTED:
                deadline = time.monotonic() + GRACE_SECONDS
        time.sleep(POLL_SECONDS)
    if failed is None:
        failed = next((index for index, process in enumerate(ranks) if process.poll()), None)
    return failed


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill those that have not ended."""
    for process in ranks:
        if process.poll() is None:
            process.kill()
        process.wait()


def _report(folder: Path, ranks: Sequence[subprocess.Popen[bytes]], first: int, killed_fix: str) -> int:
    """Print one message for all ranks and return the exit code that belongs to it."""
    code = ranks[first].returncode
    errors = [json.loads(path.read_text()) for path in folder.glob("error-*.json")]
    if code < 0:
        # The others only lost their connection to it.
        print(describe_killed(first, signal.Signals(-code), killed_fix), file=sys.stderr)
        return EXIT_BUG
    if errors:
        earliest = min(errors, key=lambda error: error["time"])
        print(earliest["report"], file=sys.stderr)
        return earliest["exit_code"]
    if code == EXIT_INTERRUPTED:
        return code
    print(f"rank {first} ended with code {code} and left no message", file=sys.stderr)
    log = folder / f"rank-{first}.log"
    if log.exists():
        print(log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:], file=sys.stderr)
    return EXIT_BUG


def describe_killed(rank: int, number: signal.Signals, killed_fix: str) -> Problem:
    """SIGKILL that nobody sent comes from a system that runs out of memory; other signals are faults of a library."""
    where = f"process of rank {rank} on this machine"
    if number == signal.SIGKILL:
        return Problem(
            f"rank {rank} was ended by SIGKILL, as the system does when its memory runs out",
            where,
            f"if so (`dmesg | grep -i oom`): {killed_fix}; the same command goes on from the last checkpoint",
        )
    return Problem(
        f"rank {rank} was ended by {number.name}",
        where,
        "the same command goes on from the last checkpoint; if it happens again, look for the fault with "
        "PYTHONFAULTHANDLER=1",
    )
