"""One rank of the tests of reductions: gradients on three kinds of mesh at once, and numbers that all draw alike."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from vlmforge.config.derived import Axes
from vlmforge.parallel.context import SequenceSplit
from vlmforge.parallel.mesh import open_world
from vlmforge.parallel.reduce import any_rank, clip_grads, sum_over_ranks
from vlmforge.parallel.shard import full_tensor


def main(folder: Path) -> None:
    with open_world(Axes(dp_shard=2), "cpu", 60.0) as world:
        other = init_device_mesh("cpu", (2, 1), mesh_dim_names=("tp", "extra"))
        torch.manual_seed(0)
        # A row fewer than ranks is one rank's alone; a replicated one must count once.
        full = [torch.randn(5, 3), torch.randn(1, 4), torch.randn(6), torch.randn(2, 2)]
        placed = [
            distribute_tensor(full[0], world.mesh["dp_replicate", "dp_shard"], [Replicate(), Shard(0)]),
            distribute_tensor(full[1], world.mesh["dp_replicate", "dp_shard"], [Replicate(), Shard(0)]),
            distribute_tensor(full[2], other, [Replicate(), Replicate()]),
            full[3].clone(),
        ]
        parameters = []
        for grad in placed:
            parameter = nn.Parameter(torch.zeros_like(grad))
            parameter.grad = grad
            parameters.append(parameter)
        # Before clipping, which may change the full tensors too: shards can share their memory.
        expected = torch.cat([grad.flatten() for grad in full]).norm()
        norm = clip_grads(parameters, 1.5)
        clipped = [full_tensor(parameter.grad) for parameter in parameters]
        after = torch.cat([grad.flatten() for grad in clipped]).norm()
        result = {
            "norm": norm.item(),
            "expected": expected.item(),
            "after": after.item(),
            "sums": sum_over_ranks([world.rank + 1, 0.5], world.device),
            "any": [any_rank(world.rank == 1, world.device), any_rank(False, world.device)],
        }
        split = SequenceSplit(world.mesh["dp_shard"].get_group(), world.rank, world.world_size)
        torch.manual_seed(world.rank)
        with split.same_draws(world.device):
            result["drawn by all"] = torch.rand(3).tolist()
        (folder / f"own-{world.rank}.json").write_text(json.dumps(torch.rand(3).tolist()))
        (folder / f"result-{world.rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
