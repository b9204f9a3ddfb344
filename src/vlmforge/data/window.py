"""Windows: the rows made of a fixed run of consecutive sample numbers.

A window's rows are a pure function of its number, unless a source cannot seek: then windows are made in order.
Unpacked, a window is one global batch and each sample is its own row; packed, it is at most `stage.packing_window`
samples of one epoch that share rows. A sample that is left out is a hole: no other takes its place. This file has no
torch in it, so that a worker process can run it as it is.
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
from vlmforge.data.mixture import Lengths, count_rows, open_blend
from vlmforge.data.pack import PACKINGS
from vlmforge.data.render import build_renderer
from vlmforge.data.sample import RenderedSample, Row, Sample
from vlmforge.data.sources import Arrival, Source, StreamSource
from vlmforge.errors import DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Samples that are rendered before a model is loaded.
NUM_TRIED = 4


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


@dataclass(frozen=True)
class Draws:
    """How much of a source there is, and how much of it is taken at once.

    Attributes:
        num_rows: of the source; None: it cannot seek, and nobody knows.
        in_window: samples of the first window that come from it, about.
    """

    num_rows: int | None
    in_window: int


@dataclass(frozen=True)
class WindowCut:
    """How a stream of sample numbers is cut into windows.

    Attributes:
        size: sample numbers in a window.
        unit: sample numbers that no window reaches beyond a multiple of, such as those of an epoch: the last window of
            a unit is shorter where they do not divide. The size itself: windows are all alike.
        num_samples: length of the stream; None: endless.
    """

    size: int
    unit: int
    num_samples: int | None

    @property
    def num_windows(self) -> int | None:
        """Windows in the stream; None: endless."""
        if self.num_samples is None:
            return None
        units, rest = divmod(self.num_samples, self.unit)
        return units * self._per_unit + math.ceil(rest / self.size)

    def numbers(self, window: int) -> range:
        """The sample numbers of a window; none beyond the end of the stream."""
        unit, place = divmod(window, self._per_unit)
        start, end = unit * self.unit + place * self.size, (unit + 1) * self.unit
        stop = min(start + self.size, end)
        return range(start, stop if self.num_samples is None else min(stop, self.num_samples))

    @property
    def _per_unit(self) -> int:
        return math.ceil(self.unit / self.size)


class WindowMaker:
    """Makes any window of a stream of samples."""

    def __init__(
        self,
        config: Config,
        tokenizer: PreTrainedTokenizerBase,
        sources: tuple[Source | StreamSource, ...],
        order: SampleOrder,
        cut: WindowCut,
        image_rule: ImageRule | None = None,
    ) -> None:
        """Prepare.

        Args:
            config: the recipe.
            tokenizer: a fast tokenizer.
            sources: the opened sources.
            order: which row is the n-th sample.
            cut: which samples a window has.
            image_rule: how the model sees pictures; None: it takes text only.
        """
        self._cut = cut
        self._sources = sources
        self._arrivals = Arrivals(sources, {})
        self._order = order
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
    def num_samples(self) -> int | None:
        """Length of the stream; None: endless."""
        return self._cut.num_samples

    @property
    def num_windows(self) -> int | None:
        """Windows in the stream; None: endless."""
        return self._cut.num_windows

    @property
    def samples_per_epoch(self) -> int:
        """Sample numbers in an epoch."""
        return self._order.samples_per_epoch

    def count_draws(self) -> dict[str, Draws]:
        """What a window takes of each source, by name."""
        counts = self._order.count(len(self._cut.numbers(0)))
        return {
            source.name: Draws(count_rows(source), count) for source, count in zip(self._sources, counts, strict=True)
        }

    def try_first(self) -> None:
        """Render the first few samples, so that a limit that hardly any keeps is told before a model is loaded.

        What cannot seek is left alone: it would arrive twice.

        Raises:
            DataError: one of them is bad or too long, and the recipe says `error`.
        """
        if not any(isinstance(source, StreamSource) for source in self._sources):
            for n in self._cut.numbers(0)[:NUM_TRIED]:
                self._prepare(n)

    def make(self, number: int) -> Window:
        """The window of this number; empty beyond the end of the stream.

        Raises:
            DataError: a sample is bad or too long, and the recipe says `error`.
        """
        before = self._arrivals.states()
        samples: list[RenderedSample] = []
        holes: list[LeftOut] = []
        for n in self._cut.numbers(number):
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
    num_samples, stage = find_stream_end(config, order), config.stage
    cut = WindowCut(stage.global_batch_size, stage.global_batch_size, num_samples)
    if stage.packing != "none":
        cut = WindowCut(stage.packing_window, order.samples_per_round, num_samples)
    return WindowMaker(config, tokenizer, blend.sources, order, cut, image_rule)


def build_validation_windows(
    config: Config, tokenizer: PreTrainedTokenizerBase, image_rule: ImageRule | None = None
) -> WindowMaker:
    """The stream of `data.validation`: file order, once."""
    blend = open_blend(config.data, "validation")
    order = blend.file_order()
    cut = WindowCut(config.stage.packing_window, order.samples_per_epoch, order.samples_per_epoch)
    return WindowMaker(config, tokenizer, blend.sources, order, cut, image_rule)
