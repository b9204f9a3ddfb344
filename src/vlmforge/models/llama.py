"""Llama 2 and 3, SmolLM2 and everything else whose `model_type` is llama (transformers `LlamaForCausalLM`)."""

from vlmforge.models.family import TEXT_FIELDS, TEXT_REQUIRED, TINY_TEXT, Family

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
    required=TEXT_REQUIRED,
    layers="model.layers",
    groups={"language_model": ""},
    tiny=TINY_TEXT,
    tiny_drops=("head_dim",),
    has_liger=True,
)
