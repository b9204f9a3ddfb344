"""Ranks that meet trouble: one import of torch, then a forked process for every rank of every scenario.

Each takes three steps of a sum over all ranks; in the second something happens to one of them. What a rank prints goes
to a file of its own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import torch

from vlmforge.cli import main
from vlmforge.config.derived import Axes
from vlmforge.errors import DataError, Problem
from vlmforge.parallel.mesh import barrier, open_world
from vlmforge.parallel.reduce import sum_over_ranks
from vlmforge.parallel.slurm import join_slurm
from vlmforge.parallel.watch import at_step, doing

TIMEOUT_SECONDS = 2.0
PREFLIGHT_SECONDS = 4.0
# More than any rank may take, all scenarios running beside each other.
END_SECONDS = 90.0


def sleep() -> None:
    with doing("data", waits=False):
        time.sleep(END_SECONDS)


def raise_bug() -> None:
    raise ValueError("a bug in a model")


def refuse_sample() -> None:
    raise DataError(Problem("a sample that cannot be read", "rows.jsonl:7", "mend it"))


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def go_on() -> None:
    pass


# Scenario to the rank that it happens to, and what happens.
FAULTS: Mapping[str, tuple[int, Callable[[], None]]] = {
    "sleep": (1, sleep),
    "raise": (1, raise_bug),
    "refuse": (1, refuse_sample),
    "kill": (1, be_killed),
    "kill the first": (0, be_killed),
    "absent": (1, go_on),
    "srun": (1, go_on),
}


def environment_of(scenario: str, rank: int, port: int, folder: Path) -> dict[str, str]:
    """As vlmforge itself, torchrun or srun would set it."""
    if scenario == "srun":
        job = {"SLURM_JOB_NODELIST": "localhost", "SLURM_NTASKS": "2", "MASTER_PORT": str(port)}
        return {**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
    ranks = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    if scenario in ("kill the first", "absent"):
        return {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {**ranks, "VLMFORGE_RENDEZVOUS": f"file://{folder}/{scenario}"}


def take_steps(scenario: str) -> int:
    join_slurm(os.environ)
    victim, fault = FAULTS[scenario]
    with open_world(Axes(dp_shard=2), "cpu", TIMEOUT_SECONDS, PREFLIGHT_SECONDS) as world:
        for step in (1, 2, 3):
            at_step(step)
            if step == 2 and world.rank == victim:
                fault()
            assert sum_over_ranks([world.rank], torch.device("cpu")) == [1.0]
        barrier()
    return 0


def start_rank(scenario: str, rank: int, port: int, folder: Path) -> int:
    """The process id."""
    pid = os.fork()
    if pid:
        return pid
    output = os.open(folder / f"{scenario}-{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment_of(scenario, rank, port, folder))
    # As the command does with what a verb raises.
    with mock.patch("vlmforge.cli._run", side_effect=lambda words, debug: take_steps(scenario)):
        code = main([])
    sys.stdout.flush()
    os._exit(code)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_all(folder: Path) -> dict[str, list[int]]:
    """Exit codes of all scenarios, rank by rank; negative: the signal that ended it."""
    started = {
        scenario: [start_rank(scenario, rank, port, folder) for rank in range(1 if scenario == "absent" else 2)]
        for scenario in FAULTS
        for port in [free_port()]
    }
    signal.alarm(int(END_SECONDS))
    return {
        scenario: [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ranks]
        for scenario, ranks in started.items()
    }


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "codes.json").write_text(json.dumps(run_all(place)))
