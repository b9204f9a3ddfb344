"""From the tree of a blend to shares of the samples: what weights in samples, tokens and epochs come to.

Needs the number of rows of each source, and for weights in tokens its mean length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from vlmforge.config.schema import WeightUnit
from vlmforge.data.leaves import Group, Leaf, Terms
from vlmforge.data.phases import GroupShare, Share, SourceShare


@dataclass(frozen=True)
class SizedSource:
    """What is measured of an opened source.

    Attributes:
        name: of the source.
        num_rows: how many rows are used.
        mean_tokens: tokens of a sample; None: not measured, because no weight asks for it.
    """

    name: str
    num_rows: int
    mean_tokens: Fraction | None = None


@dataclass(frozen=True)
class Shares:
    """What `SampleOrder` takes.

    Attributes:
        shares: in the order of the recipe.
        samples_per_epoch: of the whole blend.
    """

    shares: tuple[Share, ...]
    samples_per_epoch: int


@dataclass(frozen=True)
class _Sized:
    """A part of the tree with its numbers.

    Attributes:
        share: for the order; its weight is set by the group around it.
        epoch: its samples in an epoch of its own.
        mean_tokens: of its samples; None: not measured.
    """

    share: Share
    epoch: Fraction
    mean_tokens: Fraction | None


def derive_shares(group: Group, sources: Sequence[SizedSource]) -> Shares:
    """The shares of a blend.

    Args:
        group: the tree.
        sources: its leaves, opened.
    """
    if not group.is_mixed:
        # One list of rows, whatever lists it was written in.
        shares = tuple(SourceShare(source.name, source.num_rows, None) for source in sources)
        return Shares(shares, sum(source.num_rows for source in sources))
    sized = _size_group(group, iter(sources))
    assert isinstance(sized.share, GroupShare), "a group has parts"
    return Shares(sized.share.parts, math.ceil(sized.epoch))


def needs_lengths(group: Group) -> bool:
    """Whether a weight is in tokens."""
    weighs_tokens = group.unit == "tokens" and any(part.terms.weight is not None for part in group.parts)
    return weighs_tokens or any(needs_lengths(part) for part in group.parts if isinstance(part, Group))


def _size_group(group: Group, sources: Iterator[SizedSource]) -> _Sized:
    """A group, its parts weighted by samples."""
    sized = [_size_part(part, sources) for part in group.parts]
    # Without weights every row comes once an epoch, which is a weight of one epoch for each.
    unit = group.unit if group.parts[0].terms.weight is not None else "epochs"
    given = [part.terms.weight if part.terms.weight is not None else Fraction(1) for part in group.parts]
    weights = [_samples_of(unit, weight, part) for weight, part in zip(given, sized, strict=True)]
    parts = tuple(
        _take_part(part.share, weight, node.terms, part.epoch)
        for part, weight, node in zip(sized, weights, group.parts, strict=True)
    )
    means = [part.mean_tokens for part in sized]
    mean = None
    if all(value is not None for value in means):
        mean = sum((w * (m or 0) for w, m in zip(weights, means, strict=True)), Fraction()) / sum(weights)
    epoch = sum(weights) if unit == "epochs" else sum((part.epoch for part in sized), Fraction())
    return _Sized(GroupShare(parts, Fraction(1)), Fraction(epoch), mean)


def _size_part(part: Leaf | Group, sources: Iterator[SizedSource]) -> _Sized:
    if isinstance(part, Group):
        return _size_group(part, sources)
    source = next(sources)
    return _Sized(SourceShare(source.name, source.num_rows, None), Fraction(source.num_rows), source.mean_tokens)


def _samples_of(unit: WeightUnit, weight: Fraction, part: _Sized) -> Fraction:
    """A weight as a share of the samples, relative to the parts beside it."""
    if unit == "samples":
        return weight
    if unit == "epochs":
        return weight * part.epoch
    assert part.mean_tokens is not None, "weights in tokens need measured lengths"
    return weight / part.mean_tokens


def _take_part(share: Share, weight: Fraction, terms: Terms, epoch: Fraction) -> Share:
    """A share with its weight and its end."""
    ends = [] if terms.max_samples is None else [terms.max_samples]
    if terms.max_epochs is not None:
        ends.append(math.ceil(terms.max_epochs * epoch))
    return replace(share, weight=weight, max_samples=min(ends, default=None))
