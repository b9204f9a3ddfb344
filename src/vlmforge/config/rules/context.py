"""Rules of `parallelism.cp`: what a sequence over several ranks asks of a model."""

from __future__ import annotations

from collections.abc import Iterator

from vlmforge.config.plain import is_whole_number
from vlmforge.config.rules.fields import nearest_number, what_works
from vlmforge.config.rules.finding import Finding, Rule, Subject


def check_context_heads(subject: Subject) -> Iterator[Finding]:
    """In attention every rank has whole query heads; key-value heads are repeated where there are too few."""
    parallelism, shape = subject.config.parallelism, subject.shape()
    heads = shape.fields.get("num_attention_heads") if shape is not None else None
    cp, tp = parallelism.cp, parallelism.tp
    # Heads that tp does not divide are reported by its own rule.
    if cp == 1 or not is_whole_number(heads) or heads < 1 or heads % tp or heads // tp % cp == 0:
        return
    works = [n for n in range(1, heads // tp + 1) if heads // tp % n == 0]
    share = f" / tp = {heads} / {tp} = {heads // tp}" if tp > 1 else f" = {heads}"
    yield Finding(
        ("parallelism.cp", "parallelism.tp", "model.config.num_attention_heads"),
        f"parallelism.cp = {cp} must divide model num_attention_heads{share}{what_works(works)}",
        f"parallelism.cp={nearest_number(cp, works)}",
    )


def check_context_attention(subject: Subject) -> Iterator[Finding]:
    """A mask is made by transformers of the tokens that a rank has; only borders speak of the whole sequence."""
    attention, cp = subject.config.model.attention, subject.config.parallelism.cp
    if cp > 1 and attention != "varlen":
        yield Finding(
            ("model.attention", "parallelism.cp"),
            f"model.attention = {attention} with parallelism.cp = {cp}: its mask would be that of a rank's own tokens",
            "model.attention=varlen",
        )


RULES: tuple[Rule, ...] = (check_context_heads, check_context_attention)
