"""InternVL 2.5 and 3: tiles of one size through InternViT, four features a token, a Qwen2 language model.

transformers' `InternVLForConditionalGeneration`, which reads the `-hf` folders. Their files have the names of before
transformers 5.
"""

from vlmforge.models.family import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SHARDED_ATTENTION,
    SHARDED_MLP,
    TINY_IMAGE_IDS,
    TINY_TEXT,
    Family,
    Vision,
    beside_tower,
    without,
)
from vlmforge.models.qwen2 import QWEN2

INTERNVL = Family(
    name="internvl",
    model_type="internvl",
    architecture="InternVLForConditionalGeneration",
    fields={
        "text_config": (dict,),
        "vision_config": (dict,),
        "image_token_id": (int,),
        "image_seq_length": (int,),
        "downsample_ratio": (float,),
        "projector_hidden_act": (str,),
        "vision_feature_layer": (int,),
        "vision_feature_select_strategy": (str,),
        "tie_word_embeddings": (bool,),
    },
    sections={
        "text_config": {**without(QWEN2.fields, "tie_word_embeddings"), "model_type": (str,)},
        "vision_config": {
            "hidden_size": (int,),
            "intermediate_size": (int,),
            "num_hidden_layers": (int,),
            "num_attention_heads": (int,),
            "attention_bias": (bool,),
            "use_qk_norm": (bool,),
            "hidden_act": (str,),
            "hidden_dropout_prob": (float, int),
            "attention_dropout": (float, int),
            "projection_dropout": (float, int),
            "norm_type": (str,),
            "layer_norm_eps": (float,),
            "image_size": (list, tuple, int),
            "patch_size": (list, tuple, int),
            "num_channels": (int,),
            "use_mask_token": (bool,),
            "use_absolute_position_embeddings": (bool,),
            "layer_scale_init_value": (float,),
            "use_mean_pooling": (bool,),
            "initializer_range": (float, int),
        },
    },
    decoder="model.language_model",
    groups={
        "vision_tower": "model.vision_tower",
        "projector": "model.multi_modal_projector",
        "language_model": "",
    },
    renamed=(
        ("language_model.lm_head.", "lm_head."),
        ("language_model.model.", "model.language_model."),
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ),
    sharding=beside_tower({**SHARDED_ATTENTION, **SHARDED_MLP}, "model.vision_tower", "model.multi_modal_projector"),
    vision=Vision(
        layers="model.vision_tower.encoder.layer",
        rule="tiles",
        keys={"max_tiles": 12},
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    tiny={
        "text_config": {**TINY_TEXT, "model_type": "qwen2"},
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [32, 32],
            "patch_size": [8, 8],
        },
        "image_token_id": TINY_IMAGE_IDS["image_token_id"],
        "image_seq_length": 4,
    },
    tiny_drops=("text_config.layer_types",),
)
