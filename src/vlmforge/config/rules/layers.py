"""Rules of a model's layers: how far each looks back, its experts, and which attention computes it rightly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vlmforge.config.encode import scalar_text
from vlmforge.config.facts import FamilyFacts
from vlmforge.config.plain import is_list, is_whole_number
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.errors import one_of

LENGTHS = ("sliding_window", "attention_chunk_size", "floor_scale", "query_pre_attn_scalar")


def _known(subject: Subject) -> tuple[FamilyFacts, Mapping[str, Any]] | None:
    """The family and its fields; null where another rule reports that they are not known."""
    shape, family = subject.shape(), subject.family()
    return None if shape is None or family is None else (family, shape.fields)


def check_attention_of_family(subject: Subject) -> Iterator[Finding]:
    """The attention computes what the family's layers are."""
    known = _known(subject)
    chosen = subject.config.model.attention
    if known is not None and chosen not in known[0].attentions:
        yield Finding(
            ("model.attention", "model.family"),
            f"model.attention = {chosen} does not compute the layers of family {known[0].name}",
            f"model.attention={known[0].attentions[0]}",
        )


def check_lengths(subject: Subject) -> Iterator[Finding]:
    """Windows and chunks hold a token, and a window that is set is used."""
    known = _known(subject)
    if known is None:
        return
    _, fields = known
    for name in LENGTHS:
        length = fields.get(name)
        if is_whole_number(length) and length < 1:
            path = f"model.config.{name}"
            yield Finding((path,), f"{path} = {length} must be at least 1", f"{path}=4096")
    # A folder's own config.json may name a window that it does not use; a recipe may not.
    own = subject.config.model.config
    switch = fields.get("use_sliding_window", False)
    if "use_sliding_window" in known[0].text_fields and own.get("sliding_window") is not None and switch is False:
        yield Finding(
            ("model.config.sliding_window", "model.config.use_sliding_window"),
            f"model.config.sliding_window = {own['sliding_window']} has no effect with use_sliding_window = false",
            "model.config.use_sliding_window=true, or remove model.config.sliding_window",
        )


def check_layer_types(subject: Subject) -> Iterator[Finding]:
    """One kind for each layer, each of them a kind of the family, and its window or chunk set."""
    known = _known(subject)
    if known is None or "layer_types" not in known[0].text_fields:
        return
    family, fields = known
    is_chunked = "attention_chunk_size" in family.text_fields
    kind, length = (
        ("chunked_attention", "attention_chunk_size") if is_chunked else ("sliding_attention", "sliding_window")
    )
    yield from _check_list(fields, "layer_types", (kind, "full_attention"))
    if not _has_layers_of(kind, family, fields):
        return
    has_switch = "use_sliding_window" in family.text_fields
    if has_switch and fields.get("use_sliding_window", False) is False:
        yield _layers_without_length(kind, "use_sliding_window", fields, "true")
    elif length in fields and fields[length] is None:
        yield _layers_without_length(kind, length, fields, "4096")


def _has_layers_of(kind: str, family: FamilyFacts, fields: Mapping[str, Any]) -> bool:
    """Whether some layers see a window or a chunk only; a family without a switch has them unless its list says no."""
    types = fields.get("layer_types")
    return kind in types if is_list(types) else "use_sliding_window" not in family.text_fields


def _layers_without_length(kind: str, name: str, fields: Mapping[str, Any], works: str) -> Finding:
    path = f"model.config.{name}"
    return Finding(
        (path, "model.config.layer_types"),
        f"{path} = {scalar_text(fields.get(name))}, and layers of kind {kind} need their length",
        f"{path}={works}, or set every item of model.config.layer_types to full_attention",
    )


