"""Qwen3-VL: a tower that sees pictures in their own size, whose features enter the first text layers too (deepstack).

transformers' `Qwen3VLForConditionalGeneration`. The text layers are Qwen3's, with rotary positions of three parts whose
frequencies alternate (`mrope_interleaved`).
"""

from vlmforge.models.family import (
    HALF,
    SHARDED_ATTENTION,
    SHARDED_HEAD_NORMS,
    SHARDED_MLP,
    TEXT_FIELDS,
    TINY_IMAGE_IDS,
    TINY_TEXT,
    Family,
    beside_tower,
    qwen_vision,
    without,
)

QWEN3_VL = Family(
    name="qwen3_vl",
    model_type="qwen3_vl",
    architecture="Qwen3VLForConditionalGeneration",
    fields={
        "text_config": (dict,),
        "vision_config": (dict,),
        "image_token_id": (int,),
        "video_token_id": (int,),
        "vision_start_token_id": (int,),
        "vision_end_token_id": (int,),
        "tie_word_embeddings": (bool,),
    },
    sections={
        "text_config": {
            **without(TEXT_FIELDS, "tie_word_embeddings"),
            "head_dim": (int,),
            "attention_bias": (bool,),
        },
        "vision_config": {
            "depth": (int,),
            "hidden_size": (int,),
            "intermediate_size": (int,),
            "num_heads": (int,),
            "hidden_act": (str,),
            "in_channels": (int,),
            "patch_size": (int,),
            "spatial_merge_size": (int,),
            "temporal_patch_size": (int,),
            "out_hidden_size": (int,),
            "num_position_embeddings": (int,),
            "deepstack_visual_indexes": (list, tuple),
            "initializer_range": (float, int),
        },
    },
    decoder="model.language_model",
    groups={
        "vision_tower": "model.visual",
        "projector": ("model.visual.merger", "model.visual.deepstack_merger_list"),
        "language_model": "",
    },
    sharding=beside_tower({**SHARDED_ATTENTION, **SHARDED_HEAD_NORMS, **SHARDED_MLP}, "model.visual"),
    lean={
        "Qwen3VLTextRMSNorm": "norm",
        "Qwen3VLTextMLP": "gated_mlp",
        "Qwen3VLVisionAttention": "picture_attention",
        "Qwen3VLVisionPatchEmbed": "patches",
    },
    vision=qwen_vision(65_536, 16_777_216, mean=HALF, std=HALF),
    tiny={
        "text_config": {
            **TINY_TEXT,
            "head_dim": 32,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [6, 5, 5]},
        },
        "vision_config": {
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **TINY_IMAGE_IDS,
    },
)
