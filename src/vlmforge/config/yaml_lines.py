"""Reads a YAML file for its line numbers, and refuses what a recipe may not say.

The values themselves are loaded by Hydra; this file only knows where each was written. It finds every refusal in a
file, so that the file is rejected before anything in it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from vlmforge.config.recipes import display_path
from vlmforge.errors import ConfigError, Problem

# Deeper nesting has no meaning for any key, and a YAML alias may point into itself.
MAX_DEPTH = 32


@dataclass(frozen=True)
class Entry:
    """One key (or list item) of a YAML file.

    Attributes:
        path: its keys from the top, list indices as text.
        line: counted from 1.
        text: the scalar as written; null for a mapping or a list.
        is_mapping: whether deeper keys are merged with other files' instead of replacing them.
    """

    path: tuple[str, ...]
    line: int
    text: str | None
    is_mapping: bool


@dataclass(frozen=True)
class YamlFile:
    """A YAML file as written.

    Attributes:
        path: the file.
        entries: every key and list item, outer before inner.
        faults: why it cannot be used as a whole.
        refused: keys that no YAML may have, to be left out of what is composed, with their problems.
    """

    path: Path
    entries: tuple[Entry, ...]
    faults: tuple[Problem, ...]
    refused: Mapping[tuple[str, ...], Problem]

    def where(self, line: int = 1) -> str:
        """`file:line`, for messages."""
        return f"{display_path(self.path)}:{line}"

    def under(self, *path: str) -> list[Entry]:
        """The entries below a path."""
        return [entry for entry in self.entries if len(entry.path) > len(path) and entry.path[: len(path)] == path]


def read_yaml(path: Path) -> YamlFile:
    """Read a file's keys and lines.

    Raises:
        ConfigError: it is no YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise ConfigError(_unreadable(path, error)) from error
    problems = list(_header_problems(path, text))
    try:
        root = loader.get_single_node()
        entries = tuple(_walk(loader, root, (), problems, path)) if root is not None else ()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([*problems, _syntax_problem(path, error)]) from error
    finally:
        loader.dispose()  # pyright: ignore[reportUnknownMemberType]
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise ConfigError(
            Problem(
                what=f"{display_path(path)} must be a YAML mapping of sections",
                where=f"{display_path(path)}:{root.start_mark.line + 1}",
                fix="write keys such as `stage:` at the top of the file",
            )
        )
    refused = {entry.path: problem for entry in entries for problem in _entry_problems(path, entry)}
    return YamlFile(path, entries, tuple(problems), refused)


def _unreadable(path: Path, error: UnicodeDecodeError | yaml.reader.ReaderError) -> Problem:
    return Problem(
        what=f"{display_path(path)} is not YAML in UTF-8: {error.reason}",
        where=f"{display_path(path)}:1",
        fix="save the file as UTF-8, without control characters",
    )


def _syntax_problem(path: Path, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    return Problem(
        what=f"{display_path(path)} is not valid YAML: {error.problem or error.context}",
        where=f"{display_path(path)}:{line}",
        fix="check the indentation and the quotes of this line and the one before it",
    )


def _walk(
    loader: yaml.SafeLoader, node: yaml.Node, path: tuple[str, ...], problems: list[Problem], file: Path
) -> Iterator[Entry]:
    """Every entry below a node; problems of the YAML itself are added to `problems`."""
    if len(path) > MAX_DEPTH:
        return
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        problems.append(
            Problem(
                what=f"{'.'.join(path)} has the YAML tag {node.tag}; values are plain data",
                where=f"{display_path(file)}:{node.start_mark.line + 1}",
                fix="remove the tag",
            )
        )
    for name, key_node, value in _children(loader, node, problems, file):
        deeper = (*path, name)
        text = value.value if isinstance(value, yaml.ScalarNode) else None
        yield Entry(deeper, key_node.start_mark.line + 1, text, isinstance(value, yaml.MappingNode))
        yield from _walk(loader, value, deeper, problems, file)


def _children(
    loader: yaml.SafeLoader, node: yaml.Node, problems: list[Problem], file: Path
) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Name, node that carries the line, and value of everything one level down."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield str(index), item, item
    if not isinstance(node, yaml.MappingNode):
        return
    written = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    loader.flatten_mapping(node)
    seen: set[str] = set()
    for key, value in node.value:
        name = str(key.value)
        if name in seen and written.count(name) > 1:
            problems.append(
                Problem(
                    what=f"{name} is written twice in the same section",
                    where=f"{display_path(file)}:{key.start_mark.line + 1}",
                    fix="keep one of the two lines",
                )
            )
        seen.add(name)
        yield name, key, value


def _header_problems(path: Path, text: str) -> Iterator[Problem]:
    """Hydra's package header would move the keys of a file; a file's folder says where they belong."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            return
        if re.match(r"\s*#\s*@package\b", line):
            yield Problem(
                what=f"{display_path(path)} has a package header; a recipe's keys stay where they are written",
                where=f"{display_path(path)}:{number}",
                fix="remove the line",
            )


def _entry_problems(path: Path, entry: Entry) -> Iterator[Problem]:
    """What no YAML may say: names of code, and settings of Hydra itself."""
    where = f"{display_path(path)}:{entry.line}"
    name = entry.path[-1]
    dotted = ".".join(entry.path)
    if name == "_target_":
        yield Problem(
            what=f"{dotted} = {entry.text}: no value can name code to run",
            where=where,
            fix="remove the line",
        )
    if entry.path == ("hydra",):
        yield Problem(
            what="hydra is not a key: a recipe does not configure Hydra",
            where=where,
            fix="remove the section",
        )
