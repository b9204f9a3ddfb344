"""Mistral 7B: Llama whose every layer may look back a fixed window only (transformers `MistralForCausalLM`)."""

from vlmforge.models.family import NONE, SHARDED_ATTENTION, SHARDED_MLP, TEXT_FIELDS, TINY_TEXT, Family

MISTRAL = Family(
    name="mistral",
    model_type="mistral",
    architecture="MistralForCausalLM",
    fields={
        **TEXT_FIELDS,
        "head_dim": (int, NONE),
        # transformers' default is 4096: files without a window say null.
        "sliding_window": (int, NONE),
    },
    tiny=TINY_TEXT,
    tiny_drops=("head_dim",),
    lean={"MistralRMSNorm": "norm", "MistralMLP": "gated_mlp"},
    sharding={**SHARDED_ATTENTION, **SHARDED_MLP},
    has_liger=True,
)
