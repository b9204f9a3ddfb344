"""Gate 2: do the data files exist, and are they what the recipe says they are?

Looks at footers and first rows only, reports all problems at once, and imports neither torch nor transformers nor
datasets. A hub id is not looked up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from mimetypes import guess_type
from pathlib import Path

from vlmforge.config.schema import Config, SourceConfig
from vlmforge.config.sources import BLENDS
from vlmforge.data.builtin import BUILTINS, PREFIX
from vlmforge.data.files import is_folder, is_url
from vlmforge.data.first_rows import try_head, try_rows
from vlmforge.data.forecast import is_countable, is_openable
from vlmforge.data.formats import FORMATS
from vlmforge.data.formats.base import advise_column
from vlmforge.data.leaves import Group, Leaf
from vlmforge.data.locations import FILE_SUFFIXES, Kind, classify_path, expand_paths
from vlmforge.data.mixture import name_leaves
from vlmforge.data.path_advice import advise_folder, advise_foreign, advise_path
from vlmforge.data.prompts import Prompts, load_prompts
from vlmforge.data.row_ranges import RowRange, advise_rows
from vlmforge.data.sources import ENERGON, build_reading, open_parts, open_source
from vlmforge.data.sources.parquet import list_schema_paths
from vlmforge.data.tree import BlendBuilder
from vlmforge.errors import DataError, Problem, nearest, one_of

_WRITE_TABLE = "write a table as docs/data.md begins with, and give its path and  media_root: {}"


@dataclass(frozen=True)
class _Surroundings:
    """What the checks of every source need to know of the recipe.

    Attributes:
        origins: dotted path to where it was said.
        is_skipping: whether bad samples are left out.
        sees: whether the model takes pictures, or may.
        prompts: to choose from.
        ranges: of all sources with `rows`, by the files that they are of.
    """

    origins: Mapping[str, str]
    is_skipping: bool
    sees: bool
    prompts: Prompts
    ranges: Mapping[tuple[str, ...], Sequence[RowRange]]


def check_data(config: Config, origins: Mapping[str, str], *, sees: bool = True) -> list[Problem]:
    """Every problem of the data files.

    Args:
        config: the recipe; sources whose path or format gate 1 refuses are passed over.
        origins: dotted path to where it was said, such as `data.train.0.path`.
        sees: whether the model takes pictures, or may.
    """
    builder = BlendBuilder()
    problems: list[Problem] = []
    try:
        prompts = load_prompts(config.data.prompts)
    except DataError as error:
        at = origins.get("data.prompts", "data.prompts")
        return [replace(problem, where=at) for problem in error.problems]
    groups = {blend: builder.build(config.data, blend) for blend in BLENDS}
    leaves = [named for group in groups.values() for named in name_leaves(group)]
    ranges = _find_ranges(leaf for leaf, _ in leaves)
    around = _Surroundings(origins, config.data.on_bad_sample == "skip", sees, prompts, ranges)
    for leaf, name in leaves:
        if leaf.source.path and leaf.source.format in FORMATS:
            problems.extend(_LeafCheck(leaf, name, around).problems())
    problems.extend(_check_file_order(config, groups["train"], origins))
    return [*(_name_origin(problem, origins) for problem in builder.problems), *problems]


def _find_ranges(leaves: Iterable[Leaf]) -> dict[tuple[str, ...], list[RowRange]]:
    """The `rows` of all sources, by the files that they are of."""
    ranges: dict[tuple[str, ...], list[RowRange]] = {}
    for leaf in leaves:
        if leaf.source.rows is not None:
            ranges.setdefault(_files_of(leaf.source), []).append(RowRange(leaf.at, *leaf.source.rows))
    return ranges


def _files_of(source: SourceConfig) -> tuple[str, ...]:
    """What numbers the rows of a source: its files, and of a folder its split."""
    return (*expand_paths(source.path), source.split or "")


def _name_origin(problem: Problem, origins: Mapping[str, str]) -> Problem:
    """A problem whose place is a dotted path, with the line where that was said."""
    return replace(problem, where=_find_origin(f"{problem.where}.path", origins) or problem.where)


def _find_origin(path: str, origins: Mapping[str, str]) -> str | None:
    """Where a key was said, or the nearest section around it."""
    while path:
        if path in origins:
            return origins[path]
        path = path.rpartition(".")[0]
    return None


def _check_file_order(config: Config, group: Group, origins: Mapping[str, str]) -> Iterator[Problem]:
    """Weights of an energon blend, which gate 1 does not see, need mixing."""
    if not config.data.shuffle and group.is_mixed and any(leaf.where is not None for leaf in group.leaves()):
        yield Problem(
            "data.shuffle = false reads sources one after the other, so the weights of a blend have no effect",
            origins.get("data.shuffle", "data.shuffle"),
            "data.shuffle=true",
        )


class _LeafCheck:
    """The checks of one source."""

    def __init__(self, leaf: Leaf, name: str, around: _Surroundings) -> None:
        """Take the source and its name."""
        self._leaf = leaf
        self._source = leaf.source
        self._paths = expand_paths(leaf.source.path)
        self._name = name
        self._at = leaf.at
        self._around = around

    def problems(self) -> list[Problem]:
        """All of them; what rests on a file that is not there is not looked at."""
        try:
            found = [*self._check_patterns(), *(problem for path in self._paths for problem in self._check_path(path))]
            found.extend([*self._check_split(), *self._check_media_root()])
            if found or not is_openable(self._source):
                return found
            reading = build_reading(self._source, self._name, self._around.prompts)
            parts = open_parts(self._source, reading)
            if not is_countable(parts):
                return self._tell_rows(try_head(reading, *parts[0], self._paths[0], **self._manner))
            opened = open_source(self._without_rows(), self._name, self._around.prompts)
        except DataError as error:
            return [self._join_where(problem, "path") for problem in error.problems]
        start = self._source.rows[0] if self._source.rows else 0
        first = try_rows(opened, start, **self._manner)
        return [*self._check_rows(opened.ends[-1]), *self._tell_rows(first)]

    def _check_patterns(self) -> Iterator[Problem]:
        """Every pattern stands for something."""
        for path in self._source.path:
            if not expand_paths([path]):
                yield self._problem("path", f"{path} matches no file", advise_path(path))

    def _check_path(self, path: str) -> Iterator[Problem]:
        """One path of the source."""
        kind = classify_path(path)
        if kind is Kind.ABSENT:
            yield self._problem("path", f"{path} does not exist", advise_path(path))
        elif kind is Kind.FOREIGN:
            yield from self._check_foreign(path)
        elif kind is Kind.BUILTIN:
            yield from self._check_builtin(path.removeprefix(PREFIX))
        elif self._source.format == ENERGON and kind is not Kind.PREPARED:
            rule = f"{ENERGON}, but {path} is no folder that energon has prepared"
            other = f"{self._at}.format=messages" if self._leaf.where is None else f"energon prepare {path}"
            yield self._problem("format", rule, f"the folder above .nv-meta, or {other}")
        elif kind is Kind.FOLDER:
            yield from self._check_folder(path)
        elif kind is Kind.FILE and path.endswith(".parquet"):
            yield from self._check_schema(path)

    def _check_foreign(self, path: str) -> Iterator[Problem]:
        """A file that no reader takes; of all that a pattern found, one stands for the others."""
        alike = [other for other in self._paths if classify_path(other) is Kind.FOREIGN]
        if path != alike[0]:
            return
        others = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
        if all(map(_is_shown, alike)):
            rule = f"{path}{others} are pictures or films, and nothing says what to answer about them"
            yield self._problem("path", rule, _WRITE_TABLE.format(str(Path(path).parent)))
        else:
            rule = f"{path}{others} must end in {one_of(FILE_SUFFIXES)}"
            yield self._problem("path", rule, advise_foreign(path))

    def _check_folder(self, path: str) -> Iterator[Problem]:
        """A folder has files, and others than pictures: nobody could tell what to answer."""
        names = [entry.name for entry in Path(path).rglob("*") if entry.is_file()]
        if not names:
            rule = f"{path} is a folder without any file"
            yield self._problem("path", rule, "the path of a file, or of a folder with data")
        elif all(map(_is_shown, names)):
            rule = f"{path} holds {len(names)} pictures or films and no file that says what to answer about them"
            yield self._problem("path", rule, _WRITE_TABLE.format(path))

    def _check_builtin(self, name: str) -> Iterator[Problem]:
        """A built-in set that exists, read in its own format."""
        if name not in BUILTINS:
            near = nearest(name, BUILTINS) or list(BUILTINS)
            rule = f"{PREFIX}{name} does not exist; there is {one_of([PREFIX + known for known in BUILTINS])}"
            yield self._problem("path", rule, f"{self._at}.path={PREFIX}{near[0]}")
        elif BUILTINS[name].format != self._source.format:
            wanted = BUILTINS[name].format
            rule = f"{self._source.format}, but {PREFIX}{name} is of format {wanted}"
            yield self._problem("format", rule, f"{self._at}.format={wanted}")

    def _check_schema(self, path: str) -> Iterator[Problem]:
        """The columns of a Parquet file that are required or asked for, by its footer."""
        try:
            existing = list_schema_paths(path)
        except DataError as error:
            yield from (self._join_where(problem, "path") for problem in error.problems)
            return
        format = FORMATS[self._source.format]
        asked_for = [column for column in format.optional if column in self._source.columns]
        for column in (*format.required, *asked_for):
            wanted = self._source.columns.get(column, column)
            if not any(_is_column(way, existing) for way in wanted.split(";")):
                yield Problem(
                    f"{self._at}: column {wanted} is absent from {path}, which has {', '.join(existing)}",
                    self._where(f"columns.{column}" if column in self._source.columns else "format"),
                    advise_column(column, wanted, existing),
                )

    def _check_split(self) -> Iterator[Problem]:
        """A split is for the datasets library; its own folders say which they have."""
        split = self._source.split
        for path in self._paths:
            kind = classify_path(path)
            if split is not None and kind in (Kind.FILE, Kind.BUILTIN):
                yield self._problem("split", f"{split} has no effect on {path}", f"leave out  {self._at}.split")
            if kind is Kind.FOLDER:
                splits = _list_saved_splits(path)
                if splits and split not in splits and (split or len(splits) > 1):
                    near = nearest(split or "train", splits, limit=1) or splits
                    rule = f"{split or 'null'} is not a split of {path}, which has {one_of(splits)}"
                    yield self._problem("split", rule, f"{self._at}.split={near[0]}")

    def _check_media_root(self) -> Iterator[Problem]:
        """The folder of the pictures is there; one at an address is not looked up."""
        root = self._source.media_root
        if root is not None and not is_url(root) and not is_folder(root):
            # An energon blend has no such key: the recipe says it, also for the files of a blend.
            where = _find_origin(f"{self._at}.media_root", self._around.origins) or self._at
            yield Problem(f"{self._at}.media_root = {root} is no folder", where, advise_folder(root))

    def _check_rows(self, num_rows: int) -> Iterator[Problem]:
        """`rows` within the rows there are."""
        if self._source.rows is not None and self._source.rows[1] > num_rows:
            own = RowRange(self._at, *self._source.rows)
            fix = advise_rows(own, self._around.ranges[_files_of(self._source)], num_rows)
            yield own.problem(num_rows, self._where("rows"), fix)

    @property
    def _manner(self) -> dict[str, bool]:
        """How first rows are tried."""
        return {"sees": self._around.sees, "is_skipping": self._around.is_skipping}

    def _tell_rows(self, problems: Sequence[Problem]) -> list[Problem]:
        """Problems of rows, with what leads to them."""
        return [self._join_where(problem, "format") for problem in problems]

    def _without_rows(self) -> SourceConfig:
        """The source with all rows, so that a range beyond the end does not hide other problems."""
        return replace(self._source, rows=None)

    def _problem(self, key: str, rule: str, fix: str) -> Problem:
        """A problem of one key of the source."""
        return Problem(f"{self._at}.{key} = {rule}", self._where(key), fix)

    def _join_where(self, problem: Problem, key: str) -> Problem:
        """A problem of a row or file, with the place in the recipe that led there."""
        where = f"{problem.where}, by {self._where(key)}"
        return Problem(f"{self._at}: {problem.what}", where, problem.fix)

    def _where(self, key: str) -> str:
        """Where a key of the source was said, or the nearest section around it, or its line in an energon blend."""
        if self._leaf.where is not None:
            return self._leaf.where
        found = _find_origin(f"{self._at}.{key}", self._around.origins)
        return found or getattr(self._around.origins, "fallback", self._at)


def _is_shown(name: str) -> bool:
    """Whether a file is a picture or a film, by its name."""
    return (guess_type(name)[0] or "").startswith(("image/", "video/"))


def _is_column(wanted: str, existing: Sequence[str]) -> bool:
    """Whether a dotted path is a column, or leads into a list that is one."""
    return wanted in existing or any(
        wanted.startswith(f"{name}.") and wanted[len(name) + 1].isdigit() for name in existing
    )


def _list_saved_splits(folder: str) -> Sequence[str]:
    """Splits of a folder that the datasets library saved as a dictionary; empty otherwise."""
    try:
        splits = json.loads((Path(folder) / "dataset_dict.json").read_text())["splits"]
    except (OSError, ValueError, KeyError):
        return []
    return [str(split) for split in splits]
