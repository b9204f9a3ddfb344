"""The first rows of a source, tried out before anything is loaded: parsed, and their pictures decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from vlmforge.data.bad import forbid_skipping
from vlmforge.data.film import Film
from vlmforge.data.sample import TAKES_TEXT_ONLY, Sample
from vlmforge.data.sources import Source
from vlmforge.data.sources.base import RawRow, Rows
from vlmforge.data.sources.source import Reading
from vlmforge.errors import DataError, Problem

# Rows that are tried.
_NUM_FIRST_ROWS = 4


def try_rows(source: Source, start: int, *, sees: bool, is_skipping: bool) -> list[Problem]:
    """What is wrong with the first rows that are used.

    Args:
        source: with all its rows.
        start: first row that is used.
        sees: whether the model takes pictures, or may.
        is_skipping: whether bad samples are left out: then it is enough that one row is good.
    """
    numbers = range(start, min(start + _NUM_FIRST_ROWS, len(source)))
    return _judge([partial(source.sample, i) for i in numbers], sees, is_skipping)


def try_head(reading: Reading, rows: Rows, root: str, name: str, *, sees: bool, is_skipping: bool) -> list[Problem]:
    """The same for a file whose rows are not counted.

    Args:
        reading: how its rows are read.
        rows: of the file.
        root: where relative paths of images start.
        name: of the file, for messages.
        sees: whether the model takes pictures, or may.
        is_skipping: whether bad samples are left out.
    """

    def parse(index: int, row: RawRow | DataError) -> Sample:
        if isinstance(row, DataError):
            raise row
        return reading.parse(row, reading.place(index, f"{name} row {index}", root), "")

    first = [partial(parse, index, row) for index, row in enumerate(rows.head(_NUM_FIRST_ROWS))]
    return _judge(first, sees, is_skipping)


def _judge(first: Sequence[Callable[[], Sample]], sees: bool, is_skipping: bool) -> list[Problem]:
    """One problem at most: rows of one file tend to break the same rule, and the first says it."""
    found: list[Problem] = []
    for parse in first:
        try:
            _look_at(parse(), sees)
        except DataError as error:
            found.append(error.problems[0])
    if not is_skipping:
        return found[:1]
    if len(found) < len(first):
        return []
    return [
        replace(
            problem,
            what=f"none of the first {len(first)} rows can be used; of the first one, {problem.what}",
            fix=forbid_skipping(problem.fix),
        )
        for problem in found[:1]
    ]


def _look_at(sample: Sample, sees: bool) -> None:
    """Make every picture of a sample, and the first one of every film."""
    for media in sample.media():
        if not sees:
            raise sample.place.error(*TAKES_TEXT_ONLY)
        picture = media.choose(1)[0] if isinstance(media, Film) else media
        picture.decode()
