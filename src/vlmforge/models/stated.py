"""What the config.json of a part, or of a published model, says that no tensor's shape shows: it must be ours too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmforge.checkpoint.store import read_json
from vlmforge.config.encode import scalar_text
from vlmforge.config.plain import is_section
from vlmforge.errors import CheckpointError, ConfigError, Problem, one_of
from vlmforge.models.published import describe
from vlmforge.models.stitched import LANGUAGE_MODELS, STITCHED
from vlmforge.models.stitched_files import LAYOUTS, Layout

# Paths in a published config.json, and in a stitched one.
PUBLISHED: Mapping[str, str] = {
    "force_image_size": "vision_config.image_size",
    "patch_size": "vision_config.patch_size",
    "downsample_ratio": "downsample_ratio",
    "llm_config.num_attention_heads": "text_config.num_attention_heads",
    "llm_config.num_key_value_heads": "text_config.num_key_value_heads",
    "llm_config.rms_norm_eps": "text_config.rms_norm_eps",
    "llm_config.hidden_act": "text_config.hidden_act",
    "llm_config.rope_theta": "text_config.rope_theta",
    "llm_config.rope_scaling.factor": "text_config.rope_scaling.factor",
    "llm_config.rope_scaling.low_freq_factor": "text_config.rope_scaling.low_freq_factor",
    "llm_config.rope_scaling.high_freq_factor": "text_config.rope_scaling.high_freq_factor",
    "llm_config.rope_scaling.original_max_position_embeddings": (
        "text_config.rope_scaling.original_max_position_embeddings"
    ),
    "vision_config.num_attention_heads": "vision_config.num_attention_heads",
    "vision_config.hidden_act": "vision_config.hidden_act",
    "vision_config.norm_type": "vision_config.norm_type",
    "vision_config.layer_norm_eps": "vision_config.layer_norm_eps",
    "vision_config.qk_normalization": "vision_config.use_qk_norm",
}
# What this version reads of what a published config.json could say.
FIXED: Mapping[str, Any] = {"ps_version": "v2", "select_layer": -1}
TEXT_FIELDS = (
    "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "hidden_act", "hidden_activation",
    "sliding_window", "query_pre_attn_scalar", "final_logit_softcapping", "num_experts_per_tok", "norm_topk_prob",
)  # fmt: skip
TOWER_FIELDS = ("num_attention_heads", "hidden_act", "norm_type", "layer_norm_eps", "patch_size")


def read_config(folder: Path, key: str) -> dict[str, Any]:
    """The config.json of a model folder.

    Args:
        folder: of the model.
        key: what named it, for messages.

    Raises:
        CheckpointError: there is none, or it is broken.
    """
    return read_json(folder / "config.json", "is no model folder", f"give a folder with a config.json as {key}=")


def layout_of(stored: Mapping[str, Any], folder: Path) -> Layout:
    """The layout whose models have this config.json.

    Raises:
        CheckpointError: no published model has.
    """
    kind = stored.get("model_type")
    for layout in LAYOUTS.values():
        if layout.model_type == kind:
            return layout
    known = one_of([layout.model_type for layout in LAYOUTS.values()])
    fix = "give tower= and language_model= instead"
    if kind == STITCHED.model_type:
        fix = "nothing: it is a stitched model already; layout= writes it as a published one"
    raise CheckpointError(
        Problem(f"{folder} is of model_type {kind}; convert reads {known}", str(folder / "config.json"), fix)
    )


def check_published(stored: Mapping[str, Any], shape: Any, layout: Layout, folder: Path) -> None:
    """Refuse to read a published model as one of another structure.

    Args:
        stored: its config.json.
        shape: of the stitched model that it shall become.
        layout: its own.
        folder: of the model.

    Raises:
        ConfigError: they differ.
    """
    own, where = describe(layout, shape), str(folder / "config.json")
    problems = [
        _differ(f"model.config.{field}", _look_up(own, path), path, said, where)
        for path, field in PUBLISHED.items()
        if (said := _look_up(stored, path)) not in (None, _look_up(own, path))
    ]
    for path, expected in FIXED.items():
        if (said := stored.get(path, expected)) != expected:
            what = f"{path} = {scalar_text(said)} in config.json; this version reads {scalar_text(expected)}"
            problems.append(Problem(what, where, "another checkpoint"))
    if problems:
        raise ConfigError(problems)


def check_text(stored: Any, shape: Any, folder: Path) -> None:
    """Refuse to join a language model as one of another structure.

    Args:
        stored: the language model's own config.
        shape: `text_config` of the stitched model.
        folder: of the language model.

    Raises:
        ConfigError: they differ.
    """
    if stored.model_type != shape.model_type:
        raise ConfigError(_of_another_type(stored.model_type, shape.model_type, str(folder)))
    said, have = _text_facts(stored), _text_facts(shape)
    problems = [
        _differ(f"model.config.text_config.{name}", have.get(name), name, said.get(name), str(folder))
        for name in {**said, **have}
        if said.get(name) != have.get(name)
    ]
    if problems:
        raise ConfigError(problems)


def _of_another_type(said: str, have: str, where: str) -> Problem:
    """What else differs follows from that, and a model that sees has not even the fields."""
    if said in LANGUAGE_MODELS:
        return _differ("model.config.text_config.model_type", have, "model_type", said, where)
    what = f"language_model = {where} is of model_type {said}; towers stand before {one_of(list(LANGUAGE_MODELS))}"
    return Problem(what, where, f"language_model= a folder or hub id of model_type {have}")


def _text_facts(text: Any) -> dict[str, Any]:
    """Fields of a language model's config, those of rotary positions by the names that a recipe gives them."""
    facts = {name: getattr(text, name) for name in TEXT_FIELDS if hasattr(text, name)}
    family = LANGUAGE_MODELS.get(text.model_type)
    bases = (family and family.rope_by_layer_type) or {"": "rope_theta"}
    ropes: dict[str, Any] = dict(text.rope_parameters or {})
    for kind, base in bases.items():
        rope = dict(ropes.get(kind) or {}) if kind else ropes
        facts[base] = rope.pop("rope_theta", None)
        scaling = "rope_scaling" if base == "rope_theta" else f"rope_parameters.{kind}"
        facts |= {f"{scaling}.{name}": value for name, value in rope.items() if value is not None}
    return facts


