"""Tiny models in the layouts of published ones: their files, their config.json, and the same model as overrides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.support.tiny import merge, stitched_fields
from vlmforge.config.chat_templates import CHAT_TEMPLATES
from vlmforge.config.schema import Config, ModelConfig
from vlmforge.models.build import build_on_meta
from vlmforge.models.stitch import make_buffers
from vlmforge.models.stitched_files import LAYOUTS, published_table
from vlmforge.models.tokenizer import build_byte_tokenizer

PARTS = {"nvlm_d": ("internvit", "qwen2"), "nemotron_nano_vl": ("radio", "llama")}
# Seven heads of zeros, a key-value head for each of four ranks, and a projector as the readers of each layout have it.
MORE: Mapping[str, dict[str, Any]] = {
    "nvlm_d": {
        "text_config": {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}},
        "vision_config": {"hidden_size": 48, "num_attention_heads": 3, "head_dim": 16, "num_dummy_heads": 7},
        "projector_type": "qwen2.0_72B",
        "projector_hidden_size": 128,
    },
    "nemotron_nano_vl": {
        "vision_config": {"hidden_act": "gelu_pytorch_tanh"},
        "projector_type": "llama3.1_8b",
    },
}


def fields_of(layout: str) -> dict[str, Any]:
    """`model.config` of the tiny model."""
    common = {"tie_word_embeddings": False, "text_config": {"num_key_value_heads": 4}}
    return merge(merge(stitched_fields(*PARTS[layout]), common), MORE[layout])


def published_json(layout: str) -> dict[str, Any]:
    """Its config.json, with the fields that the published one is known to have, and some that nothing here reads."""
    text, tower = fields_of(layout)["text_config"], fields_of(layout)["vision_config"]
    rope = text["rope_scaling"]
    llm = {name: value for name, value in text.items() if name not in ("rope_scaling", "model_type")}
    if layout == "nemotron_nano_vl":
        return {
            "architectures": ["Llama_Nemotron_Nano_VL"],
            "model_type": "Llama_Nemotron_Nano_VL",
            "force_image_size": 32,
            "patch_size": 8,
            "downsample_ratio": 0.5,
            "ps_version": "v2",
            "vit_hidden_size": 32,
            "projector_hidden_size": 96,
            "llm_config": {**llm, "model_type": "llama", "rope_scaling": rope},
            "vision_config": {
                "auto_map": {"AutoConfig": "owner/code--file.Config"}, "args": {"model": "vit_small", "lr": 1e-3},
                "patch_size": 8, "max_resolution": 64, "version": "a-radio",
            },
        }  # fmt: skip
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    return {
        "architectures": ["NVLM_D"],
        "model_type": "NVLM_D",
        "auto_map": {"AutoConfig": "configuration_nvlm_d.NVLM_D_Config"},
        "downsample_ratio": 0.5,
        "force_image_size": 32,
        "max_dynamic_patch": 2,
        "min_dynamic_patch": 1,
        "use_thumbnail": True,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "chatml",
        "llm_config": {**llm, "model_type": "qwen2", "rope_scaling": {"type": "dynamic", "factor": 3.0}},
        "vision_config": {
            "model_type": "intern_vit_6b", "qk_normalization": True, "norm_type": "rms_norm", "qkv_bias": False,
            "initializer_factor": 0.1, "initializer_range": 1e-10, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
            **{name: tower[name] for name in same},
        },
    }  # fmt: skip


def assert_has(found: Mapping[str, Any], expected: Mapping[str, Any], at: str = "") -> None:
    """All that is expected is there, at any depth; there may be more."""
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_has(found[name], value, f"{at}{name}.")
        else:
            assert found[name] == value, f"{at}{name}"


def make_published(folder: Path, layout_name: str) -> dict[str, torch.Tensor]:
    """Its folder, of random weights but for zeros in the heads that are none; returns the tensors."""
    layout = LAYOUTS[layout_name]
    model = build_on_meta(Config(model=ModelConfig(family="stitched", init="random", config=fields_of(layout_name))))
    torch.manual_seed(0)
    own = {name: torch.randn(parameter.shape) * 0.3 for name, parameter in model.named_parameters()}
    tower: Any = model.config.vision_config
    real = tower.num_attention_heads * getattr(tower, "head_dim", 0)
    for name, tensor in own.items():
        if ".attn." in name and "norm" not in name and tensor.ndim == 2:
            (tensor[:, real:] if ".proj." in name else tensor[real:]).zero_()
    tensors = {
        name: torch.cat([own[part] for part in owns]).to(layout.dtype(name))
        for name, owns in published_table(layout, list(own)).items()
    }
    folder.mkdir()
    save_file({**tensors, **dict(make_buffers(layout))}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(published_json(layout_name)))
    tokenizer = build_byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATES["builtin:chatml"].text
    tokenizer.save_pretrained(folder)
    return tensors


def overrides(fields: Mapping[str, Any]) -> list[str]:
    """A stitched model as overrides: a group file would have to lie beside a recipe."""
    words = ["model.family=stitched", "model.chat_template=builtin:chatml", "model.image.max_tiles=2"]

    def flat(at: str, value: Any) -> None:
        if isinstance(value, dict) and at.count(".") < 3 and "rope" not in at:
            for name, inner in value.items():
                flat(f"{at}.{name}", inner)
        else:
            text = json.dumps(value).replace('"', "") if isinstance(value, dict) else json.dumps(value)
            words.append(f"{at}={text}")

    flat("model.config", fields)
    return words
