"""The cases of the numerics tests, and the meshes that each number of ranks makes."""

from __future__ import annotations

from tests.numerics.harness import GLOBAL_BATCH_SIZE, Case
from vlmforge.config.derived import Axes
from vlmforge.models import FAMILIES

MESHES = {
    1: {"single": Axes()},
    2: {"dp_shard2": Axes(dp_shard=2), "dp_replicate2": Axes(dp_replicate=2)},
}

CASES = (
    *(
        Case(family, is_lora, packing, micro_batch_size)
        for family, cuts in (("llama", (1, 2, 4)), ("qwen2", (2,)))
        for is_lora in (False, True)
        for packing in ("none", "best_fit")
        for micro_batch_size in cuts
    ),
    # Rows of up to 160 tokens, cut into three or four micro-batches on one rank, and two on each of two.
    Case(max_tokens=160),
    Case(packing="best_fit", micro_batch_size=2, attention="sdpa"),
    Case(packing="best_fit", micro_batch_size=2, attention="eager"),
    Case(packing="best_fit", micro_batch_size=2, recompute="full"),
    Case(packing="best_fit", micro_batch_size=2, recompute="selective"),
    Case(is_lora=True, packing="best_fit", micro_batch_size=2, recompute="full"),
)

# What is special to a family is in its layers: one cut of the rows, packed, and one mesh of two ranks will do.
MORE_FAMILIES = tuple(n for n, family in FAMILIES.items() if n not in ("llama", "qwen2") and family.vision is None)
FAMILY_CASES = tuple(
    Case(family, is_lora, "best_fit", 2, num_steps=3) for family in MORE_FAMILIES for is_lora in (False, True)
)

# Each takes one mechanism out; the mesh on which that must be noticed.
BROKEN = {
    Case(packing="best_fit", micro_batch_size=2, mutation="no-label-count-reduction"): "dp_shard2",
    Case(is_lora=True, packing="best_fit", micro_batch_size=2, mutation="no-adapter-reduction"): "dp_shard2",
    Case(packing="best_fit", micro_batch_size=2, attention="sdpa", mutation="use-cache"): "single",
}


def cases_for(mesh: str) -> list[Case]:
    """Cases whose micro-batches divide the global batch on this mesh."""
    world_size = next(size for size, meshes in MESHES.items() if mesh in meshes)
    broken = [case for case, noticed in BROKEN.items() if noticed == mesh]
    cases = [case for case in CASES if case.micro_batch_size * world_size <= GLOBAL_BATCH_SIZE]
    return [*cases, *broken, *(FAMILY_CASES if mesh != "dp_replicate2" else ())]
