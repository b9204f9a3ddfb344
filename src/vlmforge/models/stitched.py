"""Stitched models: a vision tower, pixel shuffle, a projector and a language model, each of any kind (NVLM, LLaVA).

The class is ours (`stitched_model.py`). The family here holds what all combinations share; `STITCHED.narrow` gives the
family of one combination, made of the tower's value and the language model's own family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from vlmforge.config.plain import is_section
from vlmforge.models.family import HALF, TINY_TEXT, Family, Tiles, Vision, below, without
from vlmforge.models.gemma import GEMMA
from vlmforge.models.gemma3 import GEMMA3
from vlmforge.models.llama import LLAMA
from vlmforge.models.mistral import MISTRAL
from vlmforge.models.projectors import NORMS, PROJECTORS
from vlmforge.models.qwen2 import QWEN2
from vlmforge.models.qwen3 import QWEN3
from vlmforge.models.qwen3_moe import QWEN3_MOE
from vlmforge.models.seed_oss import SEED_OSS
from vlmforge.models.towers import TOWERS

# In the place of a tower's folder, for one that is drawn.
RANDOM = "random"

# Language models that were compared, by the `model_type` of `text_config`; transformers' classes of Gemma 2 and Llama 4
# have not the attention that towers run with.
LANGUAGE_MODELS: Mapping[str, Family] = {
    family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, SEED_OSS, GEMMA, GEMMA3, QWEN3_MOE)
}

TOWER_PATH, PROJECTOR_PATH, TEXT_PATH = "model.vision_tower", "model.projector", "model.language_model"

_FIELDS: Mapping[str, tuple[type, ...]] = {
    "text_config": (dict,),
    "vision_config": (dict,),
    "image_token_id": (int,),
    "downsample_ratio": (float,),
    "drop_class_tokens": (bool,),
    "projector_type": (str,),
    "projector_hidden_size": (int,),
    "projector_norm": (str,),
    "projector_norm_eps": (float,),
    "projector_bias": (bool,),
    "projector_hidden_act": (str,),
    "initializer_range": (float, int),
    "tie_word_embeddings": (bool,),
}

# With room for the tokens that are added to the 264 of `builtin:bytes`; the first of them stands for a picture.
TINY_ROWS = 288


def _text_fields(family: Family) -> dict[str, tuple[type, ...]]:
    return {**without(family.fields, "tie_word_embeddings"), "model_type": (str,)}


def _model_type(fields: Mapping[str, Any], section: str) -> str:
    inner = fields.get(section)
    return str(inner.get("model_type")) if is_section(inner) else ""


def _choose(fields: Mapping[str, Any]) -> Family:
    """The family of a config's own tower and language model; the general one where it names others."""
    tower = TOWERS.get(_model_type(fields, "vision_config"))
    text = LANGUAGE_MODELS.get(_model_type(fields, "text_config"))
    return STITCHED if tower is None or text is None else _stitch(tower.model_type, text.model_type)


@lru_cache
def _stitch(tower_type: str, text_type: str) -> Family:
    tower, text = TOWERS[tower_type], LANGUAGE_MODELS[text_type]
    assert STITCHED.vision is not None, "stitched models see"
    vision = replace(STITCHED.vision, layers=f"{TOWER_PATH}.{tower.layers}", mean=tower.mean, std=tower.std)
    return replace(
        STITCHED,
        choose=None,
        sections={"text_config": _text_fields(text), "vision_config": tower.fields},
        required=text.required,
        attentions=text.attentions,
        rope_by_layer_type=text.rope_by_layer_type,
        lean=text.lean,
        not_adapted=text.not_adapted,
        fused=text.fused,
        swapped=text.swapped,
        sharding={
            **below(TEXT_PATH, text.sharding),
            TOWER_PATH: "replicated",
            PROJECTOR_PATH: "replicated",
        },
        vision=vision,
        tiles=Tiles(tower.num_prefix_tokens, tower.needs_whole_patches),
        choices={**STITCHED.choices, **{f"vision_config.{name}": values for name, values in tower.choices.items()}},
        tiny={
            **STITCHED.tiny,
            "text_config": {**text.tiny, "vocab_size": TINY_ROWS, "model_type": text_type},
            "vision_config": {**tower.tiny, "model_type": tower_type},
        },
        tiny_drops=tuple(f"text_config.{name}" for name in text.tiny_drops),
    )


def _any_of(tables: list[Mapping[str, tuple[type, ...]]]) -> dict[str, tuple[type, ...]]:
    """Fields that some part may have."""
    return {name: types for table in tables for name, types in table.items()}


STITCHED = Family(
    name="stitched",
    model_type="vlmforge_stitched",
    architecture="StitchedForConditionalGeneration",
    fields=_FIELDS,
    sections={
        "text_config": _any_of([_text_fields(family) for family in LANGUAGE_MODELS.values()]),
        "vision_config": _any_of([tower.fields for tower in TOWERS.values()]),
    },
    parts={"text_config": tuple(LANGUAGE_MODELS), "vision_config": tuple(TOWERS)},
    decoder=TEXT_PATH,
    groups={"vision_tower": TOWER_PATH, "projector": PROJECTOR_PATH, "language_model": ""},
    vision=Vision(
        layers=f"{TOWER_PATH}.encoder.layers",
        rule="stitched",
        keys={
            "max_tiles": 12,
            "tile_selector": "closest",
            "thumbnail": True,
            "tile_tags": "none",
            "tokenization": "megatron",
            "image_tag": "none",
            "special_tokens": ("<image>",),
        },
        mean=HALF,
        std=HALF,
    ),
    choose=_choose,
    choices={"projector_type": tuple(PROJECTORS), "projector_norm": NORMS},
    tiny={
        "text_config": {**TINY_TEXT, "vocab_size": TINY_ROWS, "model_type": "llama"},
        "vision_config": {**TOWERS["clip_vision_model"].tiny, "model_type": "clip_vision_model"},
        "image_token_id": 264,
        "projector_hidden_size": 96,
    },
)
