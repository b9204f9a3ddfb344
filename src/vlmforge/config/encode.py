"""Turns a `Config` back into plain values, and those into YAML that composes to the same config."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from vlmforge.config.schema import Config

# Text that YAML and OmegaConf read back as the same text without quotes. `1e-5`, `yes` and `~` are not among them.
_PLAIN_TEXT = re.compile(r"[A-Za-z_./][\w./-]*(:[\w./-]+)*")
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
# A number without a digit before its point, and a word such as `.inf`, look like text and are not.
_NUMBER_LIKE = re.compile(r"[.\d_]*\d[\d_.]*([eE][+-]?\d+)?|\.(inf|nan)", re.IGNORECASE)
# Signs of a path that stands for several.
_PATTERN = re.compile(r"[*?\[{]")

# Keys that hold a path if what they name exists; a name such as a hub id is left alone.
PATH_KEYS = (
    "model.pretrained",
    "model.tokenizer",
    "model.chat_template",
    "data.prompts",
    "stage.adapter.path",
    "checkpointing.resume",
)


def encode(config: Config) -> dict[str, Any]:
    """The whole config as nested plain dicts and lists, in the order of the schema.

    `trust_remote_code` is left out: it counts only from the command line, never from a file.
    """
    values = cast("dict[str, Any]", _plain(config))
    del values["model"]["trust_remote_code"]
    return values


def encode_absolute(config: Config) -> dict[str, Any]:
    """The same with absolute paths, for a file that is read from another working directory."""
    values = encode(config)
    for dotted in PATH_KEYS:
        *sections, name = dotted.split(".")
        holder: Any = values
        for section in sections:
            holder = holder[section] or {}
        if isinstance(holder.get(name), str):
            holder[name] = _absolute(holder[name])
    values["run"]["output_dir"] = str(Path(values["run"]["output_dir"]).absolute())
    kept = values["model"]["image_cache_dir"]
    # Whether or not it exists yet: a run that goes on finds it there.
    values["model"]["image_cache_dir"] = kept and str(Path(kept).expanduser().absolute())
    for blend in ("train", "validation"):
        _make_absolute(values["data"][blend])
    return values


def _make_absolute(sources: list[dict[str, Any]]) -> None:
    """The paths of sources and of those inside them."""
    for source in sources:
        source["path"] = [_absolute(path) for path in source["path"]]
        if source.get("media_root"):
            source["media_root"] = _absolute(source["media_root"])
        _make_absolute(source["sources"])


def _absolute(path: str) -> str:
    """Absolute if it exists; of a pattern, if the folder before its first sign does."""
    there = _PATTERN.split(path)[0].rpartition("/")[0] if _PATTERN.search(path) else path
    return str(Path(path).absolute()) if path and Path(there or ".").exists() else path


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    return value


def scalar_text(value: Any) -> str:
    """A value on one line of YAML, readable by Hydra's command line too unless it holds quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return "{" + ", ".join(f"{name}: {scalar_text(item)}" for name, item in items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(scalar_text(item) for item in cast("list[Any]", value)) + "]"
    if isinstance(value, str):
        return _quote(value)
    return str(value)


def assignment(path: str, value: Any) -> str:
    """`path=value` as it can be pasted into a shell."""
    return shlex.quote(f"{path}={scalar_text(value)}")


def _float_text(value: float) -> str:
    text = repr(value)
    if text in ("inf", "-inf", "nan"):
        return text.replace("inf", ".inf").replace("nan", ".nan")
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa}{exponent}{power.replace('-0', '-').replace('+0', '+')}"


def _quote(text: str) -> str:
    is_plain = _PLAIN_TEXT.fullmatch(text) and not _NUMBER_LIKE.fullmatch(text) and text.lower() not in _WORDS
    # A reference that was resolved, or written with a backslash, must not be resolved again.
    return text if is_plain else json.dumps(text, ensure_ascii=False).replace("${", "\\\\${")


def to_yaml(values: Mapping[str, Any], comment: Callable[[str], str] | None = None) -> str:
    """YAML of nested plain values.

    Args:
        values: as `encode` gives them.
        comment: dotted path to what is written behind the value, "" for nothing.
    """
    return "\n".join(_lines(values, "", 0, comment or (lambda path: ""))) + "\n"


def _lines(value: Any, path: str, depth: int, comment: Callable[[str], str]) -> Iterator[str]:
    indent = "  " * depth
    for name, item in cast("Mapping[str, Any]", value).items():
        inner = f"{path}.{name}" if path else name
        if isinstance(item, Mapping) and item:
            yield f"{indent}{scalar_text(name)}:"
            yield from _lines(item, inner, depth + 1, comment)
        elif isinstance(item, list) and any(isinstance(part, Mapping) for part in cast("list[Any]", item)):
            yield f"{indent}{scalar_text(name)}:"
            for index, part in enumerate(cast("list[Any]", item)):
                block = list(_lines(part, f"{inner}.{index}", depth + 2, comment))
                yield f"{indent}  - {block[0].lstrip()}"
                yield from block[1:]
        else:
            note = comment(inner)
            yield f"{indent}{scalar_text(name)}: {scalar_text(item)}" + (f"  # {note}" if note else "")
