"""Plain nested values, as YAML has them, told apart for the type checker."""

from __future__ import annotations

from typing import Any, TypeGuard


def is_section(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether it is a dict; names that are no text are left for the decoder to refuse."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether it is a list."""
    return isinstance(value, list)


def is_whole_number(value: object) -> TypeGuard[int]:
    """Whether it is an int; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def items_of(value: object) -> list[tuple[str, Any]]:
    """Names and values one level down; a list's names are its indices."""
    if is_section(value):
        return [(str(name), item) for name, item in value.items()]
    if is_list(value):
        return [(str(index), item) for index, item in enumerate(value)]
    return []
