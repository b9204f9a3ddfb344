"""The torchrun command that starts the ranks of one machine, as words and as text for a shell.

torchrun's elastic agent runs once on every machine; the agents find each other through a store that the first machine
serves, agree on the numbers of the ranks, start them, and start them again where that is allowed.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Agents:
    """The agents of a job, one on each machine.

    Attributes:
        num_nodes: machines.
        processes_per_node: ranks on each.
        name: tells the job's agents from those of others that meet at the same port.
        max_restarts: how often all ranks are started again.
        join_seconds: how long an agent waits for the others.
    """

    num_nodes: int
    processes_per_node: int
    name: str
    max_restarts: int
    join_seconds: float

    def options(self) -> list[str]:
        """All of torchrun's options but the place and the name of the meeting."""
        return [
            f"--nnodes={self.num_nodes}",
            f"--nproc-per-node={self.processes_per_node}",
            f"--max-restarts={self.max_restarts}",
            "--rdzv-backend=c10d",
            f"--rdzv-conf=join_timeout={max(1, round(self.join_seconds))}",
        ]

    def command(self, program: Sequence[str], endpoint: str, words: Sequence[str]) -> list[str]:
        """The whole command.

        Args:
            program: torchrun, as it is called where the command runs.
            endpoint: `host:port` of the first machine.
            words: verb, arguments and overrides of vlmforge.
        """
        meeting = [f"--rdzv-id={self.name}", f"--rdzv-endpoint={endpoint}"]
        return [*program, *self.options(), *meeting, "-m", "vlmforge", *words]


def installed_torchrun() -> list[str]:
    """The torchrun of this environment, by its absolute path."""
    return [str(Path(sys.executable).with_name("torchrun"))]


def shell_text(command: Sequence[str]) -> str:
    """A command as a shell reads it back: one option of torchrun a line, then what it runs."""
    start = command.index("-m")
    lines = [shlex.quote(word) for word in command[:start]]
    return " \\\n  ".join([*lines, shlex.join(command[start:])])
