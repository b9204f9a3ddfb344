"""Qwen3-VL with experts (transformers `Qwen3VLMoeForConditionalGeneration`): Qwen3-VL's tower, Qwen3-MoE's text layers.

The published files hold each layer's experts as one tensor, as the model does, with inputs and outputs swapped; those
that transformers writes hold them as the model does. Both are read, the second is written.
"""

from dataclasses import replace

from vlmforge.models.family import (
    NONE,
    SHARDED_ATTENTION,
    SHARDED_HEAD_NORMS,
    SHARDED_MLP,
    TEXT_REQUIRED,
    beside_tower,
)
from vlmforge.models.qwen3_vl import QWEN3_VL

_TEXT_SIZES = {"moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2}

QWEN3_VL_MOE = replace(
    QWEN3_VL,
    name="qwen3_vl_moe",
    model_type="qwen3_vl_moe",
    architecture="Qwen3VLMoeForConditionalGeneration",
    sections={
        **QWEN3_VL.sections,
        "text_config": {
            **QWEN3_VL.sections["text_config"],
            "moe_intermediate_size": (int,),
            "num_experts": (int,),
            # What transformers 5 writes for it.
            "num_local_experts": (int,),
            "num_experts_per_tok": (int,),
            "decoder_sparse_step": (int,),
            "mlp_only_layers": (list, NONE),
            "output_router_logits": (bool,),
        },
    },
    required=(*TEXT_REQUIRED, "moe_intermediate_size", "num_experts", "num_experts_per_tok"),
    # Of layers without experts; peft would put adapters into the experts of all others for these names.
    not_adapted=("gate_proj", "up_proj", "down_proj"),
    sharding=beside_tower(
        {
            **SHARDED_ATTENTION,
            **SHARDED_HEAD_NORMS,
            "model.layers.*.mlp.gate": "replicated",
            "model.layers.*.mlp.experts": "experts",
            # Of layers without experts.
            **{f"{row}?": style for row, style in SHARDED_MLP.items()},
        },
        "model.visual",
    ),
    swapped=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    lean={
        "Qwen3VLMoeTextRMSNorm": "norm",
        "Qwen3VLMoeTextExperts": "experts",
        "Qwen3VLMoeVisionAttention": "picture_attention",
        "Qwen3VLMoeVisionPatchEmbed": "patches",
    },
    tiny={**QWEN3_VL.tiny, "text_config": {**QWEN3_VL.tiny["text_config"], **_TEXT_SIZES}},
    tiny_drops=("text_config.mlp_only_layers",),
)
