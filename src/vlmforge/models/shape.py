"""The transformers config of a recipe: a folder's config.json, the recipe's own fields, or one over the other.

Rotary positions need care. transformers 5 keeps them in one field, `rope_parameters`; recipes and older files say
`rope_theta` and `rope_scaling`. Given to `from_pretrained` beside a stored file, those are ignored or wipe the new
field, so both sides are brought into the one form before they are merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from vlmforge.config.pretrained import nest, unwrap
from vlmforge.config.schema import ModelConfig
from vlmforge.errors import ConfigError, Problem, one_of
from vlmforge.models import FAMILIES
from vlmforge.models.family import Family
from vlmforge.models.hub import fetch_folder
from vlmforge.models.stitched_config import StitchedConfig as StitchedConfig  # makes AutoConfig know it

# Of a stored config: which attention runs is the recipe's to say, and a file could name code to be fetched.
NOT_FROM_FILES = ("attn_implementation", "_attn_implementation", "auto_map")


def find_family(shape: PretrainedConfig) -> Family:
    """The family of a transformers config, by its `model_type`.

    Raises:
        ConfigError: vlmforge has no file for it.
    """
    family = _family_of_type(shape.model_type, "model.config")
    return family.narrow({name: {"model_type": getattr(shape, name).model_type} for name in family.parts})


def plain_attention(shape: PretrainedConfig) -> str:
    """The fastest of transformers' own attentions that computes a model rightly, of a family or not."""
    for family in FAMILIES.values():
        if family.model_type == shape.model_type and "sdpa" not in family.attentions:
            return "eager"
    return "sdpa"


def build_hf_config(model: ModelConfig, is_offline: bool = False) -> PretrainedConfig:
    """The pretrained config with the recipe's fields over it, or the recipe's fields alone.

    Args:
        model: the recipe's model.
        is_offline: use the recipe's fields alone even where weights would be fetched from a hub.

    Raises:
        ConfigError: the folder is of a model type that vlmforge does not know.
        CheckpointError: the hub id cannot be fetched.
    """
    if model.pretrained is None or (is_offline and not Path(model.pretrained).is_dir()):
        assert model.family is not None, "gate 1 lets no recipe through that names neither weights nor a family"
        return _build(FAMILIES[model.family], {}, model.config)
    folder = fetch_folder(model.pretrained, with_weights=False, revision=model.revision)
    stored, _ = PretrainedConfig.get_config_dict(folder)
    stored = unwrap(stored, FAMILIES)
    family = _family_of_type(str(stored.pop("model_type", None)), str(folder / "config.json"))
    return _build(family, {k: v for k, v in stored.items() if k not in NOT_FROM_FILES}, model.config)


def _family_of_type(model_type: str, where: str) -> Family:
    for family in FAMILIES.values():
        if family.model_type == model_type:
            return family
    known = one_of([family.model_type for family in FAMILIES.values()])
    problem = Problem(
        f"model_type = {model_type} belongs to no model family that vlmforge knows",
        where,
        f"use a model of type {known}",
    )
    raise ConfigError(problem)


def _build(family: Family, stored: Mapping[str, Any], own: Mapping[str, Any]) -> PretrainedConfig:
    if not family.sections:
        return AutoConfig.for_model(family.model_type, **_merge(stored, own, family.rope_by_layer_type))
    stored, own = nest(stored, family), nest(own, family)
    family = family.narrow({name: {**stored.get(name, {}), **own.get(name, {})} for name in family.sections})
    # Of a stitched model its language model's.
    bases = family.rope_by_layer_type
    merged = {**stored, **own}
    for section in family.sections:
        kept, over = (
            {name: value for name, value in side.get(section, {}).items() if name not in NOT_FROM_FILES}
            for side in (stored, own)
        )
        merged[section] = _merge(kept, over, bases) if section == family.text_section else {**kept, **over}
    return AutoConfig.for_model(family.model_type, **merged)


def _merge(stored: Mapping[str, Any], own: Mapping[str, Any], bases: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a language model, one side over the other."""
    stored_rope, stored_rest = _split_rope(stored, bases)
    own_rope, own_rest = _split_rope(own, bases)
    ropes = {kind: _merge_rope(stored_rope[kind], own_rope[kind]) for kind in own_rope}
    if any(ropes.values()):
        own_rest["rope_parameters"] = {kind: rope for kind, rope in ropes.items() if rope} if bases else ropes[""]
    return {**stored_rest, **own_rest}


def _merge_rope(stored: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    # A recipe that states a scaling replaces the stored one; one that states only a base keeps it. Qwen2-VL's files
    # call positions of three parts a type of scaling.
    kept = {"rope_theta": stored.get("rope_theta")} if "rope_type" in own else stored
    rope = {name: value for name, value in {**kept, **own}.items() if value is not None}
    if rope:
        rope.setdefault("rope_type", "default")
    return rope


def _split_rope(
    fields: Mapping[str, Any], bases: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Everything about rotary positions in transformers 5's form, and the other fields.

    Args:
        fields: of a config.json or a recipe.
        bases: the family's kinds of layers with the field of each one's base, the kind that is scaled first; empty
            where all layers are alike, which are then the kind "".
    """
    rest = dict(fields)
    stated: dict[str, Any] = dict(rest.pop("rope_parameters", None) or {})
    rope: dict[str, dict[str, Any]] = {kind: dict(stated.get(kind) or {}) for kind in bases} or {"": stated}
    if "rope_scaling" in rest:
        scaling = dict(rest.pop("rope_scaling") or {"rope_type": "default"})
        # Files of before 2024 say `type`.
        scaling.setdefault("rope_type", scaling.pop("type", "default"))
        scaling["rope_type"] = "default" if scaling["rope_type"] == "mrope" else scaling["rope_type"]
        rope[next(iter(rope))] |= scaling
    for kind, name in (bases or {"": "rope_theta"}).items():
        if (theta := rest.pop(name, None)) is not None:
            rope[kind]["rope_theta"] = theta
    return rope, rest
