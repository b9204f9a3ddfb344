"""The cases of the numerics tests, and the meshes that each number of ranks makes."""

from __future__ import annotations

from dataclasses import replace

from tests.numerics.harness import GLOBAL_BATCH_SIZE, Case
from vlmforge.config.derived import Axes
from vlmforge.models import FAMILIES

# Number of ranks to the meshes that it makes.
MESHES = {
    1: {"single": Axes()},
    2: {"dp_shard2": Axes(dp_shard=2), "dp_replicate2": Axes(dp_replicate=2), "cp2": Axes(cp=2)},
    # Of two key-value heads, cp 4 gives each rank a copy.
    4: {"cp4": Axes(cp=4)},
}
AXES = {mesh: axes for meshes in MESHES.values() for mesh, axes in meshes.items()}

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
    # Ranks and micro-batches that have nothing to train while others have.
    *(Case(is_lora=is_lora, micro_batch_size=rows, has_holes=True) for is_lora, rows in ((False, 1), (True, 2))),
    Case(max_tokens=160, has_holes=True),
)

# What is special to a family is in its layers: one cut of the rows, packed, will do. Its meshes are in `cells.py`.
MORE_FAMILIES = tuple(name for name in FAMILIES if name not in ("llama", "qwen2"))
FAMILY_CASES = tuple(
    Case(family, is_lora, "best_fit", 2, num_steps=3) for family in MORE_FAMILIES for is_lora in (False, True)
)

# Rows shared out among ranks: every way to cut them, and activations that are exchanged again in the backward pass.
CONTEXT_CASES = tuple(
    case
    for case in CASES
    if case.attention == "varlen" and (case.family == "qwen2" or case.micro_batch_size == 1 or case.recompute != "none")
)

# Each takes one mechanism out; the mesh on which that must be noticed.
PACKED = Case(packing="best_fit", micro_batch_size=2)
BROKEN = {
    replace(PACKED, mutation="no-label-count-reduction"): "dp_shard2",
    replace(PACKED, mutation="no-adapter-reduction", is_lora=True): "dp_shard2",
    replace(PACKED, mutation="use-cache", attention="sdpa"): "single",
    replace(PACKED, mutation="labels-counted-twice"): "cp2",
    replace(PACKED, mutation="no-gradient-exchange", is_lora=True): "cp2",
    replace(PACKED, mutation="no-kv-gradient-reduction"): "cp4",
}


def cases_for(mesh: str) -> list[Case]:
    """Cases of a mesh that its micro-batches can be dealt on, and the mutations that it must notice."""
    axes = AXES[mesh]
    families = FAMILY_CASES if mesh == "single" else ()
    cases = [case for case in (CONTEXT_CASES if axes.cp > 1 else CASES) if _fits(case, axes)]
    return [*(cases if mesh != "cp4" else [PACKED]), *families, *(case for case, on in BROKEN.items() if on == mesh)]


def _fits(case: Case, axes: Axes) -> bool:
    return case.micro_batch_size * axes.num_data_ranks <= GLOBAL_BATCH_SIZE
