"""Folders that `energon prepare` has made: tar shards, and in `.nv-meta` which of them belong to which split.

What is read: `dataset.yaml` (sample type, field map, subflavors), `split.yaml` (shards of each split, excluded shards
and samples), `.info.json` (samples of each shard), and where samples start (`shard.tar.idx`, else `index.sqlite`).
Sample loaders are Python code of the data set; they are refused.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vlmforge.data.bad import tell_json_error
from vlmforge.data.files import expand_pattern, is_file, is_url, open_file, stamp
from vlmforge.data.locations import PREPARED_META
from vlmforge.data.sources.base import RawRow
from vlmforge.data.sources.index import Table
from vlmforge.data.sources.tar import KEY, TarRows, split_name
from vlmforge.data.sources.tar_members import read_members
from vlmforge.errors import DataError, Problem, nearest, one_of

DEFAULT_SPLIT = "train"

# Energon's class of a sample, as dataset.yaml names it today and as it did once, to our format.
_FORMAT_OF_CLASS: Mapping[str, str] = {
    "Captioning": "captioning",
    "VQA": "vqa",
    "VQAOCR": "vqa",
    "MultiChoiceVQA": "multi_choice_vqa",
    "OCR": "ocr",
    "SimilarityInterleaved": "similarity_interleaved",
    "OfflineTargetAspectRatio": "similarity_interleaved",
    "VidQA": "video_qa",
    "Text": "text",
}
_CLASS_SUFFIXES = ("Sample", "Webdataset")


@dataclass(frozen=True)
class Prepared:
    """One prepared folder.

    Attributes:
        path: the folder.
        class_name: energon's class of its samples; None: it names none.
        columns: where the fields of our format are in a row.
        subflavors: labels that route its samples.
        splits: shards of each split.
        counts: samples of each shard, in energon's own numbering of shards.
        excluded: `shard/key` of samples that are left out.
    """

    path: str
    class_name: str | None
    columns: Mapping[str, str]
    subflavors: Mapping[str, Any]
    splits: Mapping[str, Sequence[str]]
    counts: Mapping[str, int]
    excluded: frozenset[str]

    @property
    def format_name(self) -> str:
        """Our format for its samples.

        Raises:
            DataError: there is none.
        """
        name = self.class_name or ""
        for suffix in _CLASS_SUFFIXES:
            name = name.removesuffix(suffix)
        if name in _FORMAT_OF_CLASS:
            return _FORMAT_OF_CLASS[name]
        known = one_of([f"{name}Sample" for name in _FORMAT_OF_CLASS])
        said = "names no class of its samples" if self.class_name is None else f"says __class__: {self.class_name}"
        raise _error(
            f"{self.path}/{PREPARED_META}/dataset.yaml",
            f"{said}; what can be read is {known}, and the same with Webdataset in place of Sample",
            "say how to read its members: another format, with columns, for example  format: messages, "
            "columns: {messages: json.messages}",
        )


def read_prepared(path: str) -> Prepared:
    """What stands in `.nv-meta`.

    Raises:
        DataError: a file of it is missing or damaged, or names code to run.
    """
    path = path.rstrip("/")
    dataset = _read(path, ("dataset.yaml",), optional=True)
    info = _read(path, (".info.json", ".info.yaml"))
    split = _read(path, ("split.yaml", "split.json"))
    code = next((name for name in ("sample_loader", "part_filter") if name in dataset), None)
    if code is not None:
        fix = "say how to read its members: a format with columns, for example  columns: {image: jpg, caption: txt}"
        what = f"says {code}: {dataset[code]}, which is Python code of the data set and is not run"
        raise _error(f"{path}/{PREPARED_META}/dataset.yaml", what, fix)
    excluded = [name for pattern in split.get("exclude") or () for name in expand_pattern(str(pattern))]
    at = f"{path}/{PREPARED_META}/dataset.yaml"
    kind = (_section(dataset, "sample_type", at) or dataset).get("__class__")
    counts = _section(info, "shard_counts", f"{path}/{PREPARED_META}/.info.json")
    parts = _section(split, "split_parts", f"{path}/{PREPARED_META}/split.yaml")
    return Prepared(
        path=path,
        class_name=None if kind is None else str(kind),
        columns={name: _translate_access(str(way)) for name, way in _section(dataset, "field_map", at).items()},
        subflavors=_section(dataset, "subflavors", at),
        splits={
            part: [shard for pattern in shards or () for shard in expand_pattern(str(pattern)) if shard not in excluded]
            for part, shards in parts.items()
        },
        counts={shard: int(count) for shard, count in counts.items()},
        excluded=frozenset(name for name in excluded if name not in counts),
    )


def _section(content: Mapping[str, Any], name: str, at: str) -> Mapping[str, Any]:
    """A mapping of a file of `.nv-meta`; empty where it has none of that name."""
    section = content.get(name) or {}
    if not isinstance(section, Mapping):
        raise _error(at, f"says {name}: {section}, which must be a mapping", "energon prepare again")
    return section


def open_prepared(prepared: Prepared, split: str | None) -> list[PreparedRows]:
    """The shards of one split, none of them touched yet.

    Raises:
        DataError: the split does not exist, or `.info.json` does not know one of its shards.
    """
    wanted = split or DEFAULT_SPLIT
    if not prepared.splits.get(wanted):
        names = [name for name, shards in prepared.splits.items() if shards]
        near = nearest(wanted, names, limit=1) or names or [DEFAULT_SPLIT]
        what = f"has no shards in split {wanted}; splits with shards: {', '.join(names) or 'none'}"
        raise _error(f"{prepared.path}/{PREPARED_META}/split.yaml", what, f"split: {near[0]}")
    unknown = [shard for shard in prepared.splits[wanted] if shard not in prepared.counts]
    if unknown:
        raise _error(
            f"{prepared.path}/{PREPARED_META}/.info.json",
            f"does not count the samples of shard {unknown[0]}",
            "energon prepare again, or give the shards themselves as path:  path: folder/*.tar",
        )
    for shard in prepared.splits[wanted]:
        # A look at each is cheap on this machine, and dear at an address.
        if not is_url(prepared.path) and not is_file(f"{prepared.path}/{shard}"):
            raise _error(f"{prepared.path}/{shard}", "does not exist, and split.yaml names it", "energon prepare again")
    return [PreparedRows(prepared, shard) for shard in prepared.splits[wanted] if prepared.counts[shard]]


class PreparedRows(TarRows):
    """The samples of one shard, without those that split.yaml excludes."""

    def __init__(self, prepared: Prepared, shard: str) -> None:
        """Remember the shard, whose number of samples `.info.json` knows."""
        super().__init__(f"{prepared.path}/{shard}")
        self._prepared = prepared
        self._shard = shard
        self._kept: Table | None = None
        self._has_excluded = any(name.startswith(f"{shard}/") for name in prepared.excluded)

    def __len__(self) -> int:
        """Number of samples, without opening the shard."""
        if self._has_excluded:
            return len(self._find_kept())
        return self._prepared.counts[self._shard]

    def __getitem__(self, i: int) -> RawRow:
        """Sample i, counted from 0; its `__key__` has the shard's name in front."""
        row = super().__getitem__(int(self._find_kept()[i]) if self._has_excluded else i)
        row[KEY] = f"{self._shard}/{row[KEY]}"
        return row

    def bytes_to_count(self) -> int:
        """None: `.info.json` has told; all of them where samples are excluded by name."""
        return stamp(self.path).size if self._has_excluded else 0

    def _load_starts(self) -> Table:
        """The table of the shard, as long as `.info.json` says."""
        starts = self._load_sqlite() if not is_file(f"{self.path}.idx") else None
        if starts is None:
            starts = super()._load_starts()
        expected = self._prepared.counts[self._shard]
        if len(starts) - 1 != expected:
            what = f"counts {expected} samples in {self._shard}, which has {len(starts) - 1}"
            raise _error(f"{self._prepared.path}/{PREPARED_META}/.info.json", what, "energon prepare again")
        return starts

    def _find_kept(self) -> Table:
        """Numbers in the shard of the samples that are not excluded."""
        if self._kept is None:
            keys = (self._read_key(i) for i in range(self._prepared.counts[self._shard]))
            kept = [i for i, key in enumerate(keys) if f"{self._shard}/{key}" not in self._prepared.excluded]
            self._kept = np.array(kept, np.int64)
        return self._kept

    def _read_key(self, i: int) -> str | None:
        """Of one sample of the shard, by the names of its members alone; None if it has no such name."""
        names = (split_name(path) for path, _ in read_members(self._read(i)))
        return next((name[0] for name in names if name is not None), None)

    def _load_sqlite(self) -> Table | None:
        """The shard's part of `index.sqlite`, where that is on this machine and has samples."""
        database = f"{self._prepared.path}/{PREPARED_META}/index.sqlite"
        if is_url(database) or not is_file(database):
            return None
        number = list(self._prepared.counts).index(self._shard)
        query = "SELECT byte_offset, byte_size FROM samples WHERE tar_file_id = ? ORDER BY sample_index"
        try:
            connection = sqlite3.connect(f"{Path(database).resolve().as_uri()}?mode=ro&immutable=1", uri=True)
            try:
                found = connection.execute(query, (number,)).fetchall()
            finally:
                connection.close()
        except sqlite3.Error:
            # Older versions of energon wrote none, or another one; the shard itself knows.
            return None
        if not found or any(offset is None or size is None for offset, size in found):
            return None
        return np.array([*(offset for offset, _ in found), sum(found[-1])], np.int64)


