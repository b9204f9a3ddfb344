"""Plain nested values, as YAML has them, told apart for the type checker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard, cast


def is_section(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether it is a dict; names that are no text are left for the decoder to refuse."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether it is a list."""
    return isinstance(value, list)


def is_whole_number(value: object) -> TypeGuard[int]:
    """Whether it is an int; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values over others, those of sections too."""
    merged = {**below, **above}
    for name, value in above.items():
        inner = below.get(name)
        if is_section(inner) and is_section(value):
            merged[name] = merge(inner, value)
    return merged


def items_of(value: object) -> list[tuple[str, Any]]:
    """Names and values one level down; a list's names are its indices."""
    if is_section(value):
        return [(str(name), item) for name, item in value.items()]
    if is_list(value):
        return [(str(index), item) for index, item in enumerate(value)]
    return []


def is_plain(value: Any) -> bool:
    """Whether a value is one that YAML could have said; Hydra's grammar has more, such as `glob(*)`."""
    if is_section(value):
        names = cast("dict[object, Any]", value)
        return all(isinstance(name, str) for name in names) and all(map(is_plain, value.values()))
    if is_list(value):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
