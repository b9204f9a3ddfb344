"""Gemma 1: embeddings scaled by the root of the width, norms that multiply by 1 + weight, tied head.

transformers `GemmaForCausalLM`. Files of 2024 say `hidden_act: gelu`; it has always meant the tanh approximation.
"""

from vlmforge.models.family import NONE, SHARDED_ATTENTION, SHARDED_MLP, TEXT_FIELDS, TINY_TEXT, Family

GEMMA = Family(
    name="gemma",
    model_type="gemma",
    architecture="GemmaForCausalLM",
    fields={
        **TEXT_FIELDS,
        "head_dim": (int,),
        "attention_bias": (bool,),
        "use_bidirectional_attention": (bool, NONE),
    },
    tiny={**TINY_TEXT, "head_dim": 32},
    lean={"GemmaRMSNorm": "norm_of_one", "GemmaMLP": "gated_mlp"},
    sharding={**SHARDED_ATTENTION, **SHARDED_MLP},
    has_liger=True,
)