def _read(path: str, names: Sequence[str], *, optional: bool = False) -> dict[str, Any]:
    """The first of these files of `.nv-meta`."""
    for name in names:
        at = f"{path}/{PREPARED_META}/{name}"
        if not is_file(at):
            continue
        with open_file(at) as file:
            content = file.read()
        try:
            read = json.loads(content) if name.endswith(".json") else yaml.safe_load(content)
        except ValueError as error:
            raise _error(at, f"cannot be read: {tell_json_error(error)}", "energon prepare again") from None
        except yaml.YAMLError as error:
            raise _error(at, f"cannot be read: {_tell_yaml_error(error)}", "energon prepare again") from None
        if isinstance(read, dict):
            return read
        raise _error(at, f"holds a {type(read).__name__}, not an object", "energon prepare again")
    if optional:
        return {}
    raise _error(f"{path}/{PREPARED_META}/{names[0]}", "does not exist", "energon prepare, or give  path: folder/*.tar")


def _tell_yaml_error(error: yaml.YAMLError) -> str:
    """What is wrong with some YAML, and in which line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return str(error).splitlines()[0]


def _translate_access(access: str) -> str:
    """`jpg,png` and `json[0][value]` in our own words, `jpg;png` and `json.0.value`."""
    return ";".join(part.replace("][", ".").replace("[", ".").rstrip("]") for part in access.split(","))


def _error(at: str, rule: str, fix: str) -> DataError:
    return DataError(Problem(f"{at} {rule}", at, fix))
