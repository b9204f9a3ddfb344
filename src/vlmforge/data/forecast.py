"""What a run will draw from each source: samples, their share, and how often it goes through the rows.

Exact where rows are samples; with packing an estimate from mean lengths, because only packing itself tells how many
samples fill a step. Imports neither torch nor transformers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlmforge.config.schema import Config, SourceConfig
from vlmforge.data.blend import SampleOrder, count_samples
from vlmforge.data.locations import Kind, classify_path, expand_paths
from vlmforge.data.mixture import Lengths, OpenBlend, count_rows, name_leaves, open_blend
from vlmforge.data.sources import build_reading, open_parts
from vlmforge.data.sources.base import Rows
from vlmforge.data.tree import build_blend

# How full packed rows are taken to be.
_FILL_RATIO = 0.98
# Files are gone through to count their rows only as long as it takes seconds.
_MAX_BYTES_TO_COUNT = 1 << 30


@dataclass(frozen=True)
class SourceForecast:
    """What one source gives.

    Attributes:
        name: of the source.
        num_rows: rows that are used; None: nobody knows.
        num_samples: that are drawn from it in the whole run.
        share: of all samples.
        token_share: of all tokens; None: lengths are not known.
        left_out: part of the measured samples that training leaves out, as too long or bad; 0 where none is measured.
    """

    name: str
    num_rows: int | None
    num_samples: int
    share: float
    token_share: float | None
    left_out: float

    @property
    def passes(self) -> str:
        """How often its rows come, for people."""
        if self.num_rows is None:
            return "read as it arrives"
        return f"{self.num_samples / self.num_rows:.2f} epochs of {self.num_rows} rows"


@dataclass(frozen=True)
class Forecast:
    """What all sources give.

    Attributes:
        sources: in the order of the recipe.
        is_estimate: the number of samples rests on mean lengths.
    """

    sources: tuple[SourceForecast, ...]
    is_estimate: bool

    def lines(self) -> Iterator[str]:
        """A line a source, for people."""
        width = max(len(source.name) for source in self.sources)
        about = "about " if self.is_estimate else ""
        for source in self.sources:
            tokens = "" if source.token_share is None else f", {source.token_share:.1%} of the tokens"
            amount = f"{about}{source.num_samples} samples, {source.passes}"
            less = f", about {source.left_out:.0%} of them left out" if source.left_out else ""
            yield f"{source.name:<{width}}  {source.share:.1%} of the samples{tokens}: {amount}{less}"


def find_stream_end(config: Config, order: SampleOrder) -> int | None:
    """Sample numbers of the training by `stage.max_epochs` and the ends of its sources; None: endless."""
    max_epochs = config.stage.max_epochs
    limits = [order.num_samples, None if max_epochs is None else count_samples(max_epochs, order.samples_per_epoch)]
    return min((limit for limit in limits if limit is not None), default=None)


def forecast(config: Config, blend: OpenBlend, lengths: Lengths | None) -> Forecast | None:
    """What the run draws from each source of `data.train`; None where that takes lengths that are not given."""
    if blend.needs_lengths and lengths is None:
        return None
    order = blend.order(config.data, lengths)
    in_epoch = order.count(order.samples_per_epoch)
    is_measured = lengths is not None and all(source.name in lengths for source in blend.sources)
    measured = [lengths[source.name] for source in blend.sources] if lengths and is_measured else None
    means = [float(length.mean) for length in measured] if measured else None
    end, by_steps = find_stream_end(config, order), _count_by_steps(config, in_epoch, means)
    if end is None and by_steps is None:
        return None
    is_estimate = config.stage.packing != "none" and config.stage.max_steps is not None
    if is_estimate and by_steps is None:
        return None
    total = min(limit for limit in (end, by_steps) if limit is not None)
    counts = order.count(total)
    weighted = [count * mean for count, mean in zip(counts, means, strict=True)] if means else None
    return Forecast(
        tuple(
            SourceForecast(
                source.name,
                count_rows(source),
                count,
                count / max(1, total),
                None if weighted is None else weighted[k] / max(1.0, sum(weighted)),
                measured[k].left_out / measured[k].rows if measured else 0.0,
            )
            for k, (source, count) in enumerate(zip(blend.sources, counts, strict=True))
        ),
        is_estimate and total == by_steps,
    )


def forecast_lines(config: Config, lengths: Lengths | None) -> list[str]:
    """The forecast for people; nothing for a single source, of which there is nothing to compare."""
    blend = open_blend(config.data, "train")
    found = forecast(config, blend, lengths) if blend.is_mixed else None
    return [] if found is None else list(found.lines())


def _count_by_steps(config: Config, in_epoch: tuple[int, ...], means: list[float] | None) -> int | None:
    """Samples of `stage.max_steps` steps; None: they have no such end, or lengths are not known."""
    stage = config.stage
    if stage.max_steps is None:
        return None
    num_rows = stage.max_steps * stage.global_batch_size
    if stage.packing == "none":
        return num_rows
    if means is None:
        return None
    mean = sum(count * mean for count, mean in zip(in_epoch, means, strict=True)) / sum(in_epoch)
    return math.ceil(num_rows * max(1.0, stage.seq_len * _FILL_RATIO / mean))


def open_countable(config: Config) -> OpenBlend | None:
    """The opened `data.train`; None where it would take long to count it, or a library, such as for a hub id.

    Raises:
        DataError: a file cannot be opened.
    """
    leaves = list(name_leaves(build_blend(config.data, "train")))
    for leaf, name in leaves:
        source = leaf.source
        if not is_openable(source) or not is_countable(open_parts(source, build_reading(source, name))):
            return None
    return open_blend(config.data, "train") if leaves else None


def is_openable(source: SourceConfig) -> bool:
    """Whether all paths can be opened without the datasets library."""
    kinds = {classify_path(path) for path in expand_paths(source.path)}
    return bool(kinds) and kinds <= {Kind.FILE, Kind.BUILTIN, Kind.PREPARED}


def is_countable(parts: Sequence[tuple[Rows, str]]) -> bool:
    """Whether the rows of all files are soon counted."""
    return sum(rows.bytes_to_count() for rows, _ in parts) <= _MAX_BYTES_TO_COUNT


def count_unpacked_steps(config: Config, blend: OpenBlend | None, lengths: Lengths | None) -> int | None:
    """Steps of the training as far as they are known without packing it; None where they are not."""
    max_steps, stage = config.stage.max_steps, config.stage
    if blend is None or (blend.needs_lengths and lengths is None):
        return max_steps if stage.max_epochs is None else None
    end = find_stream_end(config, blend.order(config.data, lengths))
    if end is None:
        return max_steps
    if stage.packing != "none":
        return None
    steps = -(-end // stage.global_batch_size)
    return steps if max_steps is None else min(steps, max_steps)
