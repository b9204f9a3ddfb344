"""A family's sharding table, matched with a model and applied: which module is cut in which way over tp and ep.

Every row must match a module, and every parameter must lie in a module of some row: a table that fits a model in part
would train another model, or keep on every rank what was to be shared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from transformers import PreTrainedModel

from vlmforge.config.rules.tensor import CUT_BY_TP, EXPERTS, find_uncut
from vlmforge.errors import ConfigError, Problem, nearest
from vlmforge.models.adapters import shard_adapted
from vlmforge.models.experts import shard_experts
from vlmforge.models.family import Family
from vlmforge.models.shape import find_family
from vlmforge.parallel.experts import ExpertRanks
from vlmforge.parallel.styles import Style
from vlmforge.parallel.tensor import TensorRanks, shard_module


@dataclass(frozen=True)
class Rows:
    """A table matched with a model.

    Attributes:
        modules: module name to its style.
        unmatched: patterns that must match something and do not.
        uncovered: parameters that no row speaks of.
    """

    modules: Mapping[str, Style]
    unmatched: list[str]
    uncovered: list[str]


def match_rows(model: nn.Module, family: Family) -> Rows:
    """Find the modules of a family's table in a model, adapted or not."""
    # Names inside an adapted layer are peft's; the layer as a whole is what the table speaks of.
    adapted = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, LoraLinear))
    names = [name for name, _ in model.named_modules() if not name.startswith(adapted)]
    modules: dict[str, Style] = {}
    unmatched: list[str] = []
    for pattern, style in family.sharding.items():
        found = [name for name in names if _matches(pattern.removesuffix("?"), name)]
        modules |= dict.fromkeys(found, style)
        if not found and not pattern.endswith("?"):
            unmatched.append(pattern)
    heads = tuple(f"{name}." for name in modules)
    uncovered = [name for name, _ in model.named_parameters(remove_duplicate=False) if not name.startswith(heads)]
    return Rows(modules, unmatched, uncovered)


def _matches(pattern: str, name: str) -> bool:
    """Whether a name fits a pattern, in which `*` stands for one part between dots."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"[^.]+"), name) is not None


def check_sharding(model: PreTrainedModel, tp: int, num_holders: int = 1) -> list[Problem]:
    """What is wrong between a model, its family's table and the number of ranks; with the names.

    Args:
        model: on meta.
        tp: ranks along tp.
        num_holders: ranks that share a layer's experts.
    """
    sizes = model.config.get_text_config().to_dict()
    return _check_table(model) + [
        Problem(uncut.what, f"config of {type(model).__name__}", uncut.fix)
        for axis, size, names in (("tp", tp, CUT_BY_TP), ("ep", num_holders, EXPERTS))
        if (uncut := find_uncut(axis, size, sizes, names))
    ]


def _check_table(model: PreTrainedModel) -> list[Problem]:
    family = find_family(model.config)
    rows = match_rows(model, family)
    where = f"src/vlmforge/models/{family.name}.py"
    kind = type(model).__name__
    names = [name for name, _ in model.named_modules()]
    problems = [
        Problem(
            f"family {family.name} shards {pattern}, and {kind} has no such module",
            where,
            f"correct the row{_close_to(pattern, names)}, or end it with ? if only some models have it",
        )
        for pattern in rows.unmatched
    ]
    if rows.uncovered:
        problems.append(
            Problem(
                f"family {family.name} says nothing of {len(rows.uncovered)} parameters of {kind} under tp, for "
                f"example {rows.uncovered[0]}",
                where,
                "add a row for the module, replicated if every rank is to have it whole",
            )
        )
    return problems


def _close_to(pattern: str, names: list[str]) -> str:
    close = nearest(pattern.replace("*", "0"), names)
    return f" (nearest: {', '.join(close)})" if close else ""


def apply_sharding(model: PreTrainedModel, ranks: TensorRanks, experts: ExpertRanks | None) -> list[nn.Module]:
    """Cut a meta model, with its adapters, over the ranks of tp and ep, in place.

    Args:
        model: not sharded yet.
        ranks: along tp.
        experts: along ep; None where the family has no experts.

    Returns:
        The experts, where they have a mesh of their own for their further sharding.

    Raises:
        ConfigError: the family's table and the model do not fit.
    """
    problems = check_sharding(model, ranks.size, experts.placement.size() if experts is not None else 1)
    if problems:
        raise ConfigError(*problems)
    apart: list[nn.Module] = []
    for name, module, style in _rows_of(model):
        if style == "experts":
            assert experts is not None, f"{name}: the world has no ranks for experts"
            shard_experts(model.get_submodule(name.rpartition(".")[0]), module, experts)
            apart += [module] if experts.weight_mesh is not None else []
        elif ranks.size > 1 and isinstance(module, LoraLinear):
            shard_adapted(module, style, ranks)
        elif ranks.size > 1:
            shard_module(module, style, ranks)
    # Two names of one matrix were cut one by one.
    model.tie_weights()
    return apart


def _rows_of(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module, Style]]:
    for name, style in match_rows(model, find_family(model.config)).modules.items():
        yield name, model.get_submodule(name), style
