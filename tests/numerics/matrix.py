"""The cells of family x mesh x full or LoRA that are compared with a plain loop, one start of processes for each mesh.

Full training is on packed rows and LoRA on ragged ones: what is special to each lies elsewhere, and CPU time is dear.
"""

from __future__ import annotations

from tests.numerics.harness import Case
from vlmforge.config.derived import Axes
from vlmforge.models import FAMILIES

EXPERTS = ("qwen3_moe", "llama4")
# One family of each kind of layer, where meshes are products of what is compared for all families alone.
FEW = ("llama", "qwen3", "gemma2", "qwen3_vl", *EXPERTS)

# World size to mesh, with the families that are trained on it.
MESHES: dict[int, dict[str, tuple[Axes, tuple[str, ...]]]] = {
    2: {
        "tp2": (Axes(tp=2), tuple(FAMILIES)),
        "ep2": (Axes(dp_shard=2, ep=2), EXPERTS),
    },
    4: {
        "dp_shard2-tp2": (Axes(dp_shard=2, tp=2), FEW),
        "cp2-tp2": (Axes(cp=2, tp=2), ("qwen3",)),
        "dp_shard2-tp2-ep4": (Axes(dp_shard=2, tp=2, ep=4), EXPERTS),
        "dp_replicate2-dp_shard2-ep2": (Axes(dp_replicate=2, dp_shard=2, ep=2), EXPERTS),
    },
}

# Each takes one sum over the ranks of tp out, which must be noticed.
BROKEN = (
    Case("qwen3", False, "best_fit", mutation="no-head-norm-reduction"),
    Case("llama", True, "none", mutation="no-low-rank-reduction"),
)
# What must change nothing but what it says.
MORE = (
    Case("qwen3", True, "none", recompute="selective"),
    Case("qwen3", False, "best_fit", recompute="full"),
    Case("gemma2", False, "best_fit", attention="eager"),
)


def cells_of(mesh: str) -> list[Case]:
    """What is trained on a mesh."""
    families = next(meshes[mesh][1] for meshes in MESHES.values() if mesh in meshes)
    cells = [Case(name, is_lora, "none" if is_lora else "best_fit") for name in families for is_lora in (False, True)]
    return [*cells, *BROKEN, *MORE] if mesh == "tp2" else cells


CELLS = [(mesh, case) for meshes in MESHES.values() for mesh in meshes for case in cells_of(mesh)]
