"""What the command line changes in a composed recipe: group choices and values, applied to plain dicts."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vlmforge.config.keys import walk_keys
from vlmforge.config.origins import Origins
from vlmforge.config.plain import is_list, is_section
from vlmforge.config.schema import Config
from vlmforge.errors import Problem, nearest, one_of

COMMAND_LINE = "command line: "


@dataclass(frozen=True)
class Choice:
    """`group=option`: another file of a group."""

    group: str
    option: str
    text: str


@dataclass(frozen=True)
class Setting:
    """`a.b=value`, or `~a.b` with `is_reset`."""

    path: str
    value: Any
    text: str
    is_reset: bool = False


def command_line(text: str) -> str:
    """The origin of everything that an override says."""
    return f"{COMMAND_LINE}{text}"


def quoted(path: str, value: str) -> str:
    """An override that says `value` verbatim, quoted for a shell."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return shlex.quote(f'{path}="{escaped}"')


def apply_settings(settings: list[Setting], values: dict[str, Any], origins: Origins) -> list[Problem]:
    """Write the settings into `values` in their order, with their origins; returns those that cannot be."""
    problems: list[Problem] = []
    for setting in settings:
        holder = _find_holder(values, setting)
        if isinstance(holder, Problem):
            problems.append(holder)
        elif holder is not None:
            _write(holder, setting, origins)
    return problems


def find_unknown_resets(settings: list[Setting]) -> Iterator[Problem]:
    """`~key` of keys that do not exist: there is nothing to take away, so that no decoder would see them."""
    known = [spec.path for spec in walk_keys(Config)]
    for setting in settings:
        path = ".".join("N" if part.isdigit() else part for part in setting.path.split("."))
        if not setting.is_reset or any(_is_in(path, key) or _is_in(key, path) for key in known):
            continue
        near = nearest(path, known)
        fix = f"use {one_of([f'~{key}' for key in near])}" if near else "remove it; docs/config-keys.md lists all keys"
        yield Problem(f"~{setting.path}: there is no such key", command_line(setting.text), fix)


def _is_in(path: str, section: str) -> bool:
    return path == section or path.startswith(f"{section}.")


def _find_holder(values: dict[str, Any], setting: Setting) -> dict[str, Any] | list[Any] | Problem | None:
    """The dict or list that holds the last part of the path; sections that are not there yet are made."""
    holder: Any = values
    *sections, last = setting.path.split(".")
    walked: list[str] = []
    for section in sections:
        inner: Any = _get(holder, section)
        if inner is None and setting.is_reset:
            return None
        if inner is None and is_section(holder):
            holder[section] = inner = {}
        walked.append(section)
        if not is_section(inner) and not is_list(inner):
            return _no_such_place(setting, ".".join(walked), holder)
        holder = inner
    if is_list(holder) and _get(holder, last) is None:
        return _no_such_place(setting, setting.path, holder)
    return holder


def _get(holder: Any, name: str) -> Any:
    if is_section(holder):
        return holder.get(name)
    return holder[int(name)] if name.isdigit() and int(name) < len(holder) else None


def _no_such_place(setting: Setting, path: str, holder: Any) -> Problem:
    if is_list(holder):
        length = len(holder)
        what = f"{path}: the list has {length} item{'s' if length != 1 else ''}, counted from 0"
        last = f"{path.rpartition('.')[0]}.{length - 1}" if length else ""
        fix = f"use {last}{setting.path.removeprefix(path)}" if length else f"set {path.rpartition('.')[0]} whole"
    else:
        what = f"{setting.path} cannot be set: {path} holds a plain value, not a section"
        fix = f"set {path} itself"
    return Problem(what=what, where=command_line(setting.text), fix=fix)


def _write(holder: dict[str, Any] | list[Any], setting: Setting, origins: Origins) -> None:
    name = setting.path.rpartition(".")[2]
    key: Any = int(name) if isinstance(holder, list) else name
    if setting.is_reset:
        if isinstance(holder, list) or name in holder:
            del holder[key]
        origins.forget(setting.path)
        return
    current = _get(holder, name)
    if is_section(current) and is_section(setting.value):
        _merge(current, setting.value)
    else:
        origins.forget(setting.path)
        holder[key] = setting.value
    origins.record(setting.path, setting.value, command_line(setting.text))


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    """Merge as YAML files are merged: sections key by key, everything else replaced."""
    for name, value in new.items():
        current = into.get(name)
        if is_section(current) and is_section(value):
            _merge(current, value)
        else:
            into[name] = value
