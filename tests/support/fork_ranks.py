"""Imports a worker module once and runs it as several ranks: `fork_ranks <world size> <module> <arguments>`.

Nothing of torch runs before the fork, so that no thread is lost in it.
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


def start_rank(rank: int, world_size: int, module: str) -> int:
    """The process id; in the child this does not return."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
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
    world_size, module = int(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    importlib.import_module(module)
    ranks = [start_rank(rank, world_size, module) for rank in range(world_size)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ranks]
    sys.exit(any(codes))
