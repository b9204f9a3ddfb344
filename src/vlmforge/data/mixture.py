"""An opened blend: its tree, its sources, and the order of its samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from vlmforge.config.schema import DataConfig
from vlmforge.config.sources import BlendName
from vlmforge.data.blend import SampleOrder
from vlmforge.data.leaves import Group, Leaf
from vlmforge.data.phases import SourceShare
from vlmforge.data.prompts import Prompts, load_prompts
from vlmforge.data.shares import SizedSource, derive_shares, needs_lengths
from vlmforge.data.sources import Source, StreamSource, name_sources, open_source, open_stream
from vlmforge.data.tree import build_blend
from vlmforge.errors import DataError, Problem

# Rows of a source that nobody can count: more than any training draws.
STREAM_ROWS = 1 << 40


class Length(NamedTuple):
    """What a part of a source's rows came to.

    Attributes:
        tokens: of all of them; those that training leaves out have none.
        rows: how many were looked at.
        left_out: how many of them training leaves out.
    """

    tokens: int
    rows: int
    left_out: int = 0

    @property
    def mean(self) -> Fraction:
        """Tokens that a row gives when it is drawn: a weight in tokens is one of tokens that are trained on."""
        return Fraction(self.tokens, self.rows)


# By the source's name.
Lengths = Mapping[str, Length]


@dataclass(frozen=True)
class OpenBlend:
    """A blend whose sources are open.

    Attributes:
        group: its tree.
        sources: its leaves, in order.
    """

    group: Group
    sources: tuple[Source | StreamSource, ...]

    @property
    def needs_lengths(self) -> bool:
        """Whether its order rests on measured lengths."""
        return needs_lengths(self.group)

    @property
    def is_mixed(self) -> bool:
        """Whether there is more to say of it than its rows: several sources, weights or ends."""
        return len(self.sources) > 1 or self.group.is_mixed

    def order(self, data: DataConfig, lengths: Lengths | None) -> SampleOrder:
        """The order of its samples; `lengths` must be given if it `needs_lengths`.

        Raises:
            ConfigError: weights meet `data.shuffle=false`.
        """
        sized = [
            SizedSource(source.name, count_rows(source) or STREAM_ROWS, _mean(lengths, source.name))
            for source in self.sources
        ]
        derived = derive_shares(self.group, sized)
        return SampleOrder(derived.shares, data.seed, data.shuffle, derived.samples_per_epoch)

    def file_order(self) -> SampleOrder:
        """Every row once, sources one after the other: how validation reads."""
        shares = [SourceShare(source.name, count_rows(source) or STREAM_ROWS, None) for source in self.sources]
        return SampleOrder(shares, seed=0, is_shuffled=False)


def open_blend(data: DataConfig, blend: BlendName) -> OpenBlend:
    """Open `data.train` or `data.validation`.

    Raises:
        DataError: the file of a blend or a source cannot be read.
    """
    group = build_blend(data, blend)
    prompts = load_prompts(data.prompts)
    return OpenBlend(group, tuple(open_leaf(leaf, name, prompts) for leaf, name in name_leaves(group)))


def name_leaves(group: Group) -> Iterator[tuple[Leaf, str]]:
    """The sources of a tree with the names that tell them apart."""
    leaves = list(group.leaves())
    return zip(leaves, name_sources([leaf.source for leaf in leaves]), strict=True)


def count_rows(source: Source | StreamSource) -> int | None:
    """Rows of a source; None: it cannot seek, and nobody knows."""
    return len(source) if isinstance(source, Source) else None


def _mean(lengths: Lengths | None, name: str) -> Fraction | None:
    return lengths[name].mean if lengths is not None and name in lengths else None


def open_leaf(leaf: Leaf, name: str, prompts: Prompts) -> Source | StreamSource:
    """Open one source with the rows that its subsets leave.

    Raises:
        DataError: it cannot be opened, or no row is left.
    """
    if leaf.source.streaming:
        return open_stream(leaf.source, name, prompts)
    source = open_source(leaf.source, name, prompts)
    start, stop = source.start, source.stop
    for subset in leaf.subsets:
        start, stop = subset.narrow(start, stop)
    if start == stop:
        problem = Problem(
            f"source {name}: its subsets leave none of {len(source)} rows", leaf.where or leaf.at, "widen the ranges"
        )
        raise DataError(problem)
    return replace(source, start=start, stop=stop)
