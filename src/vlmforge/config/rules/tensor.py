"""Rules of `parallelism.tp` and `parallelism.ep`: what is cut must be cut into whole, equal parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vlmforge.config.derived import derive_batch, derive_world_size, is_whole_mesh
from vlmforge.config.encode import scalar_text
from vlmforge.config.plain import is_whole_number
from vlmforge.config.rules.fields import nearest_number, what_works
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.config.rules.launch import is_mesh_open

# What tp cuts: heads, which stay whole, and the widths of matrices.
CUT_BY_TP = ("num_attention_heads", "num_key_value_heads", "vocab_size", "intermediate_size", "intermediate_size_mlp")
EXPERTS = ("num_experts", "num_local_experts")


@dataclass(frozen=True)
class Uncut:
    """Sizes of a model that an axis does not divide: one cause, whatever their number.

    Attributes:
        names: fields that cannot be cut into equal parts.
        what: the axis, the rule, the sizes, and the numbers of ranks that divide all of them.
        fix: the nearest of these.
    """

    names: tuple[str, ...]
    what: str
    fix: str


def find_uncut(axis: str, size: int, fields: Mapping[str, Any], names: tuple[str, ...]) -> Uncut | None:
    """What an axis of `parallelism` cannot cut into equal parts; None: it divides everything."""
    counts = {name: fields[name] for name in names if is_whole_number(fields.get(name)) and fields[name] > 0}
    uncut = {name: count for name, count in counts.items() if count % size}
    if not uncut:
        return None
    common = math.gcd(*counts.values())
    works = [number for number in range(1, min(counts.values()) + 1) if common % number == 0]
    sizes = ", ".join(f"{name} = {count}" for name, count in uncut.items())
    what = f"parallelism.{axis} = {size} must divide model {sizes}{what_works(works)}"
    return Uncut(tuple(uncut), what, f"parallelism.{axis}={nearest_number(size, works)}")


def check_tensor_parallel(subject: Subject) -> Iterator[Finding]:
    """Every rank gets whole heads, equally many, and an equal part of every matrix."""
    tp, shape = subject.config.parallelism.tp, subject.shape()
    if shape is None or tp == 1:
        return
    names = CUT_BY_TP if subject.config.parallelism.ep > 1 else (*CUT_BY_TP, *EXPERTS)
    if uncut := find_uncut("tp", tp, shape.fields, names):
        paths = (f"{shape.text_path}.{name}" for name in uncut.names)
        yield Finding(("parallelism.tp", *paths), uncut.what, uncut.fix)


def check_expert_parallel(subject: Subject) -> Iterator[Finding]:
    """Experts are there, whole ones for each rank, and the ranks are whole groups of tp inside dp_shard x cp x tp."""
    chosen, shape = subject.config.parallelism, subject.shape()
    if chosen.ep == 1 or shape is None or chosen.dp_shard == 0:
        return
    count = next((shape.fields[name] for name in EXPERTS if is_whole_number(shape.fields.get(name))), None)
    family = subject.family()
    if count is None:
        # A hub id says how many experts it has only when it is fetched.
        if family is not None and not any(name in family.text_fields for name in EXPERTS):
            yield Finding(
                ("parallelism.ep", "model.family"),
                f"parallelism.ep = {chosen.ep}: family {family.name} has no experts",
                "parallelism.ep=1",
            )
        return
    ranks = derive_world_size(subject.config, subject.facts.world_size, subject.facts.num_gpus)
    if is_mesh_open(subject) or not is_whole_mesh(subject.config, ranks):
        return
    axes = derive_batch(subject.config, ranks).axes
    holders = axes.dp_shard * axes.cp * axes.tp
    works = [n for n in range(1, holders + 1) if holders % n == 0 and count % n == 0 and (n % axes.tp == 0 or n == 1)]
    if chosen.ep not in works:
        yield Finding(
            ("parallelism.ep", "parallelism.tp", "parallelism.dp_shard"),
            f"parallelism.ep = {chosen.ep} must be a multiple of tp = {axes.tp} and divide dp_shard x cp x tp = "
            f"{holders} and model {next(name for name in EXPERTS if name in shape.fields)} = {count}"
            f"{what_works(works)}",
            f"parallelism.ep={nearest_number(chosen.ep, works)}",
        )


def check_not_cut(subject: Subject) -> Iterator[Finding]:
    """What tp would compute otherwise than one rank does."""
    config, shape = subject.config, subject.shape()
    if config.parallelism.tp == 1:
        return
    dropout = shape.fields.get("attention_dropout") if shape is not None else None
    if isinstance(dropout, int | float) and dropout > 0:
        yield Finding(
            ("parallelism.tp", "model.config.attention_dropout"),
            f"parallelism.tp = {config.parallelism.tp} with model.config.attention_dropout = {scalar_text(dropout)}: "
            "ranks would drop the same places of different heads",
            "model.config.attention_dropout=0.0, or parallelism.tp=1",
        )
    if config.model.kernels != "torch":
        yield Finding(
            ("parallelism.tp", "model.kernels"),
            f"parallelism.tp = {config.parallelism.tp} with model.kernels = {config.model.kernels}: its kernels were "
            "never compared on parts of a layer",
            "model.kernels=torch, or parallelism.tp=1",
        )


RULES: tuple[Rule, ...] = (check_tensor_parallel, check_expert_parallel, check_not_cut)
