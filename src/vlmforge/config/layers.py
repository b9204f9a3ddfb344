"""The files of a recipe: which groups they name, what they may not say together, and where each value was said.

Which files there are, and in which order they are merged, is Hydra's business (`compose.py`); nothing here imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vlmforge.config.origins import Origins
from vlmforge.config.overrides import COMMAND_LINE, Choice, command_line
from vlmforge.config.plain import is_section
from vlmforge.config.recipes import RecipeFile, find_group_file, group_options
from vlmforge.config.schema import GROUPS
from vlmforge.config.yaml_lines import Entry, YamlFile
from vlmforge.errors import Problem, nearest


@dataclass(frozen=True)
class Layer:
    """One file in merge order; `package` is the section it is merged into, "" for the top."""

    file: YamlFile
    package: str
    is_group: bool


def named_groups(primary: YamlFile) -> dict[str, tuple[Entry, str]]:
    """Group to its entry and option in the recipe's own defaults list."""
    named: dict[str, tuple[Entry, str]] = {}
    for entry in primary.under("defaults"):
        if len(entry.path) == 3 and entry.text is not None:
            group = entry.path[2].removeprefix("optional ").removeprefix("override ").strip().lstrip("/")
            named[group] = (entry, entry.text)
    return named


def check_defaults(primary: YamlFile) -> Iterator[Problem]:
    """Every group of the defaults list must be one of ours."""
    for group, (entry, _) in named_groups(primary).items():
        if group not in GROUPS:
            near = nearest(group, GROUPS) or list(GROUPS)
            where = primary.where(entry.line)
            yield Problem(what=f"defaults: {group} is not a group", where=where, fix=f"use {', '.join(near)}")


def find_lost(recipe: RecipeFile, primary: YamlFile) -> dict[str, Problem]:
    """Groups of the defaults list whose option does not exist."""
    return {
        group: _no_such_option(recipe, group, option, primary.where(entry.line), prefix=f"/{group}: ")
        for group, (entry, option) in named_groups(primary).items()
        if option not in ("", "null", "~") and find_group_file(recipe, f"{group}/{option}") is None
    }


def check_choices(recipe: RecipeFile, choices: Sequence[Choice]) -> Iterator[Problem]:
    """Every file that the command line chooses must exist."""
    for choice in choices:
        if not has_option(recipe, choice):
            where = command_line(choice.text)
            yield _no_such_option(recipe, choice.group, choice.option, where, prefix=f"{choice.group}=")


def has_option(recipe: RecipeFile, choice: Choice) -> bool:
    """Whether there is a file for a group choice."""
    return find_group_file(recipe, f"{choice.group}/{choice.option}") is not None


def _no_such_option(recipe: RecipeFile, group: str, option: str, where: str, prefix: str) -> Problem:
    options = group_options(recipe, group)
    best = (nearest(option, options) or options)[:1]
    return Problem(
        what=f"{group} = {option}: there is no such file in the group; it has {', '.join(options)}",
        where=where,
        fix=f"{prefix}{best[0]}" if best else f"remove {group}",
    )


def leave_out(layer: Layer, values: dict[str, Any]) -> None:
    """Remove what is refused in a file, so that nothing complains of it a second time."""
    for path in layer.file.refused:
        *sections, last = (*(layer.package.split(".") if layer.package else ()), *path)
        holder: Any = values
        for section in sections:
            holder = holder.get(section) if is_section(holder) else None
        if is_section(holder):
            holder.pop(last, None)


def find_origins(primary: YamlFile, layers: Sequence[Layer]) -> Origins:
    """Origins of all files in merge order: later ones win, lists are replaced whole."""
    origins = Origins(fallback=primary.where())
    for layer in layers:
        prefix = layer.package.split(".") if layer.package else []
        for entry in layer.file.entries:
            if entry.path[0] == "defaults" and not (len(entry.path) > 1 and layer.package == "defaults"):
                continue
            path = ".".join((*prefix, *entry.path))
            if not entry.is_mapping:
                origins.forget(path)
            origins[path] = layer.file.where(entry.line)
    return origins


def is_tiny(layers: Sequence[Layer]) -> bool:
    """Whether `scale=tiny` was chosen."""
    return any(layer.package == "scale" and layer.file.path.stem == "tiny" for layer in layers)


def check_body(layers: Sequence[Layer], choices: Sequence[Choice], primary: YamlFile) -> Iterator[Problem]:
    """A recipe's body sets no key of `parallelism` that its group file sets: one of the two would be a lie."""
    named = named_groups(primary)
    if "parallelism" not in named and any(choice.group == "parallelism" for choice in choices):
        return
    from_group = {
        entry.path[0]: layer.file.where(entry.line)
        for layer in layers
        if layer.package == "parallelism"
        for entry in layer.file.entries
    }
    for entry in primary.under("parallelism"):
        name = entry.path[1]
        if name in from_group and len(entry.path) == 2:
            yield Problem(
                what=f"parallelism.{name} = {entry.text} is set in the recipe's body and in its parallelism file",
                where=f"{primary.where(entry.line)} and {from_group[name]}",
                fix=f"choose another parallelism file, or give  parallelism.{name}={entry.text}  in the command",
            )


def distrust_files(values: dict[str, Any], origins: Origins) -> list[Problem]:
    """Take `model.trust_remote_code` back where a file said it, in whatever words: a reference can be true as well."""
    model, path = values.get("model"), "model.trust_remote_code"
    if not is_section(model) or model.get("trust_remote_code") is not True:
        return []
    where = origins.where(path)
    if where.startswith(COMMAND_LINE):
        return []
    del model["trust_remote_code"]
    return [
        Problem(
            what=f"{path} = true counts only from the command line",
            where=where,
            fix=f"remove it there and, if you trust that code, give  {path}=true  in the command",
        )
    ]
