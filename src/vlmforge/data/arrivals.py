"""Rows of sources that cannot seek, taken one after the other while windows are made in order.

Such a source has no numbered rows to go back to. What a checkpoint keeps instead is the source's own state at the start
of a window, so that the window can be made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlmforge.data.sources import Arrival, Source, StreamSource

# By the source's name.
StreamStates = Mapping[str, Mapping[str, Any] | None]


class Arrivals:
    """The streams among some sources, each at the place where its next row arrives."""

    def __init__(self, sources: Sequence[Source | StreamSource], states: StreamStates) -> None:
        """Open nothing yet: a worker process opens what it reads.

        Args:
            sources: of a blend.
            states: where streams go on; one that is absent starts from its first row.
        """
        self._streams = {source.name: source for source in sources if isinstance(source, StreamSource)}
        self._states = {name: states.get(name) for name in self._streams}
        self._iterators: dict[str, Iterator[Arrival]] = {}

    def take(self, name: str) -> Arrival:
        """The next row of a stream."""
        if name not in self._iterators:
            self._iterators[name] = self._streams[name].arrivals(self._states[name])
        arrival = next(self._iterators[name])
        self._states[name] = arrival.state
        return arrival

    def states(self) -> dict[str, Mapping[str, Any] | None]:
        """Where each stream is; empty if all sources can seek."""
        return dict(self._states)
