"""Gemma 2: Gemma with norms after each part too, windows in every other layer, and capped scores and logits.

transformers `Gemma2ForCausalLM`. Its scores are `cap * tanh(scores / cap)`, which `sdpa` does not compute.
"""

from vlmforge.models.family import (
    NONE,
    SHARDED_ATTENTION,
    SHARDED_MLP,
    TEXT_FIELDS,
    TINY_TEXT,
    Family,
    without,
)

GEMMA2 = Family(
    name="gemma2",
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    fields={
        **without(TEXT_FIELDS, "hidden_act"),
        "hidden_activation": (str,),
        "head_dim": (int,),
        "attention_bias": (bool,),
        "query_pre_attn_scalar": (int,),
        "sliding_window": (int, NONE),
        "layer_types": (list, NONE),
        "final_logit_softcapping": (float, int, NONE),
        "attn_logit_softcapping": (float, int, NONE),
        "use_bidirectional_attention": (bool, NONE),
    },
    tiny={**TINY_TEXT, "head_dim": 32},
    tiny_drops=("layer_types",),
    attentions=("varlen", "eager"),
    lean={"Gemma2RMSNorm": "norm_of_one", "Gemma2MLP": "gated_mlp"},
    sharding={
        **SHARDED_ATTENTION,
        **SHARDED_MLP,
        "model.layers.*.pre_feedforward_layernorm": "replicated",
        "model.layers.*.post_feedforward_layernorm": "replicated",
    },
)
