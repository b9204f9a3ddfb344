"""The config.json of published models, written as their readers want it.

The readers are the code beside the released weights and vLLM. Part of a model is fixed in that code and in no field:
InternViT's heads of zeros, the projector's norm and biases. A model that differs there is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vlmforge.config.encode import scalar_text
from vlmforge.config.plain import merge
from vlmforge.errors import ConfigError, Problem
from vlmforge.models.stitched import STITCHED
from vlmforge.models.stitched_files import Layout

# Where C-RADIO's own code is, which readers of the model from 2025 run; and what the code builds a tower of this shape
# from: width, blocks and heads.
RADIO_CODE = "nvidia/C-RADIOv2-H--hf_model"
RADIO_NAMES = {(1280, 32, 16): "vit_huge_patch16_224"}


def check_publishable(layout: Layout, shape: Any, where: str) -> None:
    """Refuse to write a model that the readers of a layout would take for another.

    Raises:
        ConfigError: it differs from what their code fixes; all differences are told.
    """
    problems = [Problem(f"layout = {layout.name}: {what}", where, fix) for what, fix in _misfits(layout, shape)]
    if problems:
        raise ConfigError(problems)


def _misfits(layout: Layout, shape: Any) -> Iterator[tuple[str, str]]:
    """What readers would not understand, each with what to do."""
    other = "export another model, or take another layout"
    tower, text = getattr(shape, "vision_config", None), getattr(shape, "text_config", None)
    kinds = tuple(getattr(part, "model_type", None) for part in (tower, text))
    if shape.model_type != STITCHED.model_type or kinds != (layout.tower, layout.text):
        found = f"{kinds[0]} and {kinds[1]}" if shape.model_type == STITCHED.model_type else shape.model_type
        yield f"it is for stitched models of {layout.tower} and {layout.text}, and this is {found}", other
        return
    retrain = "train a model with it from the start"
    expected = {"projector_norm": "layer_norm", "projector_bias": layout.projector_bias, "projector_hidden_act": "gelu"}
    expected |= {"drop_class_tokens": True}
    if layout.projector_width is not None:
        expected["projector_hidden_size"] = getattr(text, layout.projector_width)
    for name, value in expected.items():
        have = getattr(shape, name)
        if have != value:
            yield f"its readers have {name} = {scalar_text(value)}, and this model {scalar_text(have)}", retrain
    yield from _misfit_heads(layout, tower, retrain)


def _misfit_heads(layout: Layout, tower: Any, fix: str) -> Iterator[tuple[str, str]]:
    head_dim = getattr(tower, "head_dim", None)
    if head_dim is not None and head_dim * tower.num_attention_heads != tower.hidden_size:
        product = f"{tower.num_attention_heads} heads of {head_dim}"
        yield f"its readers share the tower's width of {tower.hidden_size} among the heads, and here are {product}", fix
    dummies = getattr(tower, "num_dummy_heads", 0)
    if dummies not in (0, layout.num_dummy_heads):
        yield f"its readers have {layout.num_dummy_heads} heads of zeros, and this tower has {dummies}", fix


def list_habits(layout: Layout, seen: Mapping[str, Any]) -> list[str]:
    """What readers of a layout do with a picture whatever a model was trained with, where this one was not.

    Args:
        layout: of the files.
        seen: the model's processor.
    """
    return [
        f"readers of {layout.name} have {name} = {habit}, and this model was trained with {seen[name]}"
        for name, habit in layout.habits.items()
        if seen[name] != habit
    ]


def published_config(layout: Layout, shape: Any, seen: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a published model: the one that it was read with, if it was, with its own fields over that.

    Args:
        layout: of the files.
        shape: the stitched model's config.
        seen: `max_tiles`, `thumbnail` and `image_tag` of its processor.
    """
    usual = _usual_nvlm_d() if layout.name == "nvlm_d" else _usual_nemotron(shape.vision_config)
    # As a file has it: numbers that are keys become text, as they are in what was read.
    own = json.loads(json.dumps(describe(layout, shape)))
    tiles = {"max_dynamic_patch": seen["max_tiles"], "use_thumbnail": seen["thumbnail"]}
    tags = {"use_thumbnail": seen["thumbnail"], "image_tag_type": seen["image_tag"]}
    return merge(merge(usual, shape.published or {}), {**own, **(tiles if layout.name == "nvlm_d" else tags)})


def describe(layout: Layout, shape: Any) -> dict[str, Any]:
    """What follows from a model's own config."""
    tower = shape.vision_config
    common = {
        "architectures": [layout.model_type],
        "model_type": layout.model_type,
        "torch_dtype": "bfloat16",
        "downsample_ratio": shape.downsample_ratio,
        "force_image_size": tower.image_size,
        "ps_version": "v2",
        "llm_config": _describe_text(shape.text_config, layout.scaling_key),
    }
    if layout.name == "nvlm_d":
        return {**common, "select_layer": -1, "vision_config": _describe_internvit(tower)}
    return {
        **common,
        "patch_size": tower.patch_size,
        "vit_hidden_size": tower.hidden_size,
        "projector_hidden_size": shape.projector_hidden_size,
        "vision_config": {"patch_size": tower.patch_size, "max_resolution": tower.max_img_size},
    }


def _describe_text(text: Any, scaling_key: str) -> dict[str, Any]:
    """A language model's fields as files of before transformers 5 have them."""
    fields = text.to_dict()
    rope = dict(fields.pop("rope_parameters", None) or {})
    theta, kind = rope.pop("rope_theta", None), rope.pop("rope_type", "default")
    for name in ("dtype", "layer_types", "transformers_version"):
        fields.pop(name, None)
    return {
        **fields,
        "architectures": [{"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}[text.model_type]],
        "rope_theta": theta,
        "rope_scaling": None if kind == "default" else {scaling_key: kind, **rope},
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def _describe_internvit(tower: Any) -> dict[str, Any]:
    same = (
        "attention_dropout", "hidden_act", "hidden_size", "image_size", "intermediate_size", "layer_norm_eps",
        "norm_type", "num_attention_heads", "num_channels", "num_hidden_layers", "patch_size", "qkv_bias",
    )  # fmt: skip
    fields = {name: getattr(tower, name) for name in same}
    return {**fields, "qk_normalization": tower.use_qk_norm, "initializer_factor": tower.layer_scale_init_value}


def _usual_nvlm_d() -> dict[str, Any]:
    """What nothing in a model says, as the published one has it."""
    tower = {"architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "torch_dtype": "bfloat16"}
    rates = {"dropout": 0.0, "drop_path_rate": 0.0, "initializer_range": 0.02, "use_flash_attn": True}
    image = {"min_dynamic_patch": 1, "dynamic_image_size": True, "template": "chatml"}
    return {**image, "vision_config": {**tower, **rates}}


def _usual_nemotron(tower: Any) -> dict[str, Any]:
    """The same of the other; of `args`, by which C-RADIO's code builds a tower, what is known."""
    args = {
        "cls_token_per_teacher": True,
        "cpe_max_size": tower.max_img_size,
        "register_multiple": tower.num_cls_tokens + tower.num_registers,
    }
    name = RADIO_NAMES.get((tower.hidden_size, tower.num_hidden_layers, tower.num_attention_heads))
    inner = {
        "architectures": ["RADIOModel"],
        "auto_map": {"AutoConfig": f"{RADIO_CODE}.RADIOConfig", "AutoModel": f"{RADIO_CODE}.RADIOModel"},
        "version": "c-radio_v2-vlm-h",
        "args": {**args, **({"model": name} if name else {})},
        "torch_dtype": "bfloat16",
    }
    return {"vision_config": inner}
