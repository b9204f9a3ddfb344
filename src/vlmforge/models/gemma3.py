"""Gemma 3, text only: Gemma 2 without caps, with q/k norms and two rotary bases (transformers `Gemma3ForCausalLM`).

Five of six layers look back a window, with the base `rope_local_base_freq`; every sixth sees all, with `rope_theta`.
"""

from vlmforge.models.family import (
    NONE,
    SHARDED_ATTENTION,
    SHARDED_HEAD_NORMS,
    SHARDED_MLP,
    TEXT_FIELDS,
    TINY_TEXT,
    Family,
    without,
)

GEMMA3 = Family(
    name="gemma3",
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    fields={
        **without(TEXT_FIELDS, "hidden_act"),
        "hidden_activation": (str,),
        "head_dim": (int,),
        "attention_bias": (bool,),
        "query_pre_attn_scalar": (int,),
        "rope_local_base_freq": (float, int),
        "sliding_window": (int, NONE),
        "layer_types": (list, NONE),
        "final_logit_softcapping": (float, int, NONE),
        # The class has the field and does not read it.
        "attn_logit_softcapping": (NONE,),
        "use_bidirectional_attention": (bool, NONE),
    },
    tiny={**TINY_TEXT, "head_dim": 32, "layer_types": ["sliding_attention", "full_attention"]},
    sharding={
        **SHARDED_ATTENTION,
        **SHARDED_HEAD_NORMS,
        **SHARDED_MLP,
        "model.layers.*.pre_feedforward_layernorm": "replicated",
        "model.layers.*.post_feedforward_layernorm": "replicated",
    },
    rope_by_layer_type={"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    lean={"Gemma3RMSNorm": "norm_of_one", "Gemma3MLP": "gated_mlp"},
)
