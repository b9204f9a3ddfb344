"""What is trained on which mesh: every family, in full and with adapters, and on some meshes more.

A cell is a family on a mesh, in full or with adapters. `support_matrix.py` trains each on packed rows and on ragged
ones, for five steps. So does the suite for most families on most meshes (`IN_FULL`). The others it trains once each, in
full on packed rows and with adapters on ragged ones, because what is special to each lies elsewhere, and five steps
only in full on few ranks, because CPU time is dear. Of stitched models, whose towers and language models are compared
one by one too, the suite trains a part only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from tests.numerics.case import GLOBAL_BATCH_SIZE, Case
from vlmforge.config.derived import Axes
from vlmforge.models import FAMILIES

PLAIN = tuple(name for name, family in FAMILIES.items() if not family.parts)
# Each tower and each language model, then every other pair of them.
STITCHED = (
    "stitched-internvit-qwen2",
    "stitched-radio-llama",
    "stitched-siglip-qwen3",
    "stitched-clip-mistral",
)
PAIRED = tuple(
    name
    for tower in ("internvit", "radio", "siglip", "clip")
    for text in ("llama", "mistral", "qwen2")
    if (name := f"stitched-{tower}-{text}") not in STITCHED
)
# Language models that are seldom behind a tower: on one mesh that shards their weights, and one that cuts their layers.
SELDOM = (
    "stitched-internvit-seed_oss",
    "stitched-radio-gemma",
    "stitched-siglip-gemma3",
    "stitched-clip-qwen3_moe",
)
NAMES = PLAIN + STITCHED + PAIRED + SELDOM
OFTEN = PLAIN + STITCHED + PAIRED
EXPERTS = ("qwen3_moe", "qwen3_vl_moe", "llama4")
# Of each kind of layers one, where a mesh is a product of what is compared for all.
FEW = ("qwen3", "qwen3_moe", "qwen3_vl", "stitched-radio-llama")

SINGLE = "single"
# The columns of the support matrix, with the families that are trained on them.
MATRIX: Mapping[str, tuple[Axes, tuple[str, ...]]] = {
    SINGLE: (Axes(), NAMES),
    "dp_shard2": (Axes(dp_shard=2), NAMES),
    "dp_replicate2": (Axes(dp_replicate=2), OFTEN),
    "tp2": (Axes(tp=2), NAMES),
    "cp2": (Axes(cp=2), OFTEN),
    "ep2": (Axes(dp_shard=2, ep=2), EXPERTS),
    "dp_replicate2-dp_shard2": (Axes(dp_replicate=2, dp_shard=2), OFTEN),
    "dp_shard2-tp2": (Axes(dp_shard=2, tp=2), OFTEN),
    "dp_shard2-cp2": (Axes(dp_shard=2, cp=2), OFTEN),
    "cp2-tp2": (Axes(cp=2, tp=2), FEW),
    "dp_shard2-tp2-ep4": (Axes(dp_shard=2, tp=2, ep=4), EXPERTS),
    "dp_replicate2-dp_shard2-ep2": (Axes(dp_replicate=2, dp_shard=2, ep=2), EXPERTS),
}
# Of two key-value heads, cp 4 gives each rank a copy.
MESHES: Mapping[str, Axes] = {**{mesh: axes for mesh, (axes, _) in MATRIX.items()}, "cp4": Axes(cp=4)}
WORLD_SIZES = (2, 4)

# What the suite trains on both kinds of rows and for all five steps: families, and meshes.
IN_FULL = (
    frozenset(
        {"llama", "mistral", "qwen3", "gemma3", "qwen3_moe", "llama4", "qwen2_5_vl", "qwen3_vl", "internvl"},
    ),
    frozenset(
        {
            "dp_shard2",
            "dp_replicate2",
            "tp2",
            "cp2",
            "ep2",
            "dp_replicate2-dp_shard2",
            "dp_shard2-tp2",
            "dp_shard2-cp2",
        }
    ),
)
# What an update makes of the first gradient shows in the second step, what the next one makes of that in the third.
FEW_STEPS = 3
PACKED = Case(packing="best_fit", micro_batch_size=2)


def matrix_case(family: str, is_lora: bool, is_packed: bool, mesh: str) -> Case:
    """A cell on packed rows, or on ragged ones: unpacked and cut by tokens."""
    if not is_packed:
        return Case(family, is_lora, max_tokens=240)
    rows = min(2, GLOBAL_BATCH_SIZE // MESHES[mesh].num_data_ranks)
    return Case(family, is_lora, "best_fit", rows)


def cell_case(family: str, is_lora: bool, mesh: str) -> Case:
    """How the suite trains a cell, or the case of it that the support matrix names."""
    case = matrix_case(family, is_lora, is_packed=not is_lora, mesh=mesh)
    is_short = is_lora or MESHES[mesh].world_size > 2
    return replace(case, num_steps=FEW_STEPS) if is_short and not _is_in_full(family, mesh) else case


def _is_in_full(family: str, mesh: str) -> bool:
    families, meshes = IN_FULL
    return family in families and mesh in meshes


def suite_cases(family: str, is_lora: bool, mesh: str) -> tuple[Case, ...]:
    """All cases by which the suite trains a cell."""
    if _is_in_full(family, mesh):
        return tuple(matrix_case(family, is_lora, is_packed, mesh) for is_packed in (True, False))
    return (cell_case(family, is_lora, mesh),)


def is_in_suite(family: str, is_lora: bool, mesh: str) -> bool:
    """Of the stitched models a few are: all of them on dp_shard 2, on each other mesh another one."""
    if family in PLAIN or (family in STITCHED + SELDOM and mesh == "dp_shard2"):
        return True
    turn = STITCHED[list(MATRIX).index(mesh) % len(STITCHED)]
    return family == turn and (not is_lora or mesh in ("tp2", "cp2"))


CELLS = tuple(
    (mesh, case)
    for mesh, (_, families) in MATRIX.items()
    for family in families
    for is_lora in (False, True)
    if is_in_suite(family, is_lora, mesh)
    for case in suite_cases(family, is_lora, mesh)
)

# Every cut of the rows, and ranks and micro-batches that have nothing to train while others have.
CUTS = tuple(
    Case(family, is_lora, packing, rows)
    for family, cuts in (("llama", (1, 2, 4)), ("qwen2", (2,)))
    for is_lora in (False, True)
    for packing in ("none", "best_fit")
    for rows in cuts
)
SINGLE_ROWS = tuple(case for case in CUTS if case.family == "qwen2" or case.micro_batch_size == 1)
HOLES = (
    Case(micro_batch_size=1, has_holes=True),
    Case(is_lora=True, micro_batch_size=2, has_holes=True),
    Case(max_tokens=160, has_holes=True),
)
# Rows of up to 160 tokens, cut into three or four micro-batches on one rank, and two on each of two.
BY_TOKENS = Case(max_tokens=160)
# What must change nothing but what it says.
ATTENTIONS = (replace(PACKED, attention="sdpa"), replace(PACKED, attention="eager"))
RECOMPUTED = (
    replace(PACKED, recompute="full"),
    replace(PACKED, recompute="selective"),
    replace(PACKED, is_lora=True, recompute="full"),
)
# A row without a picture is a micro-batch of its own; a frozen tower; pictures seen again in the backward pass.
PICTURES = (
    Case("qwen3_vl", False, micro_batch_size=1),
    Case("qwen2_5_vl", False, "best_fit", 2, trainable="projector"),
    Case("qwen3_vl", False, "best_fit", 2, recompute="full"),
)
STITCHED_PICTURES = (
    Case("stitched-siglip-qwen3", trainable="projector"),
    Case("stitched-radio-llama", False, "best_fit", 2, trainable="projector,language_model"),
    Case("stitched-internvit-qwen2", False, "best_fit", 2, recompute="full"),
)

# Turns that count by the root of their length, on the rows that every kind of slice cuts.
WEIGHED = replace(PACKED, weighs=True)

MORE: Mapping[str, tuple[Case, ...]] = {
    SINGLE: (*CUTS, BY_TOKENS, *ATTENTIONS, *RECOMPUTED, *HOLES, PICTURES[0]),
    "dp_shard2": (
        *CUTS,
        BY_TOKENS,
        *ATTENTIONS,
        *RECOMPUTED,
        *HOLES,
        *PICTURES,
        *STITCHED_PICTURES,
        replace(WEIGHED, family="qwen3_vl"),
    ),
    "dp_replicate2": (*SINGLE_ROWS, BY_TOKENS, RECOMPUTED[0], *HOLES, PICTURES[0]),
    "tp2": (
        Case("qwen3", True, recompute="selective"),
        replace(PACKED, family="qwen3", recompute="full"),
        replace(PACKED, family="gemma2", attention="eager"),
        HOLES[0],
        WEIGHED,
        *PICTURES,
    ),
    # Activations are exchanged again in the backward pass.
    "cp2": (
        *SINGLE_ROWS,
        BY_TOKENS,
        *RECOMPUTED,
        *HOLES,
        WEIGHED,
        *PICTURES,
    ),
    "cp4": (PACKED,),
}

# Each takes one mechanism out; the mesh on which that must be noticed.
BROKEN: Mapping[Case, str] = {
    replace(case, num_steps=FEW_STEPS): mesh
    for case, mesh in {
        replace(PACKED, mutation="no-label-count-reduction"): "dp_shard2",
        replace(PACKED, mutation="no-adapter-reduction", is_lora=True): "dp_shard2",
        replace(PACKED, mutation="use-cache", attention="sdpa"): SINGLE,
        replace(PACKED, mutation="labels-counted-twice"): "cp2",
        replace(PACKED, mutation="no-gradient-exchange", is_lora=True): "cp2",
        replace(PACKED, mutation="no-kv-gradient-reduction"): "cp4",
        replace(PACKED, family="qwen3", mutation="no-head-norm-reduction"): "tp2",
        replace(PACKED, is_lora=True, packing="none", mutation="no-low-rank-reduction"): "tp2",
        replace(PACKED, family="qwen3_vl", mutation="no-division-by-copies"): "tp2",
    }.items()
}


def cases_on(mesh: str) -> tuple[Case, ...]:
    """What the suite trains on a mesh, each once: its cells, what else fits on it, and what it must notice."""
    more = [
        # The rows with holes are made for five steps.
        case if case.has_holes else replace(case, num_steps=FEW_STEPS)
        for case in MORE.get(mesh, ())
        if _fits(case, MESHES[mesh])
    ]
    named = {case.name: case for case in [*more, *(case for on, case in CELLS if on == mesh)]}
    return (*named.values(), *(case for case, on in BROKEN.items() if on == mesh))


def shown_on(mesh: str, words: Collection[str]) -> tuple[Case, ...]:
    """What the support matrix shows of a mesh, for the meshes and families among some words."""
    if mesh not in words or mesh not in MATRIX:
        return ()
    return tuple(
        matrix_case(family, is_lora, is_packed, mesh)
        for family in MATRIX[mesh][1]
        if family in words
        for is_lora in (False, True)
        for is_packed in (True, False)
    )


def _fits(case: Case, axes: Axes) -> bool:
    return case.micro_batch_size * axes.num_data_ranks <= GLOBAL_BATCH_SIZE


ALL = tuple((mesh, case) for mesh in MESHES for case in cases_on(mesh))
