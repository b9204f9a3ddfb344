"""Turns the composed dict into a frozen `Config`, strictly: every key known, every value of its type and range.

It reports every problem of a recipe, not the first. A bad value is replaced by its default, so that the rest can
still be checked, and its path is remembered, so that no check complains of a value that nobody wrote.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, cast, get_args, get_origin

from vlmforge.config.encode import assignment, scalar_text
from vlmforge.config.foreign import FOREIGN
from vlmforge.config.keys import KeyInfo, KeySpec, keys_of, section_of, walk_keys
from vlmforge.config.origins import Origins
from vlmforge.config.plain import is_list, is_section, items_of
from vlmforge.config.recipes import YAML_SUFFIXES
from vlmforge.config.schema import Config
from vlmforge.errors import Problem, nearest, one_of

NO_INFO = KeyInfo(doc="")
OFTEN = ".every_steps"


@dataclass(frozen=True)
class Decoded:
    """A config, and what was wrong with its source.

    Attributes:
        config: complete; defaults stand in for what could not be read.
        problems: what could not be read.
        bad: paths of those values.
    """

    config: Config
    problems: tuple[Problem, ...]
    bad: frozenset[str]


def decode(values: Mapping[str, Any], origins: Origins) -> Decoded:
    """Decode a composed recipe."""
    decoder = _Decoder(origins)
    config = decoder.section(Config, values, "")
    return Decoded(config, tuple(decoder.problems), frozenset(decoder.bad))


class _Bad(Exception):
    """A value that does not fit; carries what it must be."""


class _Decoder:
    """Collects problems while it walks the schema."""

    def __init__(self, origins: Origins) -> None:
        self.origins = origins
        self.problems: list[Problem] = []
        self.bad: set[str] = set()

    def section(self, schema: type, value: object, path: str) -> Any:
        """A dataclass from a mapping; an absent mapping means all defaults."""
        specs = keys_of(schema, path)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            self._report(path, value, "must be a section of keys", f"set {path}.{next(iter(specs))} and the like")
            return schema()
        given = cast("Mapping[Any, Any]", value)
        for name in given:
            if name not in specs:
                self._report_unknown(schema, path, str(name), given[name])
        decoded = {name: self.value(spec.type, given[name], spec) for name, spec in specs.items() if name in given}
        return schema(**decoded)

    def value(self, annotation: Any, value: Any, spec: KeySpec) -> Any:
        """The value of one key; its default when it does not fit."""
        inner = section_of(annotation)
        if inner is not None and inner[1]:
            return self._sections(inner[0], value, spec)
        if inner is not None:
            is_optional = type(None) in get_args(annotation)
            return None if value is None and is_optional else self.section(inner[0], value, spec.path)
        try:
            return _plain(annotation, value, spec.info)
        except _Bad as reason:
            self._report(spec.path, value, f"must be {reason}", _fix(spec, annotation, value))
            return spec.default

    def _sections(self, schema: type, value: Any, spec: KeySpec) -> Any:
        """A list of sections, such as the sources of a blend; the YAML file of a blend is a list of one."""
        if isinstance(value, str) and value.endswith(YAML_SUFFIXES):
            value = [{"path": value}]
        if not is_list(value):
            fix = f"'{spec.path}=[{{path: data/train.jsonl, format: messages}}]'"
            self._report(spec.path, value, "must be a list of sources, or the .yaml file of an energon blend", fix)
            return ()
        return tuple(self.section(schema, item, f"{spec.path}.{index}") for index, item in enumerate(value))

    def _report(self, path: str, value: object, rule: str, fix: str) -> None:
        self.bad.add(path)
        self.problems.append(Problem(f"{path} = {scalar_text(value)} {rule}", self.origins.where(path), fix))

    def _report_unknown(self, schema: type, prefix: str, name: str, value: object) -> None:
        path = f"{prefix}.{name}" if prefix else name
        elsewhere = [known for known in _homes().get(name, ()) if known != path]
        near = [f"{prefix}.{match}" if prefix else match for match in nearest(name, keys_of(schema))]
        if name in FOREIGN and not elsewhere:
            fix = f"{name} is {FOREIGN[name]} here; docs/migration.md has all such keys, and what differs"
            if value is False:
                fix = f"remove it; {name} = true is {FOREIGN[name]} here (docs/migration.md)"
        elif elsewhere:
            fix = f"{name} lives at {one_of(elsewhere)}"
        elif near:
            fix = f"use {one_of(near)}"
        else:
            fix = f"remove it; keys here are {', '.join(keys_of(schema))}"
        self.bad.add(path)
        text = "" if items_of(value) else f" = {scalar_text(value)}"
        self.problems.append(Problem(f"{path}{text}: there is no such key", self.origins.where(path), fix))


@cache
def _homes() -> dict[str, tuple[str, ...]]:
    """Last part of every key to the paths it is found at."""
    homes: dict[str, tuple[str, ...]] = {}
    for spec in walk_keys(Config):
        name = spec.path.rpartition(".")[2]
        homes[name] = (*homes.get(name, ()), spec.path)
    return homes


# Plain values: each function returns the value in its type, or raises `_Bad` with what it must be. ----------------


def _plain(annotation: Any, value: Any, info: KeyInfo) -> Any:
    origin = get_origin(annotation)
    if value == "???":
        raise _Bad("set")
    if origin in (Union, types.UnionType):
        return _union(annotation, value, info)
    if origin is Literal:
        return _literal(annotation, value)
    if origin is tuple:
        return _tuple(annotation, value, info)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(annotation, value)
    return _scalar(annotation, value, info)


def _union(annotation: Any, value: Any, info: KeyInfo) -> Any:
    options = [option for option in get_args(annotation) if option is not type(None)]
    if value is None and len(options) < len(get_args(annotation)):
        return None
    reasons: list[str] = []
    for option in options:
        try:
            return _plain(option, value, info)
        except _Bad as reason:
            reasons.append(str(reason))
    if len(options) < len(get_args(annotation)):
        reasons.append("null")
    raise _Bad(" or ".join(reasons))


def _literal(annotation: Any, value: Any) -> Any:
    choices = get_args(annotation)
    if isinstance(value, str) and value in choices:
        return value
    raise _Bad(one_of([str(choice) for choice in choices]))


def _tuple(annotation: Any, value: Any, info: KeyInfo) -> Any:
    arguments = get_args(annotation)
    item_type = arguments[0]
    length = None if arguments[-1] is Ellipsis else len(arguments)
    if isinstance(value, str) and item_type is str:
        return (value,)
    expected = f"a list of {'' if length is None else f'{length} '}{_noun(item_type)}"
    if not is_list(value):
        raise _Bad(expected)
    if length is not None and len(value) != length:
        raise _Bad(f"{expected}, not {len(value)}")
    try:
        return tuple(_scalar(item_type, item, info) for item in value)
    except _Bad as reason:
        raise _Bad(f"{expected}; each must be {reason}") from reason


def _mapping(annotation: Any, value: Any) -> dict[str, Any]:
    item_type = get_args(annotation)[1]
    if value is None:
        return {}
    if not is_section(value):
        raise _Bad("a mapping of names to values")
    if any(not isinstance(name, str) for name in cast("dict[object, Any]", value)):
        raise _Bad("a mapping whose names are text")
    if item_type is str and any(not isinstance(item, str) for item in value.values()):
        raise _Bad("a mapping of names to text")
    return dict(value)


def _scalar(annotation: Any, value: Any, info: KeyInfo) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is float and is_number:
        return _in_range(float(value), info)
    if annotation is int and is_number and not isinstance(value, float):
        return _in_range(value, info)
    if annotation in (bool, str) and isinstance(value, annotation):
        return value
    raise _Bad(_expected(annotation, info))


def _in_range(value: float, info: KeyInfo) -> float:
    low, high = info.minimum, info.maximum
    is_low = low is not None and (value <= low if info.is_minimum_exclusive else value < low)
    if not math.isfinite(value) or is_low or (high is not None and value > high):
        raise _Bad(_expected(type(value), info))
    return value


def _expected(annotation: Any, info: KeyInfo) -> str:
    """What a scalar must be, with its range."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    parts = [words[annotation]]
    if annotation in (int, float):
        if info.minimum is not None:
            parts.append(f"{'more than' if info.is_minimum_exclusive else 'at least'} {scalar_text(info.minimum)}")
        if info.maximum is not None:
            parts.append(f"at most {scalar_text(info.maximum)}")
    return " of ".join([parts[0], " and ".join(parts[1:])]) if len(parts) > 1 else parts[0]


