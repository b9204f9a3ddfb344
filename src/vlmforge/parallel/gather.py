"""The agents of a job find each other before any of them starts a rank; who does not come is named."""

# torch documents its stores, but does not list them in __all__.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from vlmforge.errors import Problem, TrainingError
from vlmforge.parallel.kubernetes import HOSTS
from vlmforge.parallel.slurm import job_hosts

POLL_SECONDS = 0.2
ATTEMPT_SECONDS = 5.0
# Ranks have ended together, so their agents are moments apart.
FAREWELL_SECONDS = 10.0


class MachinesMissing(TrainingError):
    """Not all machines of a job came, or the first one went away."""


@dataclass(frozen=True)
class Job:
    """What the agents of a job have been told alike.

    Attributes:
        name: tells it from other jobs that meet at the same place.
        endpoint: `host:port` of the first machine.
        num_nodes: machines.
        ranks_per_node: on each.
        wait_seconds: for the others.
    """

    name: str
    endpoint: str
    num_nodes: int
    ranks_per_node: int
    wait_seconds: float


def gather(job: Job) -> dist.Store:
    """Wait until the agents of all machines are here.

    Returns:
        The store that they share, which the first machine serves for as long as its agent lives.

    Raises:
        MachinesMissing: the first machine was not reached, or not all came.
    """
    store = dist.PrefixStore(f"vlmforge/{job.name}", _open_store(job))
    try:
        number = _sign_in(store)
        deadline = time.monotonic() + job.wait_seconds
        while store.add("here", 0) < job.num_nodes:
            if time.monotonic() > deadline or store.check(["gave-up"]):
                store.set("gave-up", "")
                missing = _missing(job, store, number)
                # For the others to see it, if it is this machine that serves the store.
                time.sleep(5 * POLL_SECONDS)
                raise missing
            time.sleep(POLL_SECONDS)
    except RuntimeError as error:
        raise MachinesMissing(_unreachable(job, "was lost while the machines gathered")) from error
    return store


def take_leave(store: dist.Store, num_nodes: int) -> None:
    """Wait shortly for the agents of other machines: Slurm kills a job's other tasks when one ends with an error."""
    try:
        store.add("leaving", 1)
        deadline = time.monotonic() + FAREWELL_SECONDS
        while store.add("leaving", 0) < num_nodes and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    except RuntimeError:
        # Whoever serves the store has seen all of them, and gone.
        return


def _open_store(job: Job) -> dist.Store:
    """Serve it on the machine that the endpoint names, unless another agent of this machine does; join it elsewhere."""
    host, _, port = job.endpoint.rpartition(":")
    host = host.strip("[]")
    if _is_here(host):
        with suppress(RuntimeError):
            return _connect(host, int(port), job.wait_seconds, serves=True)
    deadline = time.monotonic() + job.wait_seconds
    while True:
        # Many short attempts, because no signal is seen during one.
        try:
            return _connect(host, int(port), job.wait_seconds, serves=False)
        except RuntimeError as error:
            if time.monotonic() > deadline:
                what = f"could not be reached in {job.wait_seconds:g} s (launch.preflight_seconds)"
                raise MachinesMissing(_unreachable(job, what)) from error


def _connect(host: str, port: int, wait_seconds: float, *, serves: bool) -> dist.Store:
    timeout = timedelta(seconds=min(ATTEMPT_SECONDS, wait_seconds))
    # torchrun's own meeting shares the port.
    return dist.TCPStore(host, port, is_master=serves, timeout=timeout, wait_for_workers=False, multi_tenant=True)


def _is_here(host: str) -> bool:
    """Whether this host is this machine: by its name, or because a socket can be bound to one of its addresses."""
    if host.partition(".")[0] == socket.gethostname().partition(".")[0]:
        # A pod's service may have an address that no machine has.
        return True
    try:
        addresses = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
        except OSError:
            continue
        return True
    return False


def _sign_in(store: dist.Store) -> int:
    """Leave this machine's name; its number in the order of arrival, from 1. A pod that starts again keeps its own."""
    host = socket.gethostname()
    key = f"number/{host}/{os.getpid()}"
    if store.check([key]):
        return int(store.get(key))
    number = store.add("here", 1)
    store.set(f"host/{number}", host)
    store.set(key, str(number))
    return number


def _missing(job: Job, store: dist.Store, number: int) -> MachinesMissing:
    hosts = [store.get(f"host/{other}").decode() for other in range(1, store.add("here", 0) + 1)]
    own = socket.gethostname()
    absent = job.num_nodes - len(hosts)
    where = f"here: {', '.join(hosts)}; missing: {_names(hosts, os.environ) or f'{absent} of {job.num_nodes} machines'}"
    if number > 1:
        # One report for all: the first to come makes it.
        where = f"{own}; {hosts[0]} says which"
    num_ranks, all_ranks = absent * job.ranks_per_node, job.num_nodes * job.ranks_per_node
    problem = Problem(
        f"{absent} of {job.num_nodes} machines, with {num_ranks} of {all_ranks} ranks, did not come within "
        f"{job.wait_seconds:g} s (launch.preflight_seconds)",
        where,
        "see why they did not start: their log, or the machine itself; a longer wait is "
        f"launch.preflight_seconds={2 * job.wait_seconds:g}",
    )
    return MachinesMissing(problem)


def _names(here: Sequence[str], environ: Mapping[str, str]) -> str:
    """The machines of the job that did not come, where the job's are known."""
    known = job_hosts(environ) or [name for name in environ.get(HOSTS, "").split(",") if name]
    came = {name.partition(".")[0] for name in here}
    return ", ".join(name for name in known if name.partition(".")[0] not in came)


def _unreachable(job: Job, what: str) -> Problem:
    return Problem(
        f"{job.endpoint}, where the machines meet, {what}",
        f"machine {socket.gethostname()}",
        "see that the first machine runs, that this one can reach it, and that no other program has the port "
        f"(launch.port); a longer wait is launch.preflight_seconds={2 * job.wait_seconds:g}",
    )
