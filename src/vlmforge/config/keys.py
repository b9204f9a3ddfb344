"""How a key is written in the schema, and how a schema of dataclasses is read back as a list of keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class KeyInfo:
    """What the schema says of one key beyond its type.

    Attributes:
        doc: one sentence for the user, with the unit.
        minimum: smallest allowed number; exclusive when `is_minimum_exclusive`.
        maximum: largest allowed number.
        example: a value that works, for `fix:` lines when there is no usable default.
    """

    doc: str
    minimum: float | None = None
    maximum: float | None = None
    is_minimum_exclusive: bool = False
    example: Any = None


def key(
    default: Any,
    doc: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    example: Any = None,
) -> Any:
    """A documented dataclass field; `above` is an exclusive lower bound."""
    info = KeyInfo(
        doc=doc,
        minimum=minimum if above is None else above,
        maximum=maximum,
        is_minimum_exclusive=above is not None,
        example=example,
    )
    if callable(default):
        return field(default_factory=default, metadata={"info": info})
    return field(default=default, metadata={"info": info})


@dataclass(frozen=True)
class KeySpec:
    """One key of the schema, for the decoder, the documentation and suggestions.

    Attributes:
        path: dotted; `data.train.N.path` for what stands in a list.
        type: its resolved annotation.
        default: what holds when nobody sets it.
        info: its documentation and range.
    """

    path: str
    type: Any
    default: Any
    info: KeyInfo


def keys_of(section: type, prefix: str = "") -> dict[str, KeySpec]:
    """The keys of one section by name, in the order of the schema."""
    types = get_type_hints(section)
    found: dict[str, KeySpec] = {}
    for item in fields(section):
        default = item.default if item.default is not MISSING else None
        if item.default_factory is not MISSING:
            default = item.default_factory()
        path = f"{prefix}.{item.name}" if prefix else item.name
        found[item.name] = KeySpec(path, types[item.name], default, item.metadata["info"])
    return found


def section_of(annotation: Any) -> tuple[type, bool] | None:
    """The dataclass that an annotation holds, and whether in a list; null for plain values."""
    if is_dataclass(annotation) and isinstance(annotation, type):
        return annotation, False
    for argument in get_args(annotation):
        inner = section_of(argument)
        if inner is not None:
            return inner[0], inner[1] or get_origin(annotation) is tuple
    return None


def walk_keys(section: type, prefix: str = "") -> Iterator[KeySpec]:
    """Every key below a section, outer before inner; sections are keys only where they hold their own kind."""
    for spec in keys_of(section, prefix).values():
        inner = section_of(spec.type)
        if inner is None or inner[0] is section:
            yield spec
        else:
            yield from walk_keys(inner[0], f"{spec.path}.N" if inner[1] else spec.path)
