"""Llama 2 and 3, SmolLM2 and everything else whose `model_type` is llama (transformers `LlamaForCausalLM`)."""

from vlmforge.models.family import SHARDED_ATTENTION, SHARDED_MLP, TEXT_FIELDS, TINY_TEXT, Family

LLAMA = Family(
    name="llama",
    model_type="llama",
    architecture="LlamaForCausalLM",
    fields={
        **TEXT_FIELDS,
        "head_dim": (int, type(None)),
        "attention_bias": (bool,),
        "mlp_bias": (bool,),
    },
    tiny=TINY_TEXT,
    tiny_drops=("head_dim",),
    lean={"LlamaRMSNorm": "norm", "LlamaMLP": "gated_mlp"},
    sharding={**SHARDED_ATTENTION, **SHARDED_MLP},
    has_liger=True,
)
