"""Slurm: the place of a rank that `srun` has started, and the sbatch script of a job that runs torchrun.

Which variable means what: https://slurm.schedmd.com/srun.html and https://slurm.schedmd.com/sbatch.html.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import product

from vlmforge.parallel.torchrun import Agents

# Below the ports that Linux gives to outgoing connections.
FIRST_PORT, NUM_PORTS = 10000, 20000


def join_slurm(environ: MutableMapping[str, str]) -> None:
    """Say in torchrun's words where `srun` has put this process, if it has started one process for each rank.

    A shell or a batch script inside a job is no rank, and neither is the only task of a step: they start ranks.

    Args:
        environ: gets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT. What torchrun has
            said stays as it is, and so do a MASTER_ADDR and MASTER_PORT of the user's own.
    """
    num_tasks = _num_tasks(environ)
    if "WORLD_SIZE" in environ or "SLURM_PROCID" not in environ or num_tasks < 2:
        return
    hosts = job_hosts(environ)
    # Two steps of a job may run beside each other.
    number = int(environ.get("SLURM_JOB_ID", "0")) * 7 + int(environ.get("SLURM_STEP_ID", "0"))
    environ["RANK"] = environ["SLURM_PROCID"]
    environ["WORLD_SIZE"] = str(num_tasks)
    environ["LOCAL_RANK"] = environ.get("SLURM_LOCALID", "0")
    environ["LOCAL_WORLD_SIZE"] = str(_num_local_tasks(environ, num_tasks, len(hosts)))
    environ.setdefault("MASTER_ADDR", hosts[0] if hosts else "localhost")
    environ.setdefault("MASTER_PORT", str(FIRST_PORT + number % NUM_PORTS))


def _num_tasks(environ: Mapping[str, str]) -> int:
    """Tasks of the step that this process belongs to; 0 for the batch script itself."""
    if "SLURM_STEP_NUM_TASKS" in environ:
        return int(environ["SLURM_STEP_NUM_TASKS"])
    # Slurm sets this for batch scripts, in which the variables of the job look like those of a task.
    return 0 if environ.get("ENVIRONMENT") == "BATCH" else int(environ.get("SLURM_NTASKS", "0"))


def _num_local_tasks(environ: Mapping[str, str], num_tasks: int, num_hosts: int) -> int:
    """Tasks on this machine: `8(x2),4` means 8 on each of the first two and 4 on the third."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or ""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    node = int(environ.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else max(1, num_tasks // max(1, num_hosts))


def job_hosts(environ: Mapping[str, str]) -> list[str]:
    """The machines of a Slurm job, in Slurm's order; empty outside of one."""
    listed = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST")
    return expand_hosts(listed or "")


def expand_hosts(listed: str) -> list[str]:
    """Every name of a list such as `gpu[01-03,7],login`."""
    hosts: list[str] = []
    for pattern in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", listed):
        parts = re.split(r"\[([^\]]*)\]", pattern)
        # What stood in brackets is at the odd places.
        choices = [_expand_ranges(part) if index % 2 else [part] for index, part in enumerate(parts)]
        hosts += ["".join(chosen) for chosen in product(*choices)]
    return hosts


def _expand_ranges(text: str) -> list[str]:
    """`01-03,7` as 01, 02, 03, 7."""
    numbers: list[str] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)]
    return numbers


@dataclass(frozen=True)
class SlurmJob:
    """What an sbatch script asks for.

    Attributes:
        name: shown by squeue.
        log: path of what the job prints, absolute, without Slurm's patterns.
        gpus_per_node: 0: none are asked for.
        cpus_per_node: None: whole machines.
        memory_gib_per_node: None: all of a whole machine, else the cluster's default.
        port: where the agents meet.
        image: container of every task (pyxis); None: none.
        mounts: folder of the machines to the path in the container.
        environment: variables of the ranks.
        partition: None: the cluster's default.
        account: None: the user's default.
        time_limit: None: the partition's.
        stop_seconds: before the time limit, at which the ranks are told to stop.
        requeue: whether the job is queued again after a stop.
        path: of the script, absolute.
    """

    name: str
    log: str
    gpus_per_node: int
    cpus_per_node: int | None
    memory_gib_per_node: int | None
    port: int
    image: str | None
    mounts: Mapping[str, str]
    environment: Mapping[str, str]
    partition: str | None
    account: str | None
    time_limit: str | None
    stop_seconds: int
    requeue: bool
    path: str


