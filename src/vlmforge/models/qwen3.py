"""Qwen3: Qwen2 without biases, with a norm on each head's queries and keys (transformers `Qwen3ForCausalLM`)."""

from vlmforge.models.family import (
    NONE,
    SHARDED_ATTENTION,
    SHARDED_HEAD_NORMS,
    SHARDED_MLP,
    TEXT_FIELDS,
    TINY_TEXT,
    Family,
)

QWEN3 = Family(
    name="qwen3",
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    fields={
        **TEXT_FIELDS,
        "head_dim": (int,),
        "attention_bias": (bool,),
        "use_sliding_window": (bool,),
        "sliding_window": (int, NONE),
        "max_window_layers": (int,),
        "layer_types": (list, NONE),
    },
    # As in the full sizes, the heads together are wider than the model. One layer is below the windows, one above.
    tiny={**TINY_TEXT, "head_dim": 32, "max_window_layers": 1},
    tiny_drops=("layer_types",),
    lean={"Qwen3RMSNorm": "norm", "Qwen3MLP": "gated_mlp"},
    sharding={**SHARDED_ATTENTION, **SHARDED_HEAD_NORMS, **SHARDED_MLP},
    has_liger=True,
)
