"""The cells of family x mesh x full or LoRA that are compared with a plain loop, one start of processes for each mesh.

The suite trains each cell once: in full on packed rows, with adapters on ragged ones, because what is special to each
lies elsewhere, and CPU time is dear. `support_matrix.py` trains each on both, for longer, and writes the page.
"""

from __future__ import annotations

from tests.numerics.harness import Case
from vlmforge.config.derived import Axes
from vlmforge.models import FAMILIES

TRAINED = tuple(name for name, family in FAMILIES.items() if family.vision is None)
# World size to mesh, with the families that are trained on it.
MESHES: dict[int, dict[str, tuple[Axes, tuple[str, ...]]]] = {
    2: {
        "dp_shard2": (Axes(dp_shard=2), TRAINED),
        "dp_replicate2": (Axes(dp_replicate=2), TRAINED),
        "cp2": (Axes(cp=2), TRAINED),
    },
    4: {
        "dp_replicate2-dp_shard2": (Axes(dp_replicate=2, dp_shard=2), TRAINED),
        "dp_shard2-cp2": (Axes(dp_shard=2, cp=2), TRAINED),
    },
}


def cell_case(family: str, is_lora: bool) -> Case:
    """How the suite trains a cell."""
    return Case(family, is_lora, "none" if is_lora else "best_fit", num_steps=3)


def page_cases(family: str) -> dict[tuple[bool, str], Case]:
    """How a cell is trained for the page: in full and by LoRA, both packed, and unpacked and cut by tokens (ragged)."""
    return {
        (is_lora, cut): Case(family, is_lora, "best_fit")
        if cut == "packed"
        else Case(family, is_lora, "none", max_tokens=160)
        for is_lora in (False, True)
        for cut in ("packed", "ragged")
    }


def cells_of(mesh: str) -> list[Case]:
    """What the suite trains on a mesh."""
    return [cell_case(family, is_lora) for family in families_on(mesh) for is_lora in (False, True)]


def families_on(mesh: str) -> tuple[str, ...]:
    """The families that are trained on a mesh."""
    return next(meshes[mesh][1] for meshes in MESHES.values() if mesh in meshes)


CELLS = [(mesh, case) for meshes in MESHES.values() for mesh in meshes for case in cells_of(mesh)]
