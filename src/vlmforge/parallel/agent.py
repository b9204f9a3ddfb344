"""torchrun's elastic agent, with the words and exit codes of vlmforge around it.

The agent is torch's own. Bare, it ends a run that was told to stop and has saved with a traceback and code 1, as it
does one that has failed; a machine that is missing is a `RendezvousTimeoutError`; and stopped ranks have 30 seconds.
"""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from torch.distributed import Store
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.run import config_from_args, parse_args

from vlmforge.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, Problem, VlmforgeError
from vlmforge.parallel.gather import Job, gather, take_leave
from vlmforge.parallel.launch import describe_killed
from vlmforge.parallel.notes import AGENT, ASKED, RUNNING, read_notes

# As long as torchrun waits.
JOIN_SECONDS = 600
KILLED_FIX = "a smaller stage.micro_batch_size or stage.seq_len, or parallelism.recompute=full"


def run_agent(words: Sequence[str]) -> int:
    """Start the ranks of this machine, and wait for them.

    Args:
        words: torchrun's options, and what each rank runs.

    Returns:
        0 when all ranks have ended well, 130 when they were told to stop and did, else the code of the rank that
        failed first.
    """
    arguments = parse_args(list(words))
    if arguments.standalone:
        arguments.rdzv_backend, arguments.rdzv_endpoint = "c10d", "localhost:0"
        arguments.rdzv_id = str(uuid.uuid4())
    # What happens to ranks is told here. At a level that the user asks for torch tells it too.
    if "LOGLEVEL" not in os.environ:
        logging.disable(logging.CRITICAL)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until ranks run; from then on torch's own handlers pass signals on to them.
        signal.signal(number, _leave)
    _share_cores(arguments)
    config, program, rest = config_from_args(arguments)
    try:
        store = gather(_job(config)) if config.min_nodes > 1 else None
        return _watch_ranks(config, program, rest, store)
    except VlmforgeError as error:
        print(error.report(), file=sys.stderr, flush=True)
        return error.exit_code


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    print("told to stop before the ranks had started; nothing is lost", file=sys.stderr, flush=True)
    sys.exit(EXIT_INTERRUPTED)


def _share_cores(arguments: Namespace) -> None:
    """Torch's threads of each rank: its part of the cores, where torchrun would give it one of them."""
    if arguments.nproc_per_node.isdigit():
        threads = max(1, len(os.sched_getaffinity(0)) // int(arguments.nproc_per_node))
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _job(config: LaunchConfig) -> Job:
    wait = float(config.rdzv_configs.get("join_timeout", JOIN_SECONDS))
    return Job(config.run_id, config.rdzv_endpoint, config.min_nodes, config.nproc_per_node, wait)


def _watch_ranks(config: LaunchConfig, program: Callable[..., Any] | str, words: list[str], store: Store | None) -> int:
    with tempfile.TemporaryDirectory(prefix="vlmforge-agent-") as name:
        os.environ[AGENT] = f"{os.getpid()}:{name}"
        try:
            elastic_launch(config, program)(*words)
        except SignalException:
            return _tell_stopped(config, read_notes(Path(name), config.nproc_per_node), store)
        except ChildFailedError as error:
            return _tell_failed(error)
        except RendezvousError as error:
            return _tell_parted(config, error)
        return EXIT_OK


def _tell_stopped(config: LaunchConfig, notes: list[str | None], store: Store | None) -> int:
    """All ranks of this machine have ended after a signal: well, or because their time was over."""
    late = [rank for rank, note in enumerate(notes) if note in (RUNNING, ASKED)]
    if late:
        seconds = config.shutdown_timeout or 0
        which = ", ".join(map(str, late))
        problem = Problem(
            f"local rank{'s' if len(late) > 1 else ''} {which} had not finished the step and saved {seconds} s after "
            "being told to stop (launch.stop_seconds), and had to be killed",
            f"machine {os.uname().nodename}",
            f"launch.stop_seconds={2 * max(1, seconds)}; the run goes on from its last checkpoint",
        )
        print(f"{problem}\n\n1 error", file=sys.stderr, flush=True)
        return EXIT_BUG
    codes = [int(note) for note in notes if note is not None]
    if store is not None:
        take_leave(store, config.min_nodes)
    if codes and all(code == EXIT_OK for code in codes):
        return EXIT_OK
    # A rank that has failed has told why.
    return next((code for code in codes if code not in (EXIT_OK, EXIT_INTERRUPTED)), EXIT_INTERRUPTED)


def _tell_failed(error: ChildFailedError) -> int:
    rank, failure = error.get_first_failure()
    if failure.exitcode < 0:
        print(describe_killed(rank, signal.Signals(-failure.exitcode), KILLED_FIX), file=sys.stderr, flush=True)
        return EXIT_BUG
    return failure.exitcode


def _tell_parted(config: LaunchConfig, error: RendezvousError) -> int:
    """The machines have met once: this happens when ranks are started again, or when one is gone at once."""
    problem = Problem(
        f"the {config.min_nodes} machines did not meet again at {config.rdzv_endpoint} ({type(error).__name__})",
        f"machine {os.uname().nodename}",
        "the log of the machine that is gone says why; the same command or job goes on from the last checkpoint",
    )
    print(f"{problem}\n\n1 error", file=sys.stderr, flush=True)
    return EXIT_BUG
