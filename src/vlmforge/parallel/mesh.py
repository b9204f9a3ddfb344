"""The mesh of ranks and the process group under it. A single process is a mesh of one, by the same path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from vlmforge.config.derived import Axes
from vlmforge.errors import ConfigError, Problem
from vlmforge.parallel.context import SequenceSplit
from vlmforge.parallel.heap import keep_free_memory
from vlmforge.parallel.preflight import open_group
from vlmforge.parallel.watch import doing

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
# What weights are spread over: FSDP shards over the ranks of dp_shard and cp together, for both see other tokens.
WEIGHT_AXES = ("dp_replicate", "fsdp", "tp")


@dataclass(frozen=True)
class World:
    """Where this process stands.

    Attributes:
        rank: in the whole world.
        world_size: number of ranks.
        device: this rank's device.
        axes: their sizes.
        mesh: axes `pp, dp_replicate, dp_shard, cp, tp`, outer to inner.
        weight_mesh: the same ranks as `dp_replicate, fsdp, tp`, where fsdp is dp_shard x cp.
        tower_mesh: the same ranks as `dp_replicate, fsdp`, where fsdp is dp_shard x cp x tp.
        data_rank: which part of a global batch is this rank's; ranks along cp and tp have the same.
        num_data_ranks: in how many parts it is cut.
        ranks_per_machine: of consecutive numbers.
    """

    rank: int
    world_size: int
    device: torch.device
    axes: Axes
    mesh: DeviceMesh
    weight_mesh: DeviceMesh
    tower_mesh: DeviceMesh
    data_rank: int
    num_data_ranks: int
    ranks_per_machine: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank prints and writes the small files."""
        return self.rank == 0

    @property
    def token_rank(self) -> int:
        """Which tokens are this rank's: ranks along tp alone have the same ones."""
        return self.rank // self.axes.tp

    def sequence_split(self) -> SequenceSplit | None:
        """The ranks along cp, which share each micro-batch's tokens; None where there is one."""
        axis = self.mesh["cp"]
        return SequenceSplit(axis.get_group(), axis.get_local_rank(), axis.size()) if axis.size() > 1 else None

    @property
    def num_batch_copies(self) -> int:
        """How many ranks have the same micro-batches, so that a sum over all ranks counts each row as often."""
        return self.world_size // self.num_data_ranks

    @property
    def first_copies(self) -> frozenset[int]:
        """The first rank on each machine of those that have the same micro-batches."""
        copies, local = self.axes.cp * self.axes.tp, self.ranks_per_machine
        return frozenset(max(rank - rank % copies, rank - rank % local) for rank in range(self.world_size))

    @property
    def num_loss_copies(self) -> int:
        """How many ranks compute the same token losses: those along tp; along cp each has tokens of its own."""
        return self.axes.tp


def pick_device(name: str) -> torch.device:
    """The device that `launch.device` means for this process.

    Raises:
        ConfigError: it is cuda, and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            problem = Problem(
                "launch.device = cuda, and torch finds no GPU here",
                "this machine",
                "launch.device=cpu, or leave it out",
            )
            raise ConfigError(problem)
        # Where Slurm shows each task its own GPU only, that is the first.
        local_rank = int(os.environ.get("LOCAL_RANK", "0")) if torch.cuda.device_count() > 1 else 0
        return torch.device("cuda", local_rank)
    return torch.device("cpu")


@contextmanager
def open_world(
    axes: Axes, device_name: str, timeout_seconds: float, preflight_seconds: float = 300.0
) -> Iterator[World]:
    """Join the other ranks (or none), build the mesh, and leave the process group at the end.

    Args:
        axes: of the mesh.
        device_name: `launch.device`.
        timeout_seconds: longest wait of one rank for the others.
        preflight_seconds: longest wait until all of them are there.
    """
    device = pick_device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _share_threads()
    if device.type == "cpu":
        keep_free_memory()
    with open_group(device, timeout_seconds, preflight_seconds):
        with doing("building the mesh", limit_seconds=preflight_seconds):
            world = _build_world(axes, device)
        yield world


def _build_world(axes: Axes, device: torch.device) -> World:
    sizes = (axes.pp, axes.dp_replicate, axes.dp_shard, axes.cp, axes.tp)
    weight_sizes = (axes.dp_replicate, axes.dp_shard * axes.cp, axes.tp)
    tower_sizes = (axes.dp_replicate, axes.dp_shard * axes.cp * axes.tp)
    rank = dist.get_rank()
    return World(
        rank=rank,
        world_size=dist.get_world_size(),
        device=device,
        axes=axes,
        mesh=init_device_mesh(device.type, sizes, mesh_dim_names=AXES),
        weight_mesh=init_device_mesh(device.type, weight_sizes, mesh_dim_names=WEIGHT_AXES),
        tower_mesh=init_device_mesh(device.type, tower_sizes, mesh_dim_names=WEIGHT_AXES[:2]),
        data_rank=rank // (axes.cp * axes.tp),
        num_data_ranks=axes.num_data_ranks,
        ranks_per_machine=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )


def _share_threads() -> None:
    """Divide the cores that this process may use among the ranks of this machine."""
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_ranks))


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    box = [value]
    with doing("broadcast of a value"):
        dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in rank order, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    with doing("gathering of values"):
        dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all ranks."""
    with doing("barrier"):
        dist.barrier()
