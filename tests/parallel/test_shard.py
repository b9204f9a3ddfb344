"""Sharding on two ranks of tp: what it does not cut is not on both; and on one, in which type gradients add up."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.parallel.worker_shard import FAMILY
from tests.support.ranks import start_ranks, wait_for_ranks
from tests.support.tiny import make_base
from vlmforge.config.derived import Axes
from vlmforge.parallel.mesh import open_world
from vlmforge.parallel.shard import apply_fsdp, full_tensor, set_last_micro_batch


def test_tower_and_projector_are_shared_out_over_tp(tmp_path: Path) -> None:
    make_base(tmp_path / FAMILY, FAMILY)
    wait_for_ranks(start_ranks("tests.parallel.worker_shard", 2, tmp_path))
    first, second = (json.loads((tmp_path / f"sizes-{rank}.json").read_text()) for rank in range(2))
    for group in ("vision_tower", "projector"):
        (here, full), (there, _) = first[group], second[group]
        # FSDP fills up what does not divide; it is no rank's.
        assert here + there == full
        assert here == pytest.approx(full / 2, rel=0.1)


class CastLinear(nn.Linear):
    """A layer that casts its own weight."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype))


@pytest.mark.parametrize("masters", [torch.bfloat16, torch.float32], ids=str)
def test_one_rank_adds_up_gradients_in_the_type_that_is_asked_for(masters: torch.dtype) -> None:
    with open_world(Axes(), "cpu", 60.0) as world:
        layer = CastLinear(1, 1, bias=False, dtype=masters)
        root = nn.Sequential(layer)
        types = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
        apply_fsdp(root, [layer], world.weight_mesh, **types, cast_by_layers=[layer.weight])
        for number in range(300):
            set_last_micro_batch(root, number == 299)
            root(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        grad = layer.weight.grad
        assert grad is not None
        # In bfloat16, 256 + 1 is 256.
        assert full_tensor(grad).item() == 300
