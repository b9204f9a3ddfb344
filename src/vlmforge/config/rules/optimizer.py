"""Rules of `stage.optimizer.group_lr`: each rate is of a group that is there, and trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from vlmforge.config.encode import scalar_text
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.errors import one_of


def check_group_lr(subject: Subject) -> Iterator[Finding]:
    """A learning rate of its own needs a group of the family, beside others, that is not frozen.

    Which groups an adapter reaches is known once the model is there, so gate 3 looks at those.
    """
    family, stage = subject.family(), subject.config.stage
    if family is None or stage.kind == "generate":
        return
    for group, lr in asdict(stage.optimizer.group_lr).items():
        path = f"stage.optimizer.group_lr.{group}"
        if lr is None:
            continue
        said = f"{path} = {scalar_text(lr)}"
        if len(family.groups) == 1:
            rule = f"{said}: {family.name} is one group, {one_of(list(family.groups))}"
            yield Finding((path, "model.family"), rule, f"~{path}, or stage.optimizer.lr={scalar_text(lr)}")
        elif group not in family.groups:
            rule = f"{said}: {family.name} has no group {group}, only {one_of(list(family.groups))}"
            yield Finding((path, "model.family"), rule, f"~{path}")
        elif stage.trainable is not None and group not in stage.trainable and stage.adapter is None:
            rule = f"{said} has no effect: stage.trainable = {scalar_text(stage.trainable)} freezes the group"
            wanted = scalar_text((*stage.trainable, group))
            yield Finding((path, "stage.trainable"), rule, f"~{path}, or 'stage.trainable={wanted}'")


RULES: tuple[Rule, ...] = (check_group_lr,)
