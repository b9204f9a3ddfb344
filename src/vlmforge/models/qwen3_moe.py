"""Qwen3 with experts (transformers `Qwen3MoeForCausalLM`): each token goes through a few of many small MLPs.

The experts' matrices are one tensor a layer in the model and one tensor an expert in its files. Adapters go to the
linear layers of attention; experts, router and the MLPs of layers without experts stay as they are.
The loss is the tokens' alone: the auxiliary loss that balances the router is not part of it.
"""

from vlmforge.models.family import (
    NONE,
    SHARDED_ATTENTION,
    SHARDED_HEAD_NORMS,
    SHARDED_MLP,
    TEXT_FIELDS,
    TEXT_REQUIRED,
    TINY_TEXT,
    Family,
    Fused,
)

QWEN3_MOE = Family(
    name="qwen3_moe",
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    fields={
        **TEXT_FIELDS,
        "head_dim": (int,),
        "attention_bias": (bool,),
        "use_sliding_window": (bool,),
        "sliding_window": (int, NONE),
        "moe_intermediate_size": (int,),
        "num_experts": (int,),
        # What transformers 5 writes for it.
        "num_local_experts": (int,),
        "num_experts_per_tok": (int,),
        "norm_topk_prob": (bool,),
        "decoder_sparse_step": (int,),
        "mlp_only_layers": (list, NONE),
        "output_router_logits": (bool,),
    },
    required=(*TEXT_REQUIRED, "moe_intermediate_size", "num_experts", "num_experts_per_tok"),
    tiny={**TINY_TEXT, "head_dim": 32, "moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2},
    tiny_drops=("mlp_only_layers",),
    # Of layers without experts; peft would put adapters into the experts of all others for these names.
    not_adapted=("gate_proj", "up_proj", "down_proj"),
    sharding={
        **SHARDED_ATTENTION,
        **SHARDED_HEAD_NORMS,
        "model.layers.*.mlp.gate": "replicated",
        "model.layers.*.mlp.experts": "experts",
        # Of layers without experts.
        **{f"{row}?": style for row, style in SHARDED_MLP.items()},
    },
    fused=(
        Fused("mlp.experts.gate_up_proj", ("mlp.experts.{}.gate_proj.weight", "mlp.experts.{}.up_proj.weight")),
        Fused("mlp.experts.down_proj", ("mlp.experts.{}.down_proj.weight",)),
    ),
    lean={"Qwen3MoeRMSNorm": "norm", "Qwen3MoeExperts": "experts"},
)
