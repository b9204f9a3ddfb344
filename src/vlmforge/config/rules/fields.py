"""Rules of `model.config`: its fields are the family's, of their types, a shape together, and that of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from vlmforge.config.encode import scalar_text
from vlmforge.config.facts import FamilyFacts
from vlmforge.config.plain import is_section, is_whole_number
from vlmforge.config.pretrained import Shape, is_folder
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.errors import nearest, one_of

# Fields that decide the shape or the number of tensors; weights have theirs already.
SHAPE_FIELDS = frozenset(
    {
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "attention_bias",
        "attention_out_bias",
        "mlp_bias",
        "intermediate_size_mlp",
        "moe_intermediate_size",
        "num_experts",
        "num_local_experts",
        "decoder_sparse_step",
        "mlp_only_layers",
        "moe_layers",
        "interleave_moe_layer_step",
        "tie_word_embeddings",
        "depth",
        "num_heads",
        "patch_size",
        "spatial_merge_size",
        "temporal_patch_size",
        "out_hidden_size",
        "num_position_embeddings",
        "image_size",
        "downsample_ratio",
        "max_img_size",
        "num_cls_tokens",
        "num_registers",
        "num_dummy_heads",
        "mlp_ratio",
        "qkv_bias",
        "use_qk_norm",
        "projector_hidden_size",
        "projector_norm",
        "projector_bias",
    }
)


def check_fields(subject: Subject) -> Iterator[Finding]:
    """Every field of `model.config` is one of the family's, of its type, and none is missing."""
    model = subject.config.model
    shape = subject.shape()
    if shape is None or shape.family is None or shape.family not in subject.facts.families:
        return
    yield from _check_parts(subject, shape)
    family = subject.facts.families[shape.family].narrow(shape.fields)
    yield from _check_level(family.name, "model.config", model.config, family.fields, family.tiny)
    for section, fields in family.sections.items():
        values = model.config.get(section)
        if is_section(values):
            where = f"{family.name}'s {section}"
            yield from _check_level(where, f"model.config.{section}", values, fields, family.tiny[section])
    yield from _check_required(shape, family, is_known=is_folder(model.pretrained))


def _check_parts(subject: Subject, shape: Shape) -> Iterator[Finding]:
    """Of a family that takes parts of several kinds, each is of a kind that it knows."""
    for section, kinds in subject.facts.families[shape.family or ""].parts.items():
        inner = shape.fields.get(section)
        kind = inner.get("model_type") if is_section(inner) else None
        if is_section(inner) and kind not in kinds:
            path = f"model.config.{section}.model_type"
            near = nearest(str(kind), kinds)
            yield Finding(
                (path, f"model.config.{section}"),
                f"{path} = {scalar_text(kind)} must be {one_of(list(kinds))}",
                f"{path}={near[0] if near else next(iter(kinds))}",
            )


def _check_level(
    owner: str,
    at: str,
    values: Mapping[str, Any],
    fields: Mapping[str, tuple[type, ...]],
    tiny: Mapping[str, Any],
) -> Iterator[Finding]:
    """The fields of one section."""
    for name, value in values.items():
        path = f"{at}.{name}"
        if name not in fields:
            near = nearest(name, fields)
            yield Finding(
                (path,),
                f"{path} = {scalar_text(value)}: {owner} has no such field",
                f"use {one_of([f'{at}.{match}' for match in near])}" if near else f"remove {path}",
            )
        elif not _fits(value, fields[name]):
            yield Finding(
                (path,),
                f"{path} = {scalar_text(value)} must be {_type_names(fields[name])}",
                f"{path}={scalar_text(_example(tiny, name, fields[name]))}",
            )


