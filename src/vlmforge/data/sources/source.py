"""One entry of a blend, opened: its rows as samples, reached by number or, where that is impossible, as they arrive."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from vlmforge.data.formats import Format
from vlmforge.data.formats.base import Guidance
from vlmforge.data.prompts import Prompts, load_prompts
from vlmforge.data.sample import Place, Sample
from vlmforge.data.sources.base import RawRow, Rows, RowStream
from vlmforge.data.sources.tar import KEY


@dataclass(frozen=True)
class Reading:
    """How the rows of a source are read.

    Attributes:
        name: of the source, as sample ids, ledger and logs have it.
        format: what a row is.
        columns: where the format's columns are.
        may_fetch: whether addresses that rows give may be fetched.
        subflavors: labels that route its samples.
        prompts: prompts to choose from, by category and variant.
    """

    name: str
    format: Format
    columns: Mapping[str, str]
    may_fetch: bool = False
    subflavors: Mapping[str, Any] = field(default_factory=dict)
    prompts: Prompts = field(default_factory=partial(load_prompts, None))

    def parse(self, row: RawRow, place: Place, seed: str) -> Sample:
        """A sample of a raw row; what is chosen at random in it depends on `seed` alone.

        Raises:
            BadSampleError: the row is not what the format expects.
        """
        guidance = Guidance(seed, str(row.get(KEY, "")), self.subflavors, self.prompts)
        return self.format.parse(row, self.columns, place, guidance)

    def place(self, index: int, where: str, media_root: str) -> Place:
        """Where a row is."""
        return Place(self.name, index, where, media_root, self.may_fetch)


@dataclass(frozen=True)
class Source:
    """A source whose rows are reached by number.

    Attributes:
        reading: how its rows are read.
        parts: its files, in order.
        ends: rows up to and with each part.
        start: first row that is used.
        stop: end of the rows that are used.
        media_roots: where relative paths of images start, by part.
    """

    reading: Reading
    parts: tuple[Rows, ...]
    ends: tuple[int, ...]
    start: int
    stop: int
    media_roots: tuple[str, ...]
    can_seek: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """As sample ids, ledger and logs have it."""
        return self.reading.name

    def __len__(self) -> int:
        """Number of samples."""
        return self.stop - self.start

    def place(self, i: int) -> Place:
        """Where sample i of [0, len) is; its index counts all rows of the source, unused ones too."""
        index = self.start + i
        part, row = self._find(index)
        return self.reading.place(index, self.parts[part].locate(row), self.media_roots[part])

    def sample(self, i: int, seed: str = "") -> Sample:
        """Sample i of [0, len).

        Args:
            i: its number.
            seed: what is chosen at random in it, such as a prompt, depends on this alone.

        Raises:
            BadSampleError: this row is wrong.
            DataError: its file cannot be read.
        """
        part, row = self._find(self.start + i)
        return self.reading.parse(self.parts[part][row], self.place(i), seed)

    def _find(self, index: int) -> tuple[int, int]:
        """The number of the part that holds a row, and the row's number in it."""
        number = bisect.bisect_right(self.ends, index)
        return number, index - (self.ends[number - 1] if number else 0)


@dataclass(frozen=True)
class Arrival:
    """One row of a source that cannot seek.

    Attributes:
        index: its number within its epoch.
        row: as it came.
        state: plain JSON values from which the rows after this one come again.
    """

    index: int
    row: RawRow
    state: Mapping[str, Any]


@dataclass(frozen=True)
class StreamSource:
    """A source whose rows come one after the other, for ever; there is no number of them.

    Attributes:
        reading: how its rows are read.
        stream: where they come from.
    """

    reading: Reading
    stream: RowStream
    can_seek: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """As sample ids, ledger and logs have it."""
        return self.reading.name

    def arrivals(self, state: Mapping[str, Any] | None) -> Iterator[Arrival]:
        """Rows from a state on, in the source's own order; None: from its start."""
        for index, row, after in self.stream.read(state):
            yield Arrival(index, row, after)

    def place(self, arrival: Arrival) -> Place:
        """Where a row that has arrived came from."""
        return self.reading.place(arrival.index, self.stream.locate(arrival.index), "")

    def sample(self, arrival: Arrival, seed: str = "") -> Sample:
        """The sample of a row that has arrived; see `Source.sample`."""
        return self.reading.parse(arrival.row, self.place(arrival), seed)
