"""`rows` that reach beyond the end of their file, and ranges in their place that keep apart what was apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmforge.errors import Problem


@dataclass(frozen=True)
class RowRange:
    """The rows of one source.

    Attributes:
        at: dotted path of the source in the recipe, or its name.
        start: first row that is used.
        stop: end of those that are.
    """

    at: str
    start: int
    stop: int

    def problem(self, num_rows: int, where: str, fix: str) -> Problem:
        """It reaches beyond the end of so many rows."""
        return Problem(
            what=f"{self.at}: rows = [{self.start}, {self.stop}] reaches beyond the end; there are {num_rows} rows",
            where=where,
            fix=fix,
        )


def advise_rows(own: RowRange, ranges: Sequence[RowRange], num_rows: int) -> str:
    """Ranges that the file has.

    Args:
        own: that reaches beyond the end.
        ranges: of all sources of the same file, this one among them.
        num_rows: of the file.

    Returns:
        The range up to the end where every source has rows left by that; else new ranges for all of them.
    """
    if all(other.start < num_rows for other in ranges):
        return _write(own.at, own.start, num_rows)
    borders = sorted({border for other in ranges for border in (other.start, other.stop)})
    if len(borders) > num_rows + 1:
        return f"a file of at least {len(borders) - 1} rows: {len(ranges)} ranges share this one"
    moved = _squeeze(borders, num_rows)
    return " ".join(_write(other.at, moved[other.start], moved[other.stop]) for other in ranges)


def _squeeze(borders: Sequence[int], num_rows: int) -> dict[int, int]:
    """Borders in proportion within [0, num_rows], in the same order and still different from each other."""
    moved: dict[int, int] = {}
    at, last = -1, len(borders) - 1
    for k, border in enumerate(borders):
        at = min(num_rows - (last - k), max(at + 1, border * num_rows // borders[-1]))
        moved[border] = at
    return moved


def _write(at: str, start: int, stop: int) -> str:
    """As it is typed; quoted, because brackets are patterns to some shells."""
    return f"'{at}.rows=[{start},{stop}]'"
