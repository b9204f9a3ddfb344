"""Agents that meet trouble: one import of torch, then a forked process for every agent of every scenario."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.parallel.worker_watch import free_port
from vlmforge.parallel.agent import run_agent
from vlmforge.parallel.torchrun import Agents

JOIN_SECONDS = 3.0
NODES = f"{socket.gethostname()},gone[1-2]"
# More than any agent may take, all scenarios running beside each other.
END_SECONDS = 60.0


@dataclass(frozen=True)
class Scenario:
    """How many agents there are, of how many, and which of them are told to stop when all ranks run."""

    num_started: int = 1
    num_nodes: int = 1
    told: tuple[int, ...] = ()
    max_restarts: int = 0
    stop_seconds: int = 30
    host: str = "127.0.0.1"
    join_seconds: float = 30.0
    environment: Mapping[str, str] = field(default_factory=dict)


SCENARIOS: Mapping[str, Scenario] = {
    # A step and a save take longer than the ranks would be given at other values.
    "stop": Scenario(2, 2, told=(0, 1)),
    "late": Scenario(told=(0,), stop_seconds=1),
    # The one machine is told, and the ranks of both agree: the other agent must not start its own again.
    "elsewhere": Scenario(2, 2, told=(0,), max_restarts=2),
    "refuse": Scenario(max_restarts=2),
    "kill": Scenario(),
    "missing": Scenario(2, 3, join_seconds=JOIN_SECONDS, environment={"SLURM_JOB_NODELIST": NODES}),
    # An address that no machine has.
    "unreachable": Scenario(1, 2, host="192.0.2.1", join_seconds=JOIN_SECONDS),
}


def words_of(name: str, port: int, folder: Path) -> list[str]:
    scenario = SCENARIOS[name]
    per_node = 4 if scenario.num_started < scenario.num_nodes else 1
    agents = Agents(
        scenario.num_nodes, per_node, name, scenario.max_restarts, scenario.join_seconds, scenario.stop_seconds
    )
    meeting = [f"--rdzv-id={name}", f"--rdzv-endpoint={scenario.host}:{port}"]
    return [*agents.options(), *meeting, "-m", "tests.parallel.worker_agent_rank", str(folder), name]


def start_agent(name: str, number: int, words: list[str], folder: Path) -> int:
    """The process id."""
    pid = os.fork()
    if pid:
        return pid
    output = os.open(folder / f"{name}-{number}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(SCENARIOS[name].environment)
    code = run_agent(words)
    sys.stdout.flush()
    os._exit(code)


def stop(name: str, pids: list[int], folder: Path) -> None:
    """Tell those of the agents that are to be told, once all ranks train."""
    scenario = SCENARIOS[name]
    if scenario.told:
        while len(list(folder.glob(f"{name}.running.*"))) < scenario.num_started:
            time.sleep(0.05)
        for number in scenario.told:
            os.kill(pids[number], signal.SIGTERM)


def run_all(folder: Path) -> dict[str, list[int]]:
    """Exit codes of all scenarios, agent by agent."""
    signal.alarm(int(END_SECONDS))
    started: dict[str, list[int]] = {}
    for name, scenario in SCENARIOS.items():
        words = words_of(name, free_port(), folder)
        started[name] = [start_agent(name, number, words, folder) for number in range(scenario.num_started)]
    for name, pids in started.items():
        stop(name, pids, folder)
    return {name: [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] for name, pids in started.items()}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "codes.json").write_text(json.dumps(run_all(target)))
