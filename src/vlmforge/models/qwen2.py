"""Qwen2 and Qwen2.5: Llama with biases on the query, key and value projections (transformers `Qwen2ForCausalLM`)."""

from vlmforge.models.family import SHARDED_ATTENTION, SHARDED_MLP, TEXT_FIELDS, TINY_TEXT, Family

QWEN2 = Family(
    name="qwen2",
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    fields={
        **TEXT_FIELDS,
        "use_sliding_window": (bool,),
        "sliding_window": (int, type(None)),
        "max_window_layers": (int,),
        "layer_types": (list, type(None)),
    },
    # One layer is below the windows, one above.
    tiny={**TINY_TEXT, "max_window_layers": 1},
    tiny_drops=("layer_types",),
    lean={"Qwen2RMSNorm": "norm", "Qwen2MLP": "gated_mlp"},
    sharding={**SHARDED_ATTENTION, **SHARDED_MLP},
    has_liger=True,
)
