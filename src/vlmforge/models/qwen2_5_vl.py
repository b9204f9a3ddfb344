"""Qwen2.5-VL: a tower that sees pictures in their own size, mostly through windows.

transformers' `Qwen2_5_VLForConditionalGeneration`. The text layers are Qwen2's, with rotary positions of three parts.
The published config.json has the text's fields at its top, beside `vision_config`, and the published files the names
of before transformers 5.
"""

from vlmforge.models.family import (
    CLIP_MEAN,
    CLIP_STD,
    NONE,
    SHARDED_ATTENTION,
    SHARDED_MLP,
    TEXT_FIELDS,
    TINY_IMAGE_IDS,
    TINY_TEXT,
    Family,
    beside_tower,
    qwen_vision,
    without,
)

QWEN2_5_VL = Family(
    name="qwen2_5_vl",
    model_type="qwen2_5_vl",
    architecture="Qwen2_5_VLForConditionalGeneration",
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
            "use_sliding_window": (bool,),
            "sliding_window": (int, NONE),
            "max_window_layers": (int,),
            "layer_types": (list, NONE),
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
            "tokens_per_second": (int, float),
            "window_size": (int,),
            "out_hidden_size": (int,),
            "fullatt_block_indexes": (list, tuple),
            "initializer_range": (float, int),
        },
    },
    decoder="model.language_model",
    groups={"vision_tower": "model.visual", "projector": "model.visual.merger", "language_model": ""},
    renamed=(("visual.", "model.visual."), ("model.", "model.language_model.")),
    sharding=beside_tower({**SHARDED_ATTENTION, **SHARDED_MLP}, "model.visual"),
    lean={
        "Qwen2_5_VLRMSNorm": "norm",
        "Qwen2MLP": "gated_mlp",
        "Qwen2_5_VLMLP": "gated_mlp",
        "Qwen2_5_VLVisionAttention": "picture_attention",
        "Qwen2_5_VisionPatchEmbed": "patches",
    },
    vision=qwen_vision(3_136, 12_845_056, mean=CLIP_MEAN, std=CLIP_STD),
    tiny={
        "text_config": {**TINY_TEXT, "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]}},
        # Windows of 2 x 2 tokens, so that a tiny picture has several.
        "vision_config": {
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 8,
            "window_size": 32,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
        **TINY_IMAGE_IDS,
    },
    tiny_drops=("text_config.layer_types",),
)
