"""Reads the blend files of Megatron-Energon: metadatasets, version 1 and 2, as they are.

Their class names are compared and never imported. Paths are relative to the file; a path that is itself a blend file
is read too. Which samples a data set holds is not looked at here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from vlmforge.config.encode import scalar_text
from vlmforge.config.recipes import YAML_SUFFIXES
from vlmforge.config.schema import SourceConfig
from vlmforge.config.yaml_lines import YamlFile, read_yaml
from vlmforge.data.leaves import Group, Leaf, Subset, Terms
from vlmforge.data.locations import FILE_SUFFIXES
from vlmforge.data.sources import ENERGON
from vlmforge.errors import ConfigError, Problem, nearest, one_of

_CLASSES = ("Metadataset", "MetadatasetV2")
_TOP_KEYS = ("__module__", "__class__", "splits")
# What an entry consists of, how much it gives, and what holds for everything in it. The shuffling of energon, which
# `shuffle_over_epochs_multiplier` tunes, is a buffer that there is none of here.
_CONTENTS = ("path", "datasets", "blend", "blend_epochized")
_MEASURES = ("weight", "repetitions")
_MARKS = ("split_part", "subflavor", "subflavors", "subset", "shuffle_over_epochs_multiplier")
_KEYS = (*_CONTENTS, *_MEASURES, *_MARKS)
# What a source of a recipe says of files, and an entry here does not.
_OF_FILES = ("format", "columns", "media_root")
_UNSUPPORTED = {
    "join": "samples of several data sets are not joined; write the joined samples as a data set of their own",
    "joiner": "samples of several data sets are not joined; write the joined samples as a data set of their own",
    "aux": "data sets beside a data set are not read; write what the samples need into their own shards",
    "dataset_config": "only .nv-meta/dataset.yaml is read; name the file so",
    "split_config": "only .nv-meta/split.yaml is read; name the file so",
}


@dataclass(frozen=True)
class _Around:
    """What an entry inherits from those around it.

    Attributes:
        split: of the blend, where an entry does not say another.
        subflavors: which win over those further in.
        subsets: from the outermost to the innermost.
    """

    split: str
    subflavors: Mapping[str, Any]
    subsets: tuple[Subset, ...] = ()


def read_blend(source: SourceConfig, at: str, split: str, terms: Terms, problems: list[Problem]) -> Group | None:
    """The tree of a blend file.

    Args:
        source: an entry of a recipe with the file as its path; its `split` and `subflavors` hold for all of it, its
            `format` and `columns` for data sets that do not say what they hold.
        at: the entry's dotted path.
        split: which split is read unless the entry says another.
        terms: of the whole blend in the recipe.
        problems: what is wrong is added here.

    Returns:
        The tree; None if nothing could be read.
    """
    path = Path(source.path[0])
    around = _Around(source.split or split, source.subflavors)
    found = _File(path, source, at, problems, ()).split(around)
    return found if found is None else replace(found, terms=terms)


class _File:
    """One blend file on the way to its tree."""

    def __init__(
        self, path: Path, source: SourceConfig, at: str, problems: list[Problem], readers: tuple[Path, ...]
    ) -> None:
        """Remember the file and those that led to it."""
        self._path = path
        self._source = source
        self._at = at
        self._problems = problems
        self._readers = (*readers, path.resolve())
        self._lines: dict[tuple[str, ...], int] = {}
        self._yaml: YamlFile | None = None

    def split(self, around: _Around) -> Group | None:
        """The tree of the split that is asked for."""
        splits = self._load()
        if splits is None:
            return None
        if around.split not in splits:
            near = nearest(around.split, splits, limit=1) or list(splits) or ["train"]
            rule = f"has no split {around.split}, only {one_of(list(splits)) if splits else 'none at all'}"
            self._report(("splits",), rule, f"{self._at}.split={near[0]}, or split_part: {near[0]}")
            return None
        part = self._entry(splits[around.split], ("splits", around.split), around, Terms())
        return Group((part,)) if isinstance(part, Leaf) else part

    def _load(self) -> Mapping[str, Any] | None:
        """The splits of the file."""
        if not self._path.is_file():
            self._problems.append(
                Problem(f"{self._at}.path = {self._path} does not exist", self._at, "give the path of an energon blend")
            )
            return None
        try:
            self._yaml = read_yaml(self._path)
        except ConfigError as error:
            self._problems.extend(error.problems)
            return None
        self._lines = {entry.path: entry.line for entry in self._yaml.entries}
        refused = [*self._yaml.faults, *self._yaml.refused.values()]
        self._problems.extend(refused)
        content = None if refused else yaml.safe_load(self._path.read_text(encoding="utf-8"))
        return None if content is None else self._check_top(content)

    def _check_top(self, content: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The head of the file: a class that is known, and splits."""
        kind = content.get("__class__", _CLASSES[0])
        if kind not in _CLASSES:
            self._report(("__class__",), f"= {kind} must be {one_of(_CLASSES)}", f"__class__: {_CLASSES[1]}")
        for name in content:
            if name not in _TOP_KEYS:
                self._report((name,), f"is no key of a blend, which has {one_of(_TOP_KEYS)}", "remove it")
        splits = content.get("splits")
        if not isinstance(splits, Mapping):
            self._report((), "has no splits, so it is no energon blend", "splits: {train: {blend: [{path: ...}]}}")
            return None
        return splits

    def _entry(self, entry: Any, at: tuple[str, ...], around: _Around, terms: Terms) -> Leaf | Group | None:
        """A data set, another blend file, or a blend of further entries."""
        if not isinstance(entry, Mapping) or not self._check_keys(entry, at):
            if not isinstance(entry, Mapping):
                self._report(at, f"= {scalar_text(entry)} must be a mapping with a path or a blend", "path: ./folder")
            return None
        inner = self._look_inside(entry, at, around)
        if "path" in entry:
            return self._path_entry(entry, at, inner, terms)
        for name in _CONTENTS[1:]:
            if name in entry:
                return self._blend(entry[name], (*at, name), inner, terms, is_epochized=name == "blend_epochized")
        self._report(at, f"needs {one_of(_CONTENTS)}", "path: ./folder")
        return None

    def _check_keys(self, entry: Mapping[str, Any], at: tuple[str, ...]) -> bool:
        """Whether every key is known and can be followed."""
        unknown = [name for name in entry if name not in _KEYS]
        for name in unknown:
            near = nearest(str(name), _KEYS, limit=1)
            fix = _UNSUPPORTED.get(name) or (f"use {near[0]}" if near else "remove it")
            fix = self._advise_file() if name in _OF_FILES else fix
            self._report((*at, name), "cannot be followed" if name in _UNSUPPORTED else "is no key of an entry", fix)
        contents = [name for name in _CONTENTS if name in entry]
        if len(contents) > 1:
            self._report(at, f"has {' and '.join(contents)}, and must have one of them", f"keep {contents[0]}")
        return not unknown and len(contents) <= 1

    def _look_inside(self, entry: Mapping[str, Any], at: tuple[str, ...], around: _Around) -> _Around:
        """What holds for everything in an entry; outer subflavors win, outer subsets come last."""
        own = dict(entry.get("subflavors") or {})
        if entry.get("subflavor") is not None:
            own = {"__subflavor__": entry["subflavor"], **own}
        subset = self._subset(entry["subset"], (*at, "subset")) if entry.get("subset") is not None else None
        is_data_set = "path" in entry and not str(entry["path"]).endswith(YAML_SUFFIXES)
        if subset is not None and isinstance(subset.start, int) and not is_data_set:
            self._report(
                (*at, "subset"), "must be in percent: it is of several data sets", "subset: {range: [0%, 50%]}"
            )
        return _Around(
            split=str(entry.get("split_part") or around.split),
            subflavors={**own, **around.subflavors},
            subsets=around.subsets if subset is None else (*around.subsets, subset),
        )

    def _path_entry(
        self, entry: Mapping[str, Any], at: tuple[str, ...], inner: _Around, terms: Terms
    ) -> Leaf | Group | None:
        """A data set is a leaf; the file of another blend is opened."""
        path = self._locate(str(entry["path"]))
        if not path.endswith(YAML_SUFFIXES):
            leaf = SourceConfig(path=(path,), format=ENERGON, split=inner.split, subflavors=inner.subflavors)
            if path.endswith(FILE_SUFFIXES):
                if not self._source.format:
                    rule = f"= {path} is a file, and nothing says what its rows are"
                    self._report((*at, "path"), rule, self._advise_file())
                    return None
                leaf = replace(self._source, path=(path,), split=None, subflavors=inner.subflavors)
            return Leaf(leaf, self._at, self._where((*at, "path")), terms, tuple(reversed(inner.subsets)))
        if Path(path).resolve() in self._readers:
            self._report((*at, "path"), f"= {path} is a blend that holds itself", "name a data set")
            return None
        found = _File(Path(path), self._source, self._at, self._problems, self._readers).split(inner)
        return found if found is None else replace(found, terms=terms)

    def _advise_file(self) -> str:
        """A blend has no words for the rows of a file, but the recipe has."""
        entry = f"{{path: {self._source.path[0]}, format: messages}}"
        return f"{self._at} in the recipe: {entry}; format, columns and media_root hold for every file of the blend"

    def _blend(
        self, entries: Any, at: tuple[str, ...], around: _Around, terms: Terms, *, is_epochized: bool
    ) -> Group | None:
        """Several entries with weights, or with whole numbers of repetitions."""
        if not isinstance(entries, list) or not entries:
            self._report(at, "must be a list of entries", "- {path: ./folder, weight: 1}")
            return None
        name = "repetitions" if is_epochized else "weight"
        parts: list[Leaf | Group] = []
        for index, entry in enumerate(entries):
            here = (*at, str(index))
            weight = self._measure(entry, here, name)
            if weight == 0:
                # Never drawn from, in energon too.
                continue
            part = self._entry(entry, here, around, Terms(weight))
            if part is not None:
                parts.append(part)
        return Group(tuple(parts), "epochs" if is_epochized else "samples", terms) if parts else None

    def _measure(self, entry: Any, at: tuple[str, ...], name: str) -> Fraction:
        """An entry's weight or repetitions; 1 where it says nothing."""
        other = next(known for known in _MEASURES if known != name)
        if isinstance(entry, Mapping) and other in entry:
            self._report((*at, other), f"has no effect here; this blend counts {name}", f"use {name}")
        value = entry.get(name, 1) if isinstance(entry, Mapping) else 1
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
        if not is_number:
            self._report((*at, name), f"= {scalar_text(value)} must be a number of at least 0", f"{name}: 1.0")
            return Fraction(1)
        return Fraction(str(value))

    def _subset(self, value: Any, at: tuple[str, ...]) -> Subset | None:
        """`{range: [start, stop]}` in percent or in rows."""
        marks = value.get("range") if isinstance(value, Mapping) and len(value) == 1 else None
        if isinstance(marks, list) and len(marks) == 2:
            start, stop = _parse_mark(marks[0]), _parse_mark(marks[1])
            if start is not None and (type(start) is type(stop) or str(marks[1]).strip() == "end"):
                return Subset(start, stop)
        rule = f"= {scalar_text(value)} must be a range in percent or in rows, both ends in the same"
        self._report(at, rule, "subset: {range: [0%, 50%]}, or {range: [0, 1000]}")
        return None

    def _locate(self, path: str) -> str:
        """A path as seen from the working directory; URLs stay as they are."""
        return path if "://" in path else os.path.normpath(self._path.parent / path)

    def _where(self, at: tuple[str, ...]) -> str:
        """`file:line` of an entry, or of what stands around it."""
        while at and at not in self._lines:
            at = at[:-1]
        assert self._yaml is not None, "a place in a file that was not read"
        return self._yaml.where(self._lines.get(at, 1))

    def _report(self, at: tuple[str, ...], rule: str, fix: str) -> None:
        name = ".".join(at) or str(self._path)
        self._problems.append(Problem(f"{name} {rule}", self._where(at), fix))


def _parse_mark(mark: Any) -> int | Fraction | None:
    """A row number or a fraction of the rows; None for anything else."""
    if isinstance(mark, int) and not isinstance(mark, bool):
        return mark if mark >= 0 else None
    if not isinstance(mark, str) or not mark.strip().endswith("%"):
        return None
    try:
        share = Fraction(mark.strip().removesuffix("%").strip()) / 100
    except (ValueError, ZeroDivisionError):
        return None
    return share if 0 <= share <= 1 else None
