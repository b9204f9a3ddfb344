"""Joining the other ranks: who is there, can they reach each other, and one sum over all before anything is loaded."""

# torch documents its stores, but does not list them in __all__.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from vlmforge.errors import Problem, TrainingError
from vlmforge.parallel.launch import RENDEZVOUS
from vlmforge.parallel.slurm import job_hosts
from vlmforge.parallel.watch import Watch, doing, watching
from vlmforge.parallel.whereabouts import name_ranks, on_hosts

# gloo and NCCL give up later than the watch: it says who is missing, they do not.
MARGIN_SECONDS = 60.0
# NCCL keeps a record of the last collectives, and writes it where it gives up itself.
NCCL_SETTINGS = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
}


class RanksMissing(TrainingError):
    """Ranks did not come; the first that did tells it."""


@dataclass(frozen=True)
class Meeting:
    """Where the ranks meet.

    Attributes:
        store: that all of them see.
        rank: this one.
        world_size: how many there must be.
    """

    store: dist.Store
    rank: int
    world_size: int


@contextmanager
def open_group(device: torch.device, timeout_seconds: float, preflight_seconds: float) -> Iterator[None]:
    """Join the other ranks (or none) in torch's default process group, and leave it at the end.

    Args:
        device: of this rank.
        timeout_seconds: longest wait of one rank for the others.
        preflight_seconds: longest wait until all are there and have summed one number.

    Raises:
        RanksMissing: not all came.
    """
    if device.type == "cuda":
        for name, value in NCCL_SETTINGS.items():
            os.environ.setdefault(name, value)
    meeting = _meet(preflight_seconds)
    watch = None
    if meeting.world_size > 1:
        hosts = call_roll(meeting, preflight_seconds)
        watch = Watch(dist.PrefixStore("watch", meeting.store.clone()), meeting.rank, hosts, timeout_seconds)
    with watching(watch) if watch is not None else nullcontext():
        try:
            with doing("connecting the ranks", limit_seconds=preflight_seconds):
                _connect(meeting, device, timeout_seconds)
            with doing("first sum over all ranks", limit_seconds=preflight_seconds):
                total = torch.ones(1, device=device)
                dist.all_reduce(total)
                assert total.item() == meeting.world_size, "a sum over ranks that is none"
            yield
        except BaseException as error:
            # Before the connections close, so that the others know why they do.
            if watch is not None:
                watch.leave(error)
            # NCCL would wait here for ranks that sit in a collective, and the error would be lost.
            if device.type != "cuda" and dist.is_initialized():
                dist.destroy_process_group()
            raise
        dist.destroy_process_group()


def _connect(meeting: Meeting, device: torch.device, timeout_seconds: float) -> None:
    timeout = timedelta(seconds=timeout_seconds + MARGIN_SECONDS)
    meeting.store.set_timeout(timeout)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        timeout=timeout,
        store=dist.PrefixStore("group", meeting.store),
        rank=meeting.rank,
        world_size=meeting.world_size,
    )


def _meet(seconds: float) -> Meeting:
    """The store: a file if vlmforge started the ranks, torchrun's where there is one, else one that rank 0 serves."""
    if "WORLD_SIZE" not in os.environ:
        return Meeting(dist.HashStore(), 0, 1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = os.environ.get(RENDEZVOUS)
    if place is not None:
        return Meeting(dist.FileStore(place.removeprefix("file://"), world_size), rank, world_size)
    host, port = os.environ.get("MASTER_ADDR", "localhost"), int(os.environ.get("MASTER_PORT", "29500"))
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            host,
            port,
            world_size,
            is_master=rank == 0 and not is_served,
            timeout=timedelta(seconds=seconds),
            # Who is missing is found by calling the roll.
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:
        problem = Problem(
            f"{host}:{port} (MASTER_ADDR, MASTER_PORT), where the ranks meet, could not be reached in {seconds:g} s",
            f"rank {rank} of {world_size} on {socket.gethostname()}",
            "see that rank 0 runs there and that this machine can reach it; launch.preflight_seconds sets the wait",
        )
        missing = RanksMissing(problem)
        missing.is_on_every_rank = False
        raise missing from error
    # Where torchrun starts the ranks again, what the last ones wrote must not be read.
    return Meeting(
        dist.PrefixStore(f"start{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store), rank, world_size
    )


def call_roll(meeting: Meeting, seconds: float) -> list[str]:
    """Wait until every rank has said where it is; the machines of all ranks.

    Raises:
        RanksMissing: not all came in time, or this rank came too late.
    """
    store, rank = meeting.store, meeting.rank
    keys = [f"here/{other}" for other in range(meeting.world_size)]
    store.set(keys[rank], socket.gethostname())
    try:
        store.wait(keys, timedelta(seconds=seconds))
    except RuntimeError as error:
        here = [other for other, key in enumerate(keys) if store.check([key])]
        if len(here) < len(keys):
            store.set("gave-up", "")
            hosts = {other: store.get(keys[other]).decode() for other in here}
            raise _missing(rank, meeting.world_size, hosts, seconds) from error
    if store.check(["gave-up"]):
        problem = Problem(
            f"rank {rank} came after the others had waited for {seconds:g} s and ended",
            f"rank {rank} on {socket.gethostname()}",
            f"launch.preflight_seconds={2 * seconds:g} if machines start at different times",
        )
        raise RanksMissing(problem)
    return [store.get(key).decode() for key in keys]


def _missing(rank: int, world_size: int, hosts: dict[int, str], seconds: float) -> RanksMissing:
    missing = sorted(set(range(world_size)) - set(hosts))
    where = f"{on_hosts(hosts, [hosts.get(other, '') for other in range(world_size)])}; "
    problem = Problem(
        f"{name_ranks(missing)} of {world_size} did not come within {seconds:g} s (launch.preflight_seconds)",
        f"here: {where}missing: {name_ranks(missing)}{_missing_machines(missing, list(hosts.values()))}",
        "see why they did not start: their log, or the machine itself; a longer wait is "
        f"launch.preflight_seconds={2 * seconds:g}",
    )
    error = RanksMissing(problem)
    # One of those that are here tells it.
    error.is_on_every_rank = rank != min(hosts)
    return error


def _missing_machines(missing: Sequence[int], here: Sequence[str]) -> str:
    """What is known of the machines of ranks that never spoke."""
    names = {name.partition(".")[0] for name in here}
    absent = [name for name in job_hosts(os.environ) if name.partition(".")[0] not in names]
    if absent:
        return f" ({', '.join(absent)} of the Slurm job)"
    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    machines = sorted({rank // per_machine for rank in missing})
    own = os.environ.get("GROUP_RANK")
    is_elsewhere = own is not None and machines != [int(own)]
    return f" (torchrun's node {', '.join(map(str, machines))})" if is_elsewhere else ""