def _check_list(fields: Mapping[str, Any], name: str, choices: tuple[object, ...]) -> Iterator[Finding]:
    """A list with one item for each layer, or none."""
    items, count = fields.get(name), fields.get("num_hidden_layers")
    path = f"model.config.{name}"
    if not is_list(items) or not items or not is_whole_number(count):
        return
    if len(items) != count:
        yield Finding(
            (path, "model.config.num_hidden_layers"),
            f"{path} has {len(items)} items, and num_hidden_layers = {count}: it must have one for each layer",
            f"give {count} items, or model.config.num_hidden_layers={len(items)}",
        )
    for item in dict.fromkeys(item for item in items if item not in choices):
        texts = [scalar_text(choice) for choice in choices]
        yield Finding((path,), f"{path} holds {scalar_text(item)}, which is not {one_of(texts)}", f"use {texts[0]}")


def check_rope_layers(subject: Subject) -> Iterator[Finding]:
    """Whether a layer has rotary positions is said for each, by a 1 or a 0."""
    known = _known(subject)
    if known is not None:
        yield from _check_list(known[1], "no_rope_layers", (1, 0))


def check_experts(subject: Subject) -> Iterator[Finding]:
    """A token goes through no more experts than there are, and the layers with experts exist."""
    known = _known(subject)
    if known is None:
        return
    _, fields = known
    used = fields.get("num_experts_per_tok")
    for name in ("num_experts", "num_local_experts"):
        count = fields.get(name)
        if is_whole_number(count) and is_whole_number(used) and used > count:
            yield Finding(
                ("model.config.num_experts_per_tok", f"model.config.{name}"),
                f"model.config.num_experts_per_tok = {used} must be at most {name} = {count}",
                f"model.config.num_experts_per_tok={max(1, count)}",
            )
    num_layers = fields.get("num_hidden_layers")
    if not is_whole_number(num_layers):
        return
    for name in ("mlp_only_layers", "moe_layers"):
        layers = fields.get(name)
        for layer in layers if is_list(layers) else ():
            if not is_whole_number(layer) or not 0 <= layer < num_layers:
                yield Finding(
                    (f"model.config.{name}", "model.config.num_hidden_layers"),
                    f"model.config.{name} names layer {scalar_text(layer)}; they are 0 to {num_layers - 1}",
                    f"remove {scalar_text(layer)} from model.config.{name}",
                )
                break


def check_unsupported(subject: Subject) -> Iterator[Finding]:
    """What a folder or a recipe may ask of transformers and this version does not do."""
    known = _known(subject)
    if known is None:
        return
    reasons = {
        "use_bidirectional_attention": "training is causal: a token sees those before it only",
        "output_router_logits": "the auxiliary loss of the router is not part of the loss in this version",
    }
    for name, reason in reasons.items():
        if known[1].get(name) is True:
            path = f"model.config.{name}"
            yield Finding((path, "model.pretrained"), f"{path} = true, but {reason}", f"{path}=false")


def check_row_positions(subject: Subject) -> Iterator[Finding]:
    """Where transformers counts chunks and temperatures along the row, a row is one sample or short."""
    known = _known(subject)
    stage, model = subject.config.stage, subject.config.model
    if known is None or model.attention == "varlen" or "attention_chunk_size" not in known[0].text_fields:
        return
    _, fields = known
    names = ["attention_chunk_size"]
    if fields.get("attn_temperature_tuning", True):
        names.append("floor_scale")
    # transformers' own default is 8192 for both.
    limit = min((value for name in names if is_whole_number(value := fields.get(name, 8192))), default=None)
    is_one_sample = stage.packing == "none" and stage.micro_batch_size == 1 and stage.max_tokens_per_micro_batch is None
    num_tokens = stage.max_tokens_per_micro_batch or stage.seq_len * stage.micro_batch_size
    if limit is None or num_tokens <= limit or is_one_sample:
        return
    yield Finding(
        ("model.attention", "stage.micro_batch_size", "stage.packing"),
        f"model.attention = {model.attention} counts chunks of {limit} tokens along the row, over the borders of its "
        f"samples (up to {num_tokens} tokens)",
        "model.attention=varlen, or stage.packing=none stage.micro_batch_size=1",
    )


RULES: tuple[Rule, ...] = (
    check_attention_of_family,
    check_lengths,
    check_layer_types,
    check_rope_layers,
    check_experts,
    check_unsupported,
    check_row_positions,
)
