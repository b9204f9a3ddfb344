"""A recipe reduced to what a comparison of meshes needs: the same classes and the same cuts, few layers, float32.

It starts from `scale=tiny` and keeps what decides how a mesh cuts the model: numbers of heads, and sizes that the same
number of ranks divides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vlmforge.config.decode import decode
from vlmforge.config.derived import Axes
from vlmforge.config.encode import encode
from vlmforge.config.facts import FamilyFacts
from vlmforge.config.origins import Origins
from vlmforge.config.plain import is_whole_number
from vlmforge.config.pretrained import Shape
from vlmforge.config.scale import apply_tiny
from vlmforge.config.schema import Config

NUM_STEPS = 5
HEAD_DIM = 16
# Rows of a step on every data rank, so that gradients are accumulated too; and of a step at least.
ROWS_PER_RANK = 2
MIN_ROWS = 4

KEPT = ("num_attention_heads", "num_key_value_heads")
# Dims that tensor parallelism cuts, wherever it cuts heads.
CUT = ("vocab_size", "intermediate_size", "intermediate_size_mlp", "moe_intermediate_size")
EXPERTS = ("num_experts", "num_local_experts")
DROPOUTS = ("attention_dropout", "residual_dropout")


def reduce_config(config: Config, shape: Shape, axes: Axes, families: Mapping[str, FamilyFacts]) -> Config:
    """The reduced recipe.

    Args:
        config: has passed gate 1.
        shape: of its model in full size.
        axes: of the mesh that is to be tried.
        families: model families by name.
    """
    values = encode(config)
    origins = Origins("vlmforge parity")
    apply_tiny(values, origins, families, keep_mesh=True)
    _keep_fields(values["model"]["config"], shape, axes, families[shape.family or ""].narrow(shape.fields))
    values["model"]["dtype"] = "float32"
    values["parallelism"] |= {"dp_shard": axes.dp_shard, "param_dtype": "float32", "reduce_dtype": "float32"}
    rows = max(MIN_ROWS, ROWS_PER_RANK * axes.num_data_ranks)
    values["stage"] |= {
        "max_steps": NUM_STEPS,
        "global_batch_size": math.ceil(rows / axes.num_data_ranks) * axes.num_data_ranks,
        "schedule": {"name": "constant"},
    }
    # Adam's first update is the sign of a gradient: one that is nothing but rounding must not make a whole step.
    values["stage"]["optimizer"]["eps"] = 1e-6
    if values["stage"]["adapter"] is not None:
        # Drawn rank by rank, so no two meshes drop the same.
        values["stage"]["adapter"]["dropout"] = 0.0
    values["evaluate"] |= {"tasks": [], "before": False}
    # A few samples, on each of many processes of one machine.
    values["data"]["num_workers"] = 0
    # The plain loop and the records of other processes are on the CPU, and there are ranks for any mesh.
    values["launch"]["device"] = "cpu"
    decoded = decode(values, origins)
    assert not decoded.problems, decoded.problems
    return decoded.config


def _keep_fields(tiny: dict[str, Any], shape: Shape, axes: Axes, family: FamilyFacts) -> None:
    """Put fields of the full language model in the place of tiny ones; round sizes up so that they are cut alike."""
    text = tiny[family.text_section] if family.text_section else tiny
    heads = shape.fields["num_attention_heads"]
    text |= {name: shape.fields[name] for name in KEPT}
    if "head_dim" in family.text_fields:
        # A family whose rotary positions have parts says it beside them.
        text.setdefault("head_dim", HEAD_DIM)
        # transformers asks some families for whole heads in the width, whatever the heads' own is.
        text["hidden_size"] = math.ceil(text["hidden_size"] / heads) * heads
    else:
        text["hidden_size"] = heads * HEAD_DIM
    sizes = {name: text[name] for name in (*CUT, *EXPERTS) if is_whole_number(text.get(name))}
    # Without ep the ranks of tp share the experts.
    steps = {name: math.lcm(axes.ep, axes.tp) if name in EXPERTS else heads for name in sizes}
    text |= {name: math.ceil(size / steps[name]) * steps[name] for name, size in sizes.items()}
    text |= {name: 0.0 for name in DROPOUTS if name in family.text_fields}
    for section in family.sections:
        # A tower's features are as wide as the text.
        if "out_hidden_size" in tiny[section]:
            tiny[section]["out_hidden_size"] = text["hidden_size"]
