"""Rules of `data` that need no file: what a source must say. How sources are mixed is a matter of `blend.py`."""

from __future__ import annotations

from collections.abc import Iterator

from vlmforge.config.encode import scalar_text
from vlmforge.config.overrides import COMMAND_LINE
from vlmforge.config.rules.finding import Finding, Rule, Subject
from vlmforge.config.schema import SourceConfig
from vlmforge.config.sources import is_blend_file, walk_config
from vlmforge.errors import nearest, one_of


def _sources(subject: Subject) -> Iterator[tuple[str, SourceConfig]]:
    """Every source that has data of its own, with its dotted path."""
    return ((at, source) for at, source in walk_config(subject.config) if not source.sources)


def check_train(subject: Subject) -> Iterator[Finding]:
    """There is something to train on, unless the stage only generates."""
    if subject.config.stage.kind != "generate" and not subject.config.data.train:
        yield Finding(
            ("data.train",),
            "data.train is not set: there is nothing to train on",
            "data=gsm8k, or 'data.train=[{path: data/train.jsonl, format: messages}]'",
        )


def check_paths(subject: Subject) -> Iterator[Finding]:
    """Every source names its files; none starts a command."""
    for at, source in _sources(subject):
        if not all(source.path) or not source.path:
            yield Finding((f"{at}.path",), f"{at}.path is not set", f"{at}.path=data/train.jsonl")
        for path in source.path:
            if path.startswith("pipe:"):
                yield Finding(
                    (f"{at}.path",),
                    f"{at}.path = {scalar_text(path)}: no value can name a command to run",
                    f"{at}.path=data/train.jsonl",
                )


def check_formats(subject: Subject) -> Iterator[Finding]:
    """Every source has a format that exists, and its columns are fields of that format."""
    formats = subject.facts.formats
    for at, source in _sources(subject):
        if not source.format:
            # The data sets of an energon blend say themselves what they hold.
            if is_blend_file(source):
                continue
            yield Finding((f"{at}.format",), f"{at}.format is not set", f"{at}.format={one_of(sorted(formats))}")
        elif source.format not in formats:
            near = nearest(source.format, formats) or sorted(formats)
            yield Finding(
                (f"{at}.format",),
                f"{at}.format = {scalar_text(source.format)} is not a format; there is {one_of(sorted(formats))}",
                f"{at}.format={near[0]}",
            )
        else:
            known = (*formats[source.format].required, *formats[source.format].optional)
            yield from _check_columns(at, source, known)


def _check_columns(at: str, source: SourceConfig, known: tuple[str, ...]) -> Iterator[Finding]:
    for name in source.columns:
        if not known:
            what = f"{at}.columns has no effect: format {source.format} has the columns that its own files name"
            yield Finding((f"{at}.columns", f"{at}.format"), what, f"remove {at}.columns")
            return
        if name not in known:
            near = nearest(name, known) or list(known)
            yield Finding(
                (f"{at}.columns.{name}", f"{at}.format"),
                f"{at}.columns.{name}: format {source.format} has no field {name}, only {one_of(known)}",
                f"use {at}.columns.{near[0]}",
            )


def check_streaming(subject: Subject) -> Iterator[Finding]:
    """A source that is read as it arrives is one data set, read whole, and trained on."""
    for at, source in _sources(subject):
        if not source.streaming:
            continue
        if at.startswith("data.validation"):
            what = f"{at}.streaming = true: validation data must have an end"
            yield Finding((f"{at}.streaming",), what, f"{at}.streaming=false")
        if len(source.path) > 1 or source.rows is not None:
            what = f"{at}.streaming = true reads one data set from start to end, without rows"
            yield Finding((f"{at}.streaming",), what, f"remove {at}.rows, and give one path")


def check_rows(subject: Subject) -> Iterator[Finding]:
    """Rows are a range with something in it."""
    for at, source in _sources(subject):
        if source.rows is None:
            continue
        start, stop = source.rows
        if start < 0 or start >= stop:
            yield Finding(
                (f"{at}.rows",),
                f"{at}.rows = [{start}, {stop}] must be [start, stop) with 0 <= start < stop",
                f"'{at}.rows=[{max(0, min(start, stop))}, {max(1, start, stop)}]'",
            )


def check_bad_ratio(subject: Subject) -> Iterator[Finding]:
    """A limit on skipped samples needs skipping."""
    data = subject.config.data
    is_typed = subject.origins.get("data.on_bad_sample", "").startswith(COMMAND_LINE)
    if data.on_bad_sample != "skip" and subject.is_set("data.max_bad_ratio"):
        yield Finding(
            ("data.max_bad_ratio", "data.on_bad_sample"),
            f"data.max_bad_ratio = {scalar_text(data.max_bad_ratio)} has no effect with data.on_bad_sample = "
            f"{data.on_bad_sample}",
            # What the command line says is meant; what it was meant to replace is to go.
            "~data.max_bad_ratio" if is_typed else "data.on_bad_sample=skip, or ~data.max_bad_ratio",
        )


RULES: tuple[Rule, ...] = (
    check_train,
    check_paths,
    check_formats,
    check_streaming,
    check_rows,
    check_bad_ratio,
)
