"""Rules of `parallelism` and `launch`, and of the batch that a mesh cuts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from vlmforge.config.derived import derive_batch, derive_world_size, is_whole_mesh, num_ranks_beside_shard
from vlmforge.config.encode import scalar_text
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.config.rules.launch import is_mesh_open
from vlmforge.config.rules.tensor import EXPERTS

# Keys whose other values come with a later version: path, the value that works, what the others are.
NOT_YET: tuple[tuple[str, object, str], ...] = (
    ("parallelism.pp", 1, "pipeline parallelism"),
    ("checkpointing.async_save", False, "saving in the background"),
)
# Outer to inner.
AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
LAUNCHED = ("launch.processes_per_node", "launch.num_nodes")


def check_available(subject: Subject) -> Iterator[Finding]:
    """What the schema names and this version cannot do."""
    for path, works, name in NOT_YET:
        section, key = path.split(".")
        value = getattr(getattr(subject.config, section), key)
        if value != works:
            yield Finding(
                (path,),
                f"{path} = {scalar_text(value)}: {name} is not available in this version",
                f"{path}={scalar_text(works)}",
            )


def check_axes(subject: Subject) -> Iterator[Finding]:
    """0 is no number of ranks, and only dp_shard may be left open."""
    if subject.config.parallelism.dp_shard == 0:
        yield Finding(
            ("parallelism.dp_shard",),
            "parallelism.dp_shard = 0 must be -1 (all ranks that are left) or at least 1",
            "parallelism.dp_shard=-1",
        )


def check_mesh(subject: Subject) -> Iterator[Finding]:
    """The axes multiply to the number of ranks."""
    config = subject.config
    rest = num_ranks_beside_shard(config.parallelism)
    shard = config.parallelism.dp_shard
    if shard == 0:
        return
    ranks = derive_world_size(config, subject.facts.world_size, subject.facts.num_gpus)
    if is_mesh_open(subject) or is_whole_mesh(config, ranks):
        return
    rule = "must divide" if shard == -1 else "must be"
    works = ranks // rest if ranks % rest == 0 else None
    yield Finding(
        (*_axes_to_blame(subject), *LAUNCHED),
        f"{_product(subject)} {rule} the number of ranks = {ranks}{_said_by(subject)}",
        f"parallelism.dp_shard={works}" if works else f"{_all_sharded(subject)}, or {rest * abs(shard)} ranks",
    )


def _axes_to_blame(subject: Subject) -> list[str]:
    """Keys of the axes: those that make ranks, the last one said first, before those that are 1 or open."""
    chosen, said = subject.config.parallelism, list(subject.origins)
    makes_none = {f"parallelism.{name}": getattr(chosen, name) in (1, -1) for name in AXES}
    return sorted(makes_none, key=lambda path: (makes_none[path], -said.index(path) if path in said else 0))


def _product(subject: Subject) -> str:
    """The axes that make ranks, and dp_shard, which the remedy sets, with their sizes."""
    sizes = {name: getattr(subject.config.parallelism, name) for name in AXES}
    sizes = {name: size for name, size in sizes.items() if size != (-1 if name == "dp_shard" else 1)}
    if len(sizes) == 1:
        return "".join(f"parallelism.{name} = {size}" for name, size in sizes.items())
    numbers = list(sizes.values())
    return f"parallelism.{' x '.join(sizes)} = {' x '.join(map(str, numbers))} = {math.prod(numbers)}"


def _all_sharded(subject: Subject) -> str:
    """Words that leave any number of ranks to dp_shard."""
    parallelism = subject.config.parallelism
    others = {"dp_replicate": parallelism.dp_replicate, "cp": parallelism.cp, "tp": parallelism.tp}
    words = [f"parallelism.{name}=1" for name, size in others.items() if size != 1]
    return " ".join([*words, "parallelism.dp_shard=-1"])


def _said_by(subject: Subject) -> str:
    if subject.facts.world_size is not None:
        return " (world_size)"
    launch = subject.config.launch
    if launch.num_nodes is not None or launch.processes_per_node is not None:
        return " (launch.num_nodes x launch.processes_per_node)"
    return ""


def check_batch(subject: Subject) -> Iterator[Finding]:
    """The global batch is made of whole micro-batches on every data rank; cut by tokens, of a row for each at least."""
    config = subject.config
    if config.parallelism.dp_shard == 0:
        return
    ranks = derive_world_size(config, subject.facts.world_size, subject.facts.num_gpus)
    if is_mesh_open(subject) or not is_whole_mesh(config, ranks):
        # Of a mesh that is none, no part of the batch can be told.
        return
    sizes = derive_batch(config, ranks)
    micro, total = config.stage.micro_batch_size, config.stage.global_batch_size
    if config.stage.max_tokens_per_micro_batch is not None:
        if total < sizes.num_data_ranks:
            yield Finding(
                ("stage.global_batch_size", "parallelism.dp_shard"),
                f"stage.global_batch_size = {total} must be at least the number of data ranks = {sizes.num_data_ranks}",
                f"stage.global_batch_size={sizes.num_data_ranks}",
            )
        return
    rows = micro * sizes.num_data_ranks
    if total % rows == 0:
        return
    lower, upper = total // rows * rows, (total // rows + 1) * rows
    works = f"stage.global_batch_size={upper}" + (f" or {lower}" if lower else "")
    yield Finding(
        ("stage.global_batch_size", "stage.micro_batch_size", "parallelism.dp_shard"),
        f"stage.global_batch_size = {total} must be a multiple of micro_batch_size x data ranks "
        f"= {micro} x {sizes.num_data_ranks} = {rows}",
        works,
    )


def check_precision(subject: Subject) -> Iterator[Finding]:
    """Three precisions exist; computing in more bits than are stored is not one of them."""
    stored, computed = subject.config.model.dtype, subject.config.parallelism.param_dtype
    if stored == "bfloat16" and computed == "float32":
        yield Finding(
            ("parallelism.param_dtype", "model.dtype"),
            "parallelism.param_dtype = float32 with model.dtype = bfloat16: weights are stored with at least the "
            "precision they are computed in",
            "parallelism.param_dtype=bfloat16, or model.dtype=float32",
        )


def check_offload(subject: Subject) -> Iterator[Finding]:
    """Weights leave a GPU for the memory of its machine, and nothing else."""
    config = subject.config
    if config.parallelism.cpu_offload and config.launch.device == "cpu":
        yield Finding(
            ("parallelism.cpu_offload", "launch.device"),
            "parallelism.cpu_offload = true has no effect with launch.device = cpu: all is in CPU memory already",
            "parallelism.cpu_offload=false, or launch.device=cuda",
        )


# Of layers that were never compared, compiled, with others.
NOT_COMPILED = ("attention_chunk_size", *EXPERTS)


def check_compiled_layers(subject: Subject) -> Iterator[Finding]:
    """Compiled are layers for which it was compared."""
    shape = subject.shape()
    if not subject.config.parallelism.compile or shape is None:
        return
    field = next((name for name in NOT_COMPILED if shape.fields.get(name) is not None), None)
    reasons = {
        f"model {field} = {scalar_text(shape.fields.get(field or ''))}": field is not None,
        f"model.kernels = {subject.config.model.kernels}": subject.config.model.kernels != "torch",
    }
    for reason in [text for text, holds in reasons.items() if holds]:
        yield Finding(
            ("parallelism.compile",),
            f"parallelism.compile = true with {reason}: such layers, compiled, were not yet compared with others",
            "parallelism.compile=false",
        )


def check_compile(subject: Subject) -> Iterator[Finding]:
    """What is computed again is a compiled layer in one piece; of one in pieces torch would compile nothing."""
    chosen, shape = subject.config.parallelism, subject.shape()
    if not chosen.compile or chosen.recompute == "none":
        return
    fields: Mapping[str, Any] = shape.fields if shape is not None else {}
    causes: dict[str, Any] = {"parallelism.tp": chosen.tp} if chosen.tp > 1 else {}
    causes |= {"parallelism.cp": chosen.cp} if chosen.cp > 1 else {}
    capped = fields.get("attn_logit_softcapping")
    causes |= {"model attn_logit_softcapping": capped} if capped is not None else {}
    for name, value in list(causes.items())[:1]:
        yield Finding(
            ("parallelism.compile", "parallelism.recompute"),
            f"parallelism.compile = true with parallelism.recompute = {chosen.recompute} and {name} = "
            f"{scalar_text(value)}: such a layer is compiled in pieces, and what is computed again must be one",
            "parallelism.compile=false, or parallelism.recompute=none",
        )


RULES: tuple[Rule, ...] = (
    check_available,
    check_axes,
    check_mesh,
    check_batch,
    check_precision,
    check_offload,
    check_compiled_layers,
    check_compile,
)
