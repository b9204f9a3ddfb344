"""The command that starts the ranks of one machine, as words and as text for a shell; run, it is that command.

`python -m vlmforge.parallel.torchrun` takes torchrun's options and runs torchrun's elastic agent, once on each machine:
the agents find each other through a store that the first machine serves, agree on the numbers of the ranks, start them,
and start them again where that is allowed. `agent.py` says what it does better than torchrun itself.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agents:
    """The agents of a job, one on each machine.

    Attributes:
        num_nodes: machines.
        processes_per_node: ranks on each.
        name: tells the job's agents from those of others that meet at the same port.
        max_restarts: how often all ranks are started again.
        join_seconds: how long an agent waits for the others.
        stop_seconds: how long ranks may take to save after they were told to stop.
    """

    num_nodes: int
    processes_per_node: int
    name: str
    max_restarts: int
    join_seconds: float
    stop_seconds: int

    def options(self) -> list[str]:
        """All of torchrun's options but the place and the name of the meeting."""
        return [
            f"--nnodes={self.num_nodes}",
            f"--nproc-per-node={self.processes_per_node}",
            f"--max-restarts={self.max_restarts}",
            f"--shutdown-timeout={self.stop_seconds}",
            "--rdzv-backend=c10d",
            f"--rdzv-conf=join_timeout={max(1, round(self.join_seconds))}",
        ]

    def command(self, program: Sequence[str], endpoint: str, words: Sequence[str]) -> list[str]:
        """The whole command.

        Args:
            program: the agent, as it is called where the command runs.
            endpoint: `host:port` of the first machine.
            words: verb, arguments and overrides of vlmforge.
        """
        meeting = [f"--rdzv-id={self.name}", f"--rdzv-endpoint={endpoint}"]
        return [*program, *self.options(), *meeting, "-m", "vlmforge", *words]


def agent_program(python: str | None = None) -> list[str]:
    """The agent of this environment; of another one, by the name of its Python."""
    return [python or sys.executable, "-m", "vlmforge.parallel.torchrun"]


def shell_text(command: Sequence[str]) -> str:
    """A command as a shell reads it back: one option of torchrun a line, then what it runs."""
    program = len(agent_program())
    start = command.index("-m", program)
    lines = [shlex.join(command[:program]), *(shlex.quote(word) for word in command[program:start])]
    return " \\\n  ".join([*lines, shlex.join(command[start:])])


def main() -> int:
    """The command."""
    # What torch's C++ parts write of each connection that ends; who has ended is told. Read at import.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from vlmforge.parallel.agent import run_agent

    return run_agent(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