def _noun(annotation: Any) -> str:
    return {int: "whole numbers", float: "numbers", str: "texts"}[annotation]


def _fix(spec: KeySpec, annotation: Any, value: Any) -> str:
    """A value that works: the one that was meant, if it can be read, else the key's example or default."""
    if value == 0 and spec.default is None and spec.path.endswith(OFTEN):
        # Never, which other programs write so.
        return assignment(spec.path, None)
    example = spec.info.example if spec.info.example is not None else spec.default
    # YAML makes a number of 1:30:00 (5400): of a text with colons, a number does not say what was meant.
    meant = None if isinstance(example, str) and ":" in example else _meant(annotation, value, spec.info)
    if meant is not None:
        return assignment(spec.path, meant) + (" (without quotes)" if isinstance(value, str) else "")
    if example is None or example == () or example == {} or example == "":
        return f"remove {spec.path}"
    return assignment(spec.path, example)


def _meant(annotation: Any, value: Any, info: KeyInfo) -> Any:
    """The number that a text spells, the text that a number was meant to be; null when nothing fits."""
    candidates: list[Any] = []
    if isinstance(value, str):
        for convert in (int, float):
            try:
                candidates.append(convert(value))
            except ValueError:
                continue
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        candidates.append(int(value))
    if isinstance(value, int | float):
        candidates.append(str(value))
    for candidate in candidates:
        try:
            return _plain(annotation, candidate, info)
        except _Bad:
            continue
    return None
