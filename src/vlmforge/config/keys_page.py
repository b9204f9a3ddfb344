"""Writes `docs/config-keys.md`, the page of every key, from the schema: `python -m vlmforge.config.keys_page`."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from vlmforge.config.encode import scalar_text
from vlmforge.config.keys import KeyInfo, KeySpec, keys_of, section_of, walk_keys
from vlmforge.config.schema import Config

HEAD = """# Config keys

Every key of a recipe: what it may be, what it is when nobody says it, and what it means. A key that is not on this page
is an error, at every depth. `N` stands for a number in a list, counted from 0. Set any key on the command line as
`section.key=value`, and set it back to its default with `~section.key`.

This page is made from `src/vlmforge/config/schema.py` by `python -m vlmforge.config.keys_page`.
"""


def render() -> str:
    """The page."""
    parts = [HEAD]
    for spec in keys_of(Config).values():
        found = section_of(spec.type)
        assert found is not None, spec.path
        parts.append(f"## {spec.path}\n\n{spec.info.doc}\n\n| key | value | default | meaning |\n|---|---|---|---|")
        parts.append("\n".join(_row(key) for key in walk_keys(found[0], spec.path)) + "\n")
    return "\n".join(parts)


def _row(spec: KeySpec) -> str:
    cells = (f"`{spec.path}`", _type_text(spec.type, spec.info), _default_text(spec), spec.info.doc)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default_text(spec: KeySpec) -> str:
    return "required" if spec.default in ("", ()) and ".N." in spec.path else f"`{scalar_text(spec.default)}`"


def _type_text(annotation: Any, info: KeyInfo) -> str:
    """What a value may be, with its range."""
    limits = ", ".join(_limits(info))
    return ", ".join(part for part in (_words(annotation), limits) if part)


def _words(annotation: Any) -> str:
    origin = get_origin(annotation)
    if section_of(annotation) is not None:
        return "list of sources"
    if origin in (Union, types.UnionType):
        return " or ".join(_words(option) for option in get_args(annotation))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin is tuple:
        arguments = [item for item in get_args(annotation) if item is not Ellipsis]
        many = len(get_args(annotation)) == len(arguments)
        return f"list of {len(arguments)} of {_words(arguments[0])}" if many else f"list of {_words(arguments[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return "mapping"
    plain = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text", type(None): "`null`"}
    return plain[annotation]


def _limits(info: KeyInfo) -> Iterator[str]:
    if info.minimum is not None:
        yield f"{'above' if info.is_minimum_exclusive else 'at least'} {scalar_text(info.minimum)}"
    if info.maximum is not None:
        yield f"at most {scalar_text(info.maximum)}"


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/config-keys.md")
    target.write_text(render(), encoding="utf-8")
