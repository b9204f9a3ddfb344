"""Seed-OSS: Llama with biases on queries, keys and values, and dropout in the residual (`SeedOssForCausalLM`)."""

from vlmforge.models.family import NONE, SHARDED_ATTENTION, SHARDED_MLP, TEXT_FIELDS, TINY_TEXT, Family

SEED_OSS = Family(
    name="seed_oss",
    model_type="seed_oss",
    architecture="SeedOssForCausalLM",
    fields={
        **TEXT_FIELDS,
        "head_dim": (int, NONE),
        "attention_bias": (bool,),
        "attention_out_bias": (bool,),
        "mlp_bias": (bool,),
        "residual_dropout": (float, int),
    },
    # Dropout is drawn rank by rank: without it a tiny run is the same on any mesh.
    tiny={**TINY_TEXT, "head_dim": 32, "residual_dropout": 0.0},
    lean={"SeedOssRMSNorm": "norm"},
    sharding={**SHARDED_ATTENTION, **SHARDED_MLP},
)