def _check_required(shape: Shape, family: FamilyFacts, *, is_known: bool) -> Iterator[Finding]:
    """What the shape cannot do without is there, and no count is below 1."""
    tiny = family.tiny.get(family.text_section, family.tiny)
    for section in family.sections:
        if section not in shape.fields and not is_known:
            path = f"model.config.{section}"
            yield Finding(
                (path, "model.pretrained"),
                f"{path} is not set, and the shape of a {family.name} model needs it",
                "choose a model file: model=qwen3_vl_2b",
            )
    for name in family.required:
        path, value = f"{shape.text_path}.{name}", shape.fields.get(name)
        if name not in shape.fields and not is_known:
            yield Finding(
                (path, "model.pretrained"),
                f"{path} is not set, and the shape of a {family.name} model needs it",
                f"{path}={scalar_text(tiny.get(name, 1))}, or choose a model file: model=smollm2_135m",
            )
        elif is_whole_number(value) and value < 1:
            yield Finding((path,), f"{path} = {value} must be at least 1", f"{path}={scalar_text(tiny.get(name, 1))}")


def _fits(value: object, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types)


def _type_names(types: tuple[type, ...]) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        dict: "a mapping",
        list: "a list",
        tuple: "a list",
        type(None): "null",
    }
    names = dict.fromkeys(words[item] for item in types if not (item is int and float in types))
    return one_of(list(names))


def _example(tiny: Mapping[str, Any], name: str, types: tuple[type, ...]) -> Any:
    plain: Mapping[type, Any] = {int: 1, float: 1.0, bool: False, str: "silu", dict: None, list: None}
    return tiny[name] if name in tiny else plain.get(types[0])


def check_shape_of_weights(subject: Subject) -> Iterator[Finding]:
    """Weights keep their shape: a field that changes a tensor's is refused while weights are loaded."""
    model = subject.config.model
    shape = subject.shape()
    if shape is None or model.init != "pretrained" or model.pretrained is None:
        return
    for path, value, own in _both(model.config, shape.reference, "model.config"):
        if path.rpartition(".")[2] in SHAPE_FIELDS and own != value and type(own) is type(value):
            yield Finding(
                (path,),
                f"{path} = {scalar_text(value)} does not fit the weights of {model.pretrained}, which have "
                f"{scalar_text(own)}",
                f"remove {path}, or train from random weights: model.init=random",
            )


def _both(own: Mapping[str, Any], reference: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any, Any]]:
    """Path, value and reference of every field that both have, those of sections too."""
    for name, value in own.items():
        other = reference.get(name)
        if is_section(value) and is_section(other):
            yield from _both(value, other, f"{at}.{name}")
        else:
            yield f"{at}.{name}", value, other


def check_heads(subject: Subject) -> Iterator[Finding]:
    """Attention heads divide the hidden size, key-value heads divide the heads."""
    shape = subject.shape()
    if shape is None:
        return
    at = shape.text_path
    hidden, heads, groups = (
        shape.fields.get(name) for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    family = subject.family()
    # A family whose head_dim cannot be null has a default for it.
    is_free = family is not None and type(None) not in family.text_fields.get("head_dim", (type(None),))
    is_free = is_free or shape.fields.get("head_dim") is not None
    if _is_count(hidden) and _is_count(heads) and hidden % heads and not is_free:
        yield Finding(
            (f"{at}.num_attention_heads", f"{at}.hidden_size"),
            f"{at}.num_attention_heads = {heads} must divide hidden_size = {hidden}, or head_dim must be set",
            f"{at}.hidden_size={max(1, round(hidden / heads)) * heads}",
        )
    if _is_count(heads) and _is_count(groups) and heads % groups:
        works = [number for number in range(1, heads + 1) if heads % number == 0]
        yield Finding(
            (f"{at}.num_key_value_heads", f"{at}.num_attention_heads"),
            f"{at}.num_key_value_heads = {groups} must divide num_attention_heads = {heads}{what_works(works)}",
            f"{at}.num_key_value_heads={nearest_number(groups, works)}",
        )


def _is_count(number: object) -> TypeGuard[int]:
    return is_whole_number(number) and number > 0


def nearest_number(number: int, choices: Sequence[int]) -> int:
    """The choice closest to a number."""
    return min(choices, key=lambda choice: abs(choice - number))


def what_works(choices: Sequence[int]) -> str:
    """The end of a rule that a number breaks; what a user pastes is the nearest of them alone."""
    return f"; {one_of([str(choice) for choice in choices])} would do"


RULES: tuple[Rule, ...] = (check_fields, check_shape_of_weights, check_heads)
