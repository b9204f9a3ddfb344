"""A tiny base model with its tokenizer, made by plain transformers, and an adapter on it, made by plain peft."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig

from vlmforge.config.chat_templates import CHAT_TEMPLATES
from vlmforge.config.schema import ModelConfig
from vlmforge.models import FAMILIES
from vlmforge.models.build import auto_class
from vlmforge.models.shape import build_hf_config
from vlmforge.models.tokenizer import build_byte_tokenizer
from vlmforge.models.towers import TOWERS

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# Windows and chunks are shorter than the samples of the tests, and caps low enough to bend scores and logits.
EXTRA_FIELDS = {
    "llama": {"rope_theta": 5e5, "rope_scaling": LLAMA3_ROPE, "tie_word_embeddings": False},
    "llama4": {"attention_chunk_size": 7, "floor_scale": 5, "use_qk_norm": True},
    "mistral": {"sliding_window": 7},
    "qwen2": {"rope_theta": 1e6, "tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 7},
    "qwen3": {"rope_theta": 1e6, "use_sliding_window": True, "sliding_window": 7},
    "qwen3_moe": {"norm_topk_prob": True},
    "gemma": {},
    "gemma2": {
        "query_pre_attn_scalar": 16,
        "sliding_window": 7,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3": {
        "query_pre_attn_scalar": 16,
        "sliding_window": 7,
        "rope_theta": 1e4,
        "rope_local_base_freq": 100.0,
        "final_logit_softcapping": 3.0,
    },
    "seed_oss": {"attention_dropout": 0.0, "residual_dropout": 0.0},
    "qwen2_5_vl": {"tie_word_embeddings": True},
    "qwen3_vl": {"tie_word_embeddings": True},
    "qwen3_vl_moe": {"tie_word_embeddings": False},
    # With norms over queries and keys, as the tower of 6B parameters has them.
    "stitched": {},
    "internvl": {"tie_word_embeddings": False, "vision_config": {"use_qk_norm": True, "norm_type": "rms_norm"}},
}

EXTRA_TOWER_FIELDS = {
    "internvit": {"use_qk_norm": True, "norm_type": "rms_norm", "qkv_bias": False},
    # Places drawn at random are no two runs' the same.
    "radio": {"num_cls_tokens": 3, "num_registers": 5, "crops_positions": False},
}


def merge(fields: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with others over them, those of sections too."""
    both = {name: merge(fields[name], value) for name, value in more.items() if isinstance(fields.get(name), dict)}
    return {**fields, **more, **both}


def stitched_fields(tower: str, text: str) -> dict[str, Any]:
    """The tiny stitched model of a tower, by the beginning of its model_type, and a language model's family."""
    kind = next(kind for kind in TOWERS if kind.removeprefix("vlmforge_").startswith(tower))
    types = {"text_config": {"model_type": FAMILIES[text].model_type}, "vision_config": {"model_type": kind}}
    extra = {"text_config": EXTRA_FIELDS[text], "vision_config": EXTRA_TOWER_FIELDS.get(tower, {})}
    tied = extra["text_config"].get("tie_word_embeddings", False)
    text_fields = {name: value for name, value in extra["text_config"].items() if name != "tie_word_embeddings"}
    more = {**extra, "text_config": text_fields, "tie_word_embeddings": tied}
    return merge(FAMILIES["stitched"].narrow(types).tiny, more)


def load_plain(folder: Path) -> Any:
    """What plain transformers makes of a folder."""
    return auto_class(AutoConfig.from_pretrained(folder)).from_pretrained(folder)


def make_base(folder: Path, family: str) -> Path:
    """Random weights, larger than usual so that attention and positions matter.

    Of a stitched model the tower and the language model may be named: `stitched-radio-qwen2`.
    """
    torch.manual_seed(0)
    name, _, parts = family.partition("-")
    fields = merge(FAMILIES[name].tiny, EXTRA_FIELDS[name])
    if parts:
        fields = stitched_fields(*parts.split("-"))
    for section in FAMILIES[name].sections:
        fields[section] = {**fields[section], "initializer_range": 0.1}
    if not FAMILIES[name].sections:
        fields["initializer_range"] = 0.1
    shape = build_hf_config(ModelConfig(family=name, config=fields))
    model: Any = auto_class(shape).from_config(shape)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer = build_byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATES["builtin:chatml"].text
    tokenizer.save_pretrained(folder)
    return folder


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
# To peft, all linear modules of a model with experts are the experts and the router too.
TARGETS = {
    "qwen3_moe": ATTENTION,
    "stitched-clip-qwen3_moe": [*ATTENTION, "out_proj", "fc1", "fc2", "linear_1", "linear_2"],
    "qwen3_vl_moe": [*ATTENTION, "qkv", "attn.proj", "linear_fc1", "linear_fc2"],
    "llama4": [*ATTENTION, "gate_proj", "up_proj", "down_proj"],
}


def make_adapter(folder: Path, base: Path) -> Path:
    """Both matrices random: with peft's zero B the gradient of A would be zero, and prove nothing."""
    torch.manual_seed(1)
    family = base.name
    model = load_plain(base)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=TARGETS.get(family, "all-linear"),
        task_type="CAUSAL_LM",
    )
    peft_model = get_peft_model(model, config)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    peft_model.save_pretrained(str(folder))
    return folder
