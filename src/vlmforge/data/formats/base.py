"""What a data format is, and how its columns are found in a row.

A format names the columns it needs and turns their values into a `Sample`; it never opens files and never
tokenizes. Where a column is in the row is the source's business: `columns` maps a format's column to a dotted
path, such as `prompt: extra_info.question`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from vlmforge.data.prompts import Prompts, load_prompts
from vlmforge.data.sample import Place, Sample
from vlmforge.errors import nearest


@dataclass(frozen=True)
class Guidance:
    """What besides the row decides how it is read.

    Attributes:
        seed: all that a random choice depends on.
        key: the row's own name, as tar shards have it; empty elsewhere.
        subflavors: labels of its source, as energon's blends give them.
        prompts: prompts to choose from, by category and variant.
    """

    seed: str = ""
    key: str = ""
    subflavors: Mapping[str, Any] = field(default_factory=dict)
    prompts: Prompts = field(default_factory=partial(load_prompts, None))

    def random(self) -> random.Random:
        """A source of choices that starts anew with every call."""
        return random.Random(self.seed)


@dataclass(frozen=True)
class Format:
    """One way to read a row.

    Attributes:
        name: as `format:` of a source says it.
        required: columns that every row must have.
        optional: columns that a row may have.
        parse_fields: makes a sample of the values by column name; optional ones may be absent.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    parse_fields: Callable[[Mapping[str, Any], Place, Guidance], Sample]

    def parse(
        self, row: Mapping[str, Any], columns: Mapping[str, str], place: Place, guidance: Guidance | None = None
    ) -> Sample:
        """Make a sample of a raw row.

        Args:
            row: the row as its file has it.
            columns: the source's `columns`: where a format's column is, dotted; absent ones keep their name.
            place: where the row was read, for messages.
            guidance: what else decides; None: nothing.

        Raises:
            BadSampleError: a column is absent or null, or holds something else than the format expects.
        """
        fields: dict[str, Any] = {}
        for column in self.required:
            fields[column] = _find_required(row, column, columns.get(column, column), place)
        for column in self.optional:
            value = find_value(row, columns.get(column, column))
            if value is not None:
                fields[column] = value
        try:
            return self.parse_fields(fields, place, guidance or Guidance())
        except RecursionError:
            raise place.error("the row is nested too deeply", "give its lists and objects fewer levels") from None

    def top_level_columns(self, columns: Mapping[str, str]) -> tuple[str, ...]:
        """The row's own keys that this format looks at, which is all that a column store needs to read."""
        paths = [path for column in (*self.required, *self.optional) for path in columns.get(column, column).split(";")]
        return tuple(dict.fromkeys(key for path in paths for key in (path, path.split(".")[0])))


def find_value(row: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, or None.

    Numbers in a path count into lists; of paths with semicolons between them the first that leads somewhere counts,
    as in `jpg;png`. A key that contains dots itself is found as well.
    """
    for way in path.split(";"):
        value = row[way] if way in row else _descend(row, way.split("."))
        if value is not None:
            return value
    return None


def _descend(value: Any, keys: Sequence[str]) -> Any:
    """What stands below some keys, one within the other."""
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes) and key.isdigit():
            value = value[int(key)] if int(key) < len(value) else None
        else:
            return None
    return value


def list_paths(row: Mapping[str, Any]) -> list[str]:
    """All dotted paths of a row, for messages; a key with a mapping below it is listed with what is in it."""
    paths: list[str] = []
    for key, value in row.items():
        if isinstance(value, Mapping) and value:
            paths.extend(f"{key}.{inner}" for inner in list_paths(value))
        else:
            paths.append(str(key))
    return paths


# What members of tar shards that hold a column are called.
_MEMBERS = {
    "image": ("jpg", "jpeg", "png", "webp"),
    "video": ("mp4", "webm", "avi"),
    "caption": ("txt",),
    "text": ("txt",),
    "messages": ("json",),
}


def advise_column(column: str, path: str, existing: list[str]) -> str:
    """The `fix:` line for a column that is not there: the nearest existing one."""
    # `__key__` of a tar is the sample's name.
    known = [name for name in existing if not name.startswith("__")]
    usual = [name for name in _MEMBERS.get(column, ()) if name in known]
    near = nearest(path, known, limit=1) or usual or nearest(column, known, limit=1) or known
    example = near[0] if near else "name_of_the_column"
    return f"say where it is, for example  columns: {{{column}: {example}}}"


def _find_required(row: Mapping[str, Any], column: str, path: str, place: Place) -> Any:
    """A required value, or an error that lists the columns there are."""
    value = find_value(row, path)
    if value is not None:
        return value
    existing = list_paths(row)
    state = "is null" if path in existing else f"is absent; the row has {', '.join(existing) or 'no columns'}"
    fix = "give the row a value, or leave it out with  data.on_bad_sample=skip"
    fix = fix if path in existing else advise_column(column, path, existing)
    raise place.error(f"column {path} {state}", fix, "missing_column")


def require_text(value: Any, column: str, place: Place) -> str:
    """A string that is not blank.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(value, str):
        kind = type(value).__name__
        raise place.error(f"{column} is of type {kind}, not a string", f"write {column} as a string")
    if not value.strip():
        fix = "give it some text, or leave such rows out with  data.on_bad_sample=skip"
        raise place.error(f"{column} is empty", fix, "empty")
    return value
