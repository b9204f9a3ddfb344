"""What validate says of stitched models before anything is built."""

from __future__ import annotations

import pytest

from vlmforge.commands.configuring import load_config
from vlmforge.commands.request import Request
from vlmforge.errors import ConfigError


def refusal(recipe: str, *overrides: str) -> str:
    request = Request("validate", {"recipe": [recipe], "check_data": ["false"], "world_size": ["8"]}, overrides)
    with pytest.raises(ConfigError) as refused:
        load_config(request, environ={})
    return refused.value.report()


@pytest.mark.parametrize(
    ("recipe", "override", "told"),
    [
        (
            "mistral_clip/sft",
            "model.config.vision_config.model_type=clip",
            "must be clip_vision_model, siglip_vision_model, vlmforge_internvit or vlmforge_radio",
        ),
        (
            "mistral_clip/sft",
            "model.config.vision_config.use_qk_norm=true",
            "stitched's vision_config has no such field",
        ),
        (
            "mistral_clip/sft",
            "model.config.text_config.attention_bias=true",
            "stitched's text_config has no such field",
        ),
        ("mistral_clip/sft", "model.config.projector_hidden_size=8.5", "must be a whole number"),
        ("mistral_clip/sft", "model.image.max_pixels=4096", "has no effect on family stitched"),
        ("mistral_clip/sft", "model.image.tile_tags=default", "the last tag is that of the thumbnail"),
        ("mistral_clip/sft", "model.image.special_tokens=[]", "its first token stands for pictures"),
        ("mistral_clip/sft", "stage.trainable=[vision]", "no group vision"),
        ("nemotron_nano_vl_8b/sft", "stage.frozen_in_eval=false", "there is no vision tower that is frozen"),
        ("nemotron_nano_vl_8b/sft", "parallelism.tp=5", "must divide model num_attention_heads = 32"),
        ("nemotron_nano_vl_8b/sft", "parallelism.cp=5", "/ tp = 32 / 4 = 8"),
        ("mistral_clip/pretrain", "stage.optimizer.group_lr.vision_tower=1e-6", "[projector] freezes the group"),
        ("mistral_clip/sft", "stage.optimizer.group_lr.tower=1e-6", "there is no such key"),
        ("llama3p1_8b/pretrain_text", "stage.optimizer.group_lr.language_model=1e-6", "llama is one group"),
        ("nvlm/sft_yi_34b_internvit_6b", "stage.schedule.decay_samples=99", "must lie after warmup_samples = 83200"),
        ("mistral_clip/sft", "model.image.tokenization=hf", "has no effect without model.image.tile_tags"),
        ("nemotron_nano_vl_8b/sft", "model.cache_image_embeds=true", "needs a frozen vision tower"),
        ("qwen3_vl_2b/sft", "model.cache_image_embeds=true", "only stitched models have it"),
        ("mistral_clip/sft", "model.image_cache_gib=5", "has no effect with model.cache_image_embeds = false"),
        ("mistral_clip/sft", "model.config.projector_type=mistral", "mistral must be internvl, llama3.1_8b"),
        ("mistral_clip/sft", "model.config.projector_norm=layernorm", "must be layer_norm, rms_norm or none"),
        ("nvlm/sft_yi_34b_internvit_6b", "model.config.vision_config.norm_type=rms", "must be layer_norm or rms_norm"),
        ("mistral_clip/sft", "model.config.downsample_ratio=0.4", "or a whole number's inverse such as 0.5"),
        (
            "nvlm/generate_qwen2p5_7b_siglip",
            "model.config.vision_config.image_size=384",
            "27 x 27 patches of 14 pixels, which do not fold 2 x 2",
        ),
        ("nvlm/sft_yi_34b_internvit_6b", "model.config.drop_class_tokens=false", "a class token has no place among"),
        ("nemotron_nano_vl_8b/sft", "model.config.drop_class_tokens=false", "a class token has no place among"),
        (
            "nemotron_nano_vl_8b/sft",
            "model.config.vision_config.image_size=500",
            "image_size = 500 must be a multiple of patch_size = 16",
        ),
        (
            "mistral_clip/sft",
            "model.config.vision_config.num_attention_heads=7",
            "vision_config.num_attention_heads = 7 must divide hidden_size = 1024",
        ),
        ("qwen3_vl_2b/sft", "model.image.thumbnail=true", "has no effect on family qwen3_vl"),
    ],
)
def test_what_does_not_fit_is_refused(recipe: str, override: str, told: str) -> None:
    assert told in refusal(recipe, override)


def test_what_makes_no_tokens_is_told_all_at_once_with_what_works() -> None:
    at = "model.config"
    told = refusal(
        "nvlm/sft_yi_34b_internvit_6b",
        f"{at}.vision_config.image_size=378",
        f"{at}.drop_class_tokens=false",
        f"{at}.projector_type=yi_34b",
        f"{at}.projector_norm=layernorm",
    )
    for fix in (
        f"{at}.vision_config.image_size=392, or {at}.downsample_ratio=1.0",
        f"{at}.drop_class_tokens=true, or {at}.downsample_ratio=1.0",
        f"{at}.projector_type=yi-34b",
        f"{at}.projector_norm=layer_norm",
    ):
        assert f"fix:   {fix}" in told
