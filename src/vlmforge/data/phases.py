"""How sources with weights share a stream: trees of two-way splits, one for every stretch between two ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class SourceShare:
    """What the order needs to know of a source.

    Attributes:
        name: keys its permutation.
        num_rows: how many rows it has.
        weight: its share of the samples relative to those beside it; None: as many samples as rows.
        max_samples: it ends after so many; None: never.
    """

    name: str
    num_rows: int
    weight: float | Fraction | None
    max_samples: int | None = None


@dataclass(frozen=True)
class GroupShare:
    """A blend inside a blend.

    Attributes:
        parts: its sources, all with a weight.
        weight: its share of the samples relative to those beside it.
        max_samples: all of it ends after so many; None: never.
    """

    parts: tuple[SourceShare | GroupShare, ...]
    weight: float | Fraction
    max_samples: int | None = None


Share = SourceShare | GroupShare


@dataclass(frozen=True)
class _Split:
    """A node of the tree: of m samples, the nearest integer to m x share go left, the others right."""

    share: Fraction
    left: _Tree
    right: _Tree

    def count_left(self, m: int) -> int:
        """How many of the first m samples go left."""
        numerator, denominator = self.share.numerator, self.share.denominator
        return (2 * m * numerator + denominator) // (2 * denominator)


_Tree = _Split | int


@dataclass(frozen=True)
class Phase:
    """A stretch of the stream in which the same sources take part.

    Attributes:
        start: its first sample.
        tree: how its samples are shared; None: there are none, the stream is over.
        used: samples of each source before it.
    """

    start: int
    tree: _Tree | None
    used: tuple[int, ...]


def _build_tree(parts: Sequence[tuple[Fraction, _Tree]]) -> _Tree:
    """A tree over weighted parts; halving keeps it shallow, and rounding errors with it.

    A node is off by half a sample at most and hands its parent's error down in proportion, so that up to four
    sources are never off by a whole sample, and 2^d never by d/2.
    """
    if len(parts) == 1:
        return parts[0][1]
    middle = (len(parts) + 1) // 2
    left, right = parts[:middle], parts[middle:]
    weight_left, weight_right = (sum((weight for weight, _ in half), Fraction()) for half in (left, right))
    return _Split(weight_left / (weight_left + weight_right), _build_tree(left), _build_tree(right))


def walk(node: _Tree, n: int) -> tuple[int, int]:
    """The source of sample n, and how many samples of that source come before it."""
    while isinstance(node, _Split):
        before = node.count_left(n)
        is_left = node.count_left(n + 1) > before
        node, n = (node.left, before) if is_left else (node.right, n - before)
    return node, n


def count_drawn(node: _Tree, n: int) -> Iterator[tuple[int, int]]:
    """Sources and how many of the first n samples each has."""
    if isinstance(node, _Split):
        left = node.count_left(n)
        yield from count_drawn(node.left, left)
        yield from count_drawn(node.right, n - left)
    else:
        yield node, n


def list_sources(shares: Sequence[Share]) -> Iterator[SourceShare]:
    """All sources, in order."""
    for share in shares:
        if isinstance(share, GroupShare):
            yield from list_sources(share.parts)
        else:
            yield share


@dataclass(frozen=True)
class _End:
    """Sources that together end after some samples."""

    sources: tuple[int, ...]
    max_samples: int

    def is_reached(self, counts: Mapping[int, int]) -> bool:
        """Whether these counts of samples use it up."""
        return sum(counts.get(source, 0) for source in self.sources) >= self.max_samples


def _list_ends(shares: Sequence[Share], first: int) -> Iterator[_End]:
    """The ends of sources and groups; sources are numbered from `first`."""
    for share in shares:
        num_sources = sum(1 for _ in list_sources([share]))
        if share.max_samples is not None:
            yield _End(tuple(range(first, first + num_sources)), share.max_samples)
        if isinstance(share, GroupShare):
            yield from _list_ends(share.parts, first)
        first += num_sources


def plan_phases(shares: Sequence[Share]) -> Iterator[Phase]:
    """Phases from the start of the stream to its last change."""
    num_sources = sum(1 for _ in list_sources(shares))
    ends, gone = list(_list_ends(shares, 0)), set[int]()
    start, used = 0, dict.fromkeys(range(num_sources), 0)
    while True:
        tree = _grow_tree(shares, gone)
        yield Phase(start, tree, tuple(used.values()))
        ends = [end for end in ends if not gone.issuperset(end.sources)]
        if tree is None or not ends:
            return
        length = _find_change(tree, ends, used)
        start += length
        used |= {source: used[source] + count for source, count in count_drawn(tree, length)}
        for end in ends:
            if end.is_reached(used):
                gone.update(end.sources)


def _grow_tree(shares: Sequence[Share], gone: set[int]) -> _Tree | None:
    """The tree of the sources that are not gone; a group without any is no branch."""

    def grow(shares: Sequence[Share], first: int) -> _Tree | None:
        parts: list[tuple[Fraction, _Tree]] = []
        for share in shares:
            num_sources = sum(1 for _ in list_sources([share]))
            is_gone = gone.issuperset(range(first, first + num_sources))
            node = grow(share.parts, first) if isinstance(share, GroupShare) else first
            if not is_gone and node is not None:
                parts.append((Fraction(str(share.weight)), node))
            first += num_sources
        return _build_tree(parts) if parts else None

    return grow(shares, 0)


def _find_change(tree: _Tree, ends: Sequence[_End], used: Mapping[int, int]) -> int:
    """The fewest samples after which one of the ends is reached; counts only grow, so halving finds it."""

    def is_over(length: int) -> bool:
        counts = {source: used[source] + count for source, count in count_drawn(tree, length)}
        return any(end.is_reached(dict(used) | counts) for end in ends)

    high = 1
    while not is_over(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_over(middle) else (middle, high)
    return high
