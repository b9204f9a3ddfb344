"""Imports a worker module once and runs it as several ranks: `fork_ranks <world size,...> <module> <arguments>`.

Of each world size there is a group; the worker sees which by WORLD_SIZE. A worker's `prepare(*arguments)` runs before
the fork, and what it leaves in memory every rank has. Nothing of torch may run in it, so that no thread is lost.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import runpy
import signal
import sys
import traceback

# Of Linux's prctl: the signal that a process gets when its parent ends.
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """A test that fails or is stopped leaves nobody behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start_rank(rank: int, world_size: int, module: str) -> int:
    """The process id; in the child this does not return."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with_parent()
        size = str(world_size)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    die_with_parent()
    world_sizes, module = [int(size) for size in sys.argv[1].split(",")], sys.argv[2]
    sys.argv = sys.argv[2:]
    prepare = getattr(importlib.import_module(module), "prepare", None)
    if prepare is not None:
        prepare(*sys.argv[1:])
    ranks = [start_rank(rank, size, module) for size in world_sizes for rank in range(size)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ranks]
    sys.exit(any(codes))