# What is expanded on the first machine of the job, so it is not quoted.
SCRIPT = """\
#!/bin/bash
{directives}

# Written by vlmforge. One agent of torchrun on every machine; they meet on the first one.
set -euo pipefail
hosts="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
first_host="${{hosts%%$'\n'*}}"
{exports}
code=0
srun {srun} \\
  {torchrun} \\
  --rdzv-id="$SLURM_JOB_ID" \\
  --rdzv-endpoint="$first_host:{port}" \\
  -m vlmforge {words} || code=$?

# The ranks were told to stop, by a time limit or by `scancel --signal=TERM`, and have saved.
if [ "$code" = 130 ]; then
  {stopped}
fi
exit "$code"
"""


def sbatch_script(job: SlurmJob, agents: Agents, program: Sequence[str], words: Sequence[str]) -> str:
    """The script; everything that comes from a recipe is quoted.

    Args:
        job: what it asks Slurm for.
        agents: what torchrun starts.
        program: the agent, as it is called on the machines of the job.
        words: verb, arguments and overrides of vlmforge.
    """
    # One task a machine, with all cores: the agent's ranks share them, and Slurm would bind the agent to one.
    srun = [f"--ntasks={agents.num_nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--cpu-bind=none"]
    if job.cpus_per_node is not None:
        srun.append(f"--cpus-per-task={job.cpus_per_node}")
    if job.image is not None:
        srun.append(f"--container-image={job.image}")
        srun.append("--container-mounts=" + ",".join(f"{folder}:{place}" for folder, place in job.mounts.items()))
    return SCRIPT.format(
        directives="\n".join(f"#SBATCH {option}" for option in _directives(job, agents.num_nodes)),
        srun=shlex.join(srun),
        torchrun=" \\\n  ".join([shlex.join(program), *map(shlex.quote, agents.options())]),
        port=job.port,
        words=shlex.join(words),
        exports="".join(f"export {name}={shlex.quote(value)}\n" for name, value in job.environment.items()),
        stopped=_after_stop(job),
    )


def _after_stop(job: SlurmJob) -> str:
    """What the script does when the run has stopped with its state saved."""
    if job.requeue:
        return 'echo "stopped and saved; the job is queued again"\n  scontrol requeue "$SLURM_JOB_ID"'
    return f"echo {shlex.quote('stopped and saved; goes on from there with: ' + shlex.join(['sbatch', job.path]))}"


def _directives(job: SlurmJob, num_nodes: int) -> list[str]:
    options = [
        f"--job-name={_quote(job.name)}",
        f"--nodes={num_nodes}",
        "--ntasks-per-node=1",
        # A percent sign begins a pattern of Slurm's.
        f"--output={_quote(job.log.replace('%', '%%') + '-%j.out')}",
        # A job that is queued again keeps its number.
        "--open-mode=append",
    ]
    if job.gpus_per_node:
        options.append(f"--gpus-per-node={job.gpus_per_node}")
    options += ["--exclusive"] if job.cpus_per_node is None else [f"--cpus-per-task={job.cpus_per_node}"]
    if job.memory_gib_per_node is not None:
        options.append(f"--mem={job.memory_gib_per_node}G")
    elif job.cpus_per_node is None:
        options.append("--mem=0")
    named = {"partition": job.partition, "account": job.account, "time": job.time_limit}
    options += [f"--{name}={_quote(value)}" for name, value in named.items() if value is not None]
    if job.time_limit is not None:
        # To the agents, which pass it on: the ranks finish their step and save.
        options.append(f"--signal=TERM@{job.stop_seconds}")
    if job.requeue:
        options.append("--requeue")
    return options


def _quote(text: str) -> str:
    """As sbatch reads it: words in double quotes, in which a backslash takes the meaning from the next character."""
    if re.fullmatch(r"[\w./,:%@+-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