def check_tower(stored: Mapping[str, Any], shape: Any, folder: Path) -> None:
    """Refuse to join a tower as one of another structure.

    Args:
        stored: config.json of its folder, which may be that of a whole model.
        shape: `vision_config` of the stitched model.
        folder: of the tower.

    Raises:
        ConfigError: they differ in a field that both have.
    """
    inner = stored.get("vision_config")
    if not is_section(inner) and (said := stored.get("model_type")) in LANGUAGE_MODELS:
        what = f"tower = {folder} is of model_type {said}, a language model without a tower"
        raise ConfigError(Problem(what, str(folder / "config.json"), "give a tower's folder, or tower=random"))
    _compare(inner if is_section(inner) else stored, shape, TOWER_FIELDS, "vision_config", folder)


def _compare(said: Mapping[str, Any], shape: Any, names: Sequence[str], section: str, folder: Path) -> None:
    problems = [
        _differ(f"model.config.{section}.{name}", have, name, said[name], str(folder))
        for name in names
        if said.get(name) is not None and (have := getattr(shape, name, None)) not in (None, said[name])
    ]
    if problems:
        raise ConfigError(problems)


def _differ(path: str, have: Any, name: str, said: Any, where: str) -> Problem:
    what = f"{path} = {scalar_text(have)}, and config.json has {name} = {scalar_text(said)}"
    return Problem(what, where, f"{path}={scalar_text(said)}")


def _look_up(fields: Mapping[str, Any], path: str) -> Any:
    found: Any = fields
    for name in path.split("."):
        found = found.get(name) if is_section(found) else None
    return found
