"""Learning rates of groups against what is trained of the model that is there."""

from __future__ import annotations

from dataclasses import asdict

from torch import nn

from vlmforge.config.schema import GroupLrConfig
from vlmforge.errors import ConfigError, Problem
from vlmforge.models.family import Family


def check_group_lr(model: nn.Module, family: Family, rates: GroupLrConfig) -> None:
    """Refuse a rate of a group in which nothing is trained, as where an adapter's targets are all elsewhere.

    Args:
        model: with `requires_grad` set.
        family: of the model.
        rates: `stage.optimizer.group_lr`.

    Raises:
        ConfigError: a rate would have no effect.
    """
    trained = {family.group_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    problems = [
        Problem(
            f"stage.optimizer.group_lr.{group} = {lr} has no effect: no adapter is in this group, nor is it trained",
            "stage.adapter.target_modules",
            f"~stage.optimizer.group_lr.{group}, or stage.adapter.target_modules=all-linear",
        )
        for group, lr in asdict(rates).items()
        if lr is not None and group not in trained
    ]
    if problems:
        raise ConfigError(problems)
