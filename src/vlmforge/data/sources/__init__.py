"""Sources: the files behind one entry of a blend as one numbered list of samples.

This file decides which reader a path gets, what a source is called, and what `rows` and several files mean.
It knows nothing of order or tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from vlmforge.config.schema import SourceConfig
from vlmforge.data.builtin import BUILTINS, PREFIX
from vlmforge.data.files import is_url
from vlmforge.data.formats import FORMATS, Format
from vlmforge.data.locations import FILE_SUFFIXES, Kind, classify_path, expand_paths
from vlmforge.data.prompts import Prompts, load_prompts
from vlmforge.data.row_ranges import RowRange
from vlmforge.data.sources.base import Rows, unreadable_error
from vlmforge.data.sources.builtin import BuiltinRows
from vlmforge.data.sources.csv import CsvRows
from vlmforge.data.sources.energon import Prepared, open_prepared, read_prepared
from vlmforge.data.sources.json_list import JsonListRows
from vlmforge.data.sources.jsonl import JsonlRows
from vlmforge.data.sources.library import LibraryRows, LibraryStream
from vlmforge.data.sources.parquet import ParquetRows
from vlmforge.data.sources.source import Arrival, Reading, Source, StreamSource
from vlmforge.data.sources.tar import TarRows
from vlmforge.errors import DataError, Problem

__all__ = [
    "Arrival",
    "Source",
    "StreamSource",
    "build_reading",
    "derive_name",
    "name_sources",
    "open_parts",
    "open_source",
    "open_stream",
]

ENERGON = "energon"


def open_source(config: SourceConfig, name: str, prompts: Prompts | None = None) -> Source:
    """Open one source whose rows are reached by number.

    Raises:
        DataError: a file is absent or empty, or `rows` reaches beyond the end.
    """
    reading = build_reading(config, name, prompts)
    opened = open_parts(config, reading)
    ends = tuple(accumulate(len(rows) for rows, _ in opened))
    start, stop = config.rows or (0, ends[-1])
    if stop > ends[-1]:
        fix = f"rows within [0, {ends[-1]}]"
        raise DataError(RowRange(name, start, stop).problem(ends[-1], f"source {name}", fix))
    roots = tuple(root for _, root in opened)
    return Source(reading, tuple(rows for rows, _ in opened), ends, start, stop, roots)


def open_stream(config: SourceConfig, name: str, prompts: Prompts | None = None) -> StreamSource:
    """Open a source with `streaming: true`.

    Raises:
        DataError: the data set cannot be opened.
    """
    assert len(config.path) == 1, "several paths of a stream passed gate 1"
    return StreamSource(build_reading(config, name, prompts), LibraryStream(config.path[0], config.split))


def build_reading(config: SourceConfig, name: str, prompts: Prompts | None = None) -> Reading:
    """How the rows of a source are read; what energon's own files say of it is taken from them.

    Raises:
        DataError: format energon, and a folder does not say what its samples are, or another says something else.
    """
    prepared = _find_prepared(config)
    subflavors = {**(prepared[0].subflavors if prepared else {}), **config.subflavors}
    format, columns = FORMATS[config.format or ENERGON], config.columns
    if format is FORMATS[ENERGON] and prepared:
        format, columns = FORMATS[prepared[0].format_name], prepared[0].columns
        for other in prepared[1:]:
            if (other.class_name, other.columns) != (prepared[0].class_name, prepared[0].columns):
                what = f"{other.path} and {prepared[0].path} are prepared as different samples"
                raise DataError(Problem(what, other.path, "make them two sources"))
    elif format is FORMATS[ENERGON]:
        # Built-in samples of a recipe that has prepared data.
        format = FORMATS["captioning"]
    if subflavors.get("augmentation"):
        what = f"source {name}: subflavor augmentation = {subflavors['augmentation']}, and pictures are not augmented"
        raise DataError(Problem(what, f"source {name}", "subflavors: {augmentation: false}, also in .nv-meta"))
    return Reading(name, format, columns, config.fetch_media, subflavors, prompts or load_prompts(None))


def open_parts(config: SourceConfig, reading: Reading) -> list[tuple[Rows, str]]:
    """The files of a source, each with the place where relative paths of its images start.

    Raises:
        DataError: one is absent or cannot be opened.
    """
    parts: list[tuple[Rows, str]] = []
    for path in expand_paths(config.path):
        root = config.media_root or _folder_of(path)
        parts.extend((rows, root) for rows in _open_path(path, config, reading.format, reading.columns))
    if not parts:
        problem = Problem(f"no file is called like {', '.join(config.path)}", "source", "mend the pattern")
        raise DataError(problem)
    return parts


def _open_path(path: str, config: SourceConfig, format: Format, columns: Mapping[str, str]) -> Sequence[Rows]:
    """The reader that fits a path."""
    kind = classify_path(path)
    if kind is Kind.BUILTIN:
        name = path.removeprefix(PREFIX)
        return [BuiltinRows(name, BUILTINS[name], columns)]
    if kind is Kind.PREPARED:
        return open_prepared(read_prepared(path), config.split)
    if kind in (Kind.FOLDER, Kind.HUB):
        return [LibraryRows(path, config.split)]
    try:
        if kind is Kind.FILE:
            return [_open_file(path, format.top_level_columns(columns))]
    except FileNotFoundError:
        pass
    except OSError as error:
        raise unreadable_error(path, error) from None
    raise DataError(Problem(f"file {path} does not exist", f"source of {path}", "give the path of a file"))


def _open_file(path: str, top_level_columns: Sequence[str]) -> Rows:
    """The reader that fits a file's ending."""
    if path.endswith(".parquet"):
        return ParquetRows(path, top_level_columns)
    if path.endswith(".tar"):
        return TarRows(path)
    if path.endswith(".json"):
        return JsonListRows(path)
    return JsonlRows(path) if path.endswith(".jsonl") else CsvRows(path)


def _find_prepared(config: SourceConfig) -> list[Prepared]:
    """What the prepared folders of a source say of themselves."""
    return [read_prepared(path) for path in expand_paths(config.path) if classify_path(path) is Kind.PREPARED]


def _folder_of(path: str) -> str:
    """The folder of a data file; empty for what is none."""
    if not path.endswith(FILE_SUFFIXES):
        return ""
    return path.rpartition("/")[0] if is_url(path) else str(Path(path).parent)


def name_sources(configs: Sequence[SourceConfig]) -> list[str]:
    """Names that tell the sources apart: `name`, else the first file's stem; a second one gets `-2`."""
    names: list[str] = []
    for config in configs:
        wanted = config.name or derive_name(config.path)
        name, count = wanted, 1
        while name in names:
            count += 1
            name = f"{wanted}-{count}"
        names.append(name)
    return names


def derive_name(paths: Sequence[str]) -> str:
    """The stem of the first file, the last part of a folder or hub id, or what follows `builtin:`."""
    if not paths:
        return "unnamed"
    first = paths[0].removeprefix(PREFIX).rstrip("/")
    if not first.endswith(FILE_SUFFIXES):
        return Path(first).name
    # What is left of a pattern is no name for files: `train-{000..009}.tar` is train.
    return re.split(r"[*?{\[]", Path(first).stem)[0].rstrip("-_.") or Path(first).parent.name or "unnamed"
