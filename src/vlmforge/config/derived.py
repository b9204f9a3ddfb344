"""Numbers that follow from a config and a number of ranks; nothing is written back into the config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlmforge.config.schema import Config, ParallelismConfig


@dataclass(frozen=True)
class Axes:
    """Sizes of the axes of a mesh, outer to inner, all resolved; `ep` divides others and adds no ranks."""

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1

    @property
    def num_data_ranks(self) -> int:
        """In how many parts a global batch is cut: ranks along cp and tp work on the same rows."""
        return self.dp_replicate * self.dp_shard

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.pp * self.dp_replicate * self.dp_shard * self.cp * self.tp


@dataclass(frozen=True)
class BatchSizes:
    """How a mesh cuts the global batch.

    Attributes:
        world_size: number of ranks.
        axes: of the mesh, `dp_shard: -1` resolved.
        num_data_ranks: ranks that read different rows.
        grad_accum_steps: forward passes of each data rank per optimizer step; null: as many as the tokens of a step
            need (`stage.max_tokens_per_micro_batch`).
    """

    world_size: int
    axes: Axes
    num_data_ranks: int
    grad_accum_steps: int | None


def num_ranks_beside_shard(parallelism: ParallelismConfig) -> int:
    """Product of all axes but dp_shard; `ep` divides others and adds no ranks."""
    return parallelism.pp * parallelism.dp_replicate * parallelism.cp * parallelism.tp


def derive_world_size(config: Config, world_size: int | None, num_gpus: int) -> int:
    """Number of ranks.

    Args:
        config: its `launch` decides if it names processes, else the product of its axes.
        world_size: what the user or torchrun says; it wins.
        num_gpus: GPUs that `dp_shard: -1` may fill; 0 on a CPU.
    """
    if world_size is not None:
        return world_size
    num_nodes, processes_per_node = derive_nodes(config, num_gpus)
    return num_nodes * processes_per_node


def derive_nodes(config: Config, num_gpus: int) -> tuple[int, int]:
    """Number of machines, and of processes on each.

    Args:
        config: what `launch` leaves open follows from the axes: their product, shared among the machines.
        num_gpus: GPUs of this machine, which stands for all where `dp_shard: -1` leaves the product open; 0 on a CPU.
    """
    num_nodes = config.launch.num_nodes or 1
    if config.launch.processes_per_node is not None:
        return num_nodes, config.launch.processes_per_node
    rest = num_ranks_beside_shard(config.parallelism)
    shard = config.parallelism.dp_shard
    if shard != -1:
        return num_nodes, max(1, rest * shard // num_nodes)
    return num_nodes, rest * max(1, num_gpus // rest)


def is_whole_mesh(config: Config, world_size: int) -> bool:
    """Whether the axes multiply to this number of ranks, or divide it where `dp_shard: -1` takes what is left."""
    rest, shard = num_ranks_beside_shard(config.parallelism), config.parallelism.dp_shard
    return world_size % rest == 0 if shard == -1 else rest * shard == world_size


def derive_batch(config: Config, world_size: int) -> BatchSizes:
    """The sizes of a config that has passed gate 1 for this number of ranks."""
    rest = num_ranks_beside_shard(config.parallelism)
    shard = config.parallelism.dp_shard
    if shard == -1:
        shard = max(1, world_size // rest)
    chosen = config.parallelism
    axes = Axes(chosen.pp, chosen.dp_replicate, shard, chosen.cp, chosen.tp, chosen.ep)
    num_data_ranks = axes.num_data_ranks
    rows = config.stage.micro_batch_size * num_data_ranks
    is_by_tokens = config.stage.max_tokens_per_micro_batch is not None
    return BatchSizes(
        world_size=world_size,
        axes=axes,
        num_data_ranks=num_data_ranks,
        grad_accum_steps=None if is_by_tokens else max(1, config.stage.global_batch_size // rows),
    )


def count_gpus(config: Config, environ: Mapping[str, str] | None = None) -> int:
    """GPUs that this machine offers to a run, without importing torch; 0 where the run is on a CPU."""
    environ = os.environ if environ is None else environ
    if config.launch.device == "cpu":
        return 0
    installed = Path("/proc/driver/nvidia/gpus")
    count = len(list(installed.iterdir())) if installed.is_dir() else 0
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or count == 0:
        return count
    return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
