"""Windows: the rows made of a fixed run of consecutive sample numbers.

A window's rows are a pure function of its number, unless a source cannot seek: then windows are made in order.
Unpacked, a window is one global batch and each sample is its own row; packed, it is `stage.packing_window` samples that
share rows. A sample that is left out is a hole: no other takes its place. This file has no torch in it, so that a
worker process can run it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vlmforge.config.schema import Config
from vlmforge.data.arrivals import Arrivals, StreamStates
from vlmforge.data.bad import BadSampleError, LeftOut
from vlmforge.data.blend import SampleOrder
from vlmforge.data.forecast import find_stream_end
from vlmforge.data.images import ImageRule
from vlmforge.data.ledger import Ledger
from vlmforge.data.lengths import measure_lengths
from vlmforge.data.mixture import Lengths, open_blend
from vlmforge.data.pack import PACKINGS
from vlmforge.data.render import build_renderer
from vlmforge.data.sample import RenderedSample, Row, Sample
from vlmforge.data.sources import Arrival, Source, StreamSource
from vlmforge.errors import DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Window:
    """What a run of sample numbers became.

    Attributes:
        rows: the rows, none of them empty.
        holes: samples left out.
        streams_before: where sources that cannot seek were before it; empty if there are none.
        streams_after: where they are after it.
    """

    rows: tuple[Row, ...]
    holes: tuple[LeftOut, ...]
    streams_before: StreamStates = field(default_factory=dict)
    streams_after: StreamStates = field(default_factory=dict)

    def count_holes(self, ledger: Ledger) -> None:
        """Enter the holes in a ledger."""
        for hole in self.holes:
            ledger.count_left_out(hole)


@dataclass(frozen=True)
class WindowFailure:
    """The problems that stopped a window: a value on its way out of a worker, raised where it arrives."""

    problems: tuple[Problem, ...] = field()


class WindowMaker:
    """Makes any window of a stream of samples."""

    def __init__(
        self,
        config: Config,
        tokenizer: PreTrainedTokenizerBase,
        sources: tuple[Source | StreamSource, ...],
        order: SampleOrder,
        window_size: int,
        num_samples: int | None,
        image_rule: ImageRule | None = None,
    ) -> None:
        """Prepare.

        Args:
            config: the recipe.
            tokenizer: a fast tokenizer.
            sources: the opened sources.
            order: which row is the n-th sample.
            window_size: sample numbers in a window.
            num_samples: length of the stream; None: endless.
            image_rule: how the model sees pictures; None: it takes text only.
        """
        self.num_samples = num_samples
        self._sources = sources
        self._arrivals = Arrivals(sources, {})
        self._order = order
        self._window_size = window_size
        self._seed = config.data.seed
        self._pack = PACKINGS.get(config.stage.packing)
        self._seq_len = config.stage.seq_len
        self._on_too_long = config.data.on_too_long
        self._on_bad_sample = config.data.on_bad_sample
        self._renderer = build_renderer(config, tokenizer, image_rule)

    def go_on_from(self, streams: StreamStates) -> None:
        """Take up sources that cannot seek where a window before this one left them."""
        self._arrivals = Arrivals(self._sources, streams)

    @property
    def num_windows(self) -> int | None:
        """Windows in the stream; None: endless."""
        return None if self.num_samples is None else math.ceil(self.num_samples / self._window_size)

    @property
    def samples_per_epoch(self) -> int:
        """Sample numbers in an epoch."""
        return self._order.samples_per_epoch

    def make(self, number: int) -> Window:
        """The window of this number; empty beyond the end of the stream.

        Raises:
            DataError: a sample is bad or too long, and the recipe says `error`.
        """
        before = self._arrivals.states()
        samples: list[RenderedSample] = []
        holes: list[LeftOut] = []
        for n in self._numbers(number):
            made = self._prepare(n)
            if isinstance(made, LeftOut):
                holes.append(made)
            else:
                samples.append(made)
        rows: list[Row] = [(sample,) for sample in samples]
        if self._pack is not None:
            packed = self._pack([sample.num_tokens for sample in samples], self._seq_len)
            rows = [tuple(samples[position] for position in positions) for positions in packed]
        return Window(tuple(rows), tuple(holes), before, self._arrivals.states())

    def try_make(self, number: int) -> Window | WindowFailure:
        """The same with problems as a value."""
        try:
            return self.make(number)
        except DataError as error:
            return WindowFailure(error.problems)

    def make_all(self) -> Iterator[Window]:
        """All windows of a stream that ends."""
        assert self.num_windows is not None, "an endless stream has no all"
        return map(self.make, range(self.num_windows))

    def _numbers(self, number: int) -> range:
        """The sample numbers of a window."""
        start = number * self._window_size
        stop = start + self._window_size
        return range(start, stop if self.num_samples is None else min(stop, self.num_samples))

    def _prepare(self, n: int) -> RenderedSample | LeftOut:
        """Sample n as tokens, or the hole it leaves."""
        source_number, i = self._order(n)
        source, seed = self._sources[source_number], f"{self._seed}/{n}"
        arrival = self._arrivals.take(source.name) if isinstance(source, StreamSource) else None
        index = source.start + i if isinstance(source, Source) else arrival.index if arrival else 0
        try:
            return self._renderer.render(_read(source, arrival or i, seed))
        except BadSampleError as error:
            is_left_out = self._on_too_long == "drop" if error.kind == "too_long" else self._on_bad_sample == "skip"
            if not is_left_out:
                raise
            return LeftOut.because_of(error, source.name, index)


def _read(source: Source | StreamSource, which: Arrival | int, seed: str) -> Sample:
    """A row by its number, or one that has arrived."""
    if isinstance(source, StreamSource):
        assert isinstance(which, Arrival), "a stream has no numbers"
        return source.sample(which, seed)
    assert isinstance(which, int), "a source that can seek has no arrivals"
    return source.sample(which, seed)


def build_train_windows(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Lengths | None = None,
    image_rule: ImageRule | None = None,
) -> WindowMaker:
    """The stream of `data.train`, which ends after `stage.max_epochs`, or where all its sources end.

    Args:
        config: the recipe.
        tokenizer: a fast tokenizer.
        lengths: measured before, by the run that this one goes on from; None: measured here if weights need them.
        image_rule: how the model sees pictures; None: it takes text only.
    """
    blend = open_blend(config.data, "train")
    if blend.needs_lengths and lengths is None:
        lengths = measure_lengths(config, blend.sources, tokenizer, image_rule)
    order = blend.order(config.data, lengths if blend.needs_lengths else None)
    num_samples = find_stream_end(config, order)
    is_packed = config.stage.packing != "none"
    window_size = config.stage.packing_window if is_packed else config.stage.global_batch_size
    return WindowMaker(config, tokenizer, blend.sources, order, window_size, num_samples, image_rule)


def build_validation_windows(
    config: Config, tokenizer: PreTrainedTokenizerBase, image_rule: ImageRule | None = None
) -> WindowMaker:
    """The stream of `data.validation`: file order, once."""
    blend = open_blend(config.data, "validation")
    order, size = blend.file_order(), config.stage.packing_window
    return WindowMaker(config, tokenizer, blend.sources, order, size, order.samples_per_epoch, image_rule)
