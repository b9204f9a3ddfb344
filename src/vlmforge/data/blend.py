"""Order: which row of which source is the n-th sample.

A pure function of (data config, seed, n), so that ranks, workers and restarts cannot change it, and any n is
reached at once. Nothing of the size of the data is kept in memory.

1. Sources without weights are one list of rows, permuted anew every epoch: each row comes once an epoch.
2. Sources with weights share the stream by a tree of two-way splits; each source is permuted by its own
   epochs. An epoch of such a blend is as many samples as the sources have rows together.
3. `shuffle: false` is file order, sources one after the other.

Permutations are Feistel networks over the next power of four, walked until they land inside (Black and
Rogaway 2002, "Ciphers with arbitrary finite domains").
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

from vlmforge.errors import ConfigError, Problem

_ROUNDS = 6


@dataclass(frozen=True)
class SourceShare:
    """What the order needs to know of a source.

    Attributes:
        name: keys its permutation.
        num_rows: how many rows it has.
        weight: its share relative to the others; None: as many samples as rows.
    """

    name: str
    num_rows: int
    weight: float | None


class SampleOrder:
    """Maps a sample number n to (source, row)."""

    def __init__(self, shares: Sequence[SourceShare], seed: int, is_shuffled: bool) -> None:
        """Prepare the order.

        Args:
            shares: the sources, in the order of the recipe.
            seed: `data.seed`.
            is_shuffled: `data.shuffle`.

        Raises:
            ConfigError: some sources have a weight and others none, or weights meet file order.
        """
        self._shares = tuple(shares)
        self._seed = seed
        self._is_shuffled = is_shuffled
        self._ends = tuple(accumulate(share.num_rows for share in shares))
        weights = [share.weight for share in shares if share.weight is not None]
        if weights and (len(weights) < len(shares) or not is_shuffled):
            raise ConfigError(_weights_problem(is_shuffled))
        self._tree = _build_tree([Fraction(str(weight)) for weight in weights], 0) if weights else None

    @property
    def samples_per_epoch(self) -> int:
        """Rows of all sources together."""
        return self._ends[-1]

    def __call__(self, n: int) -> tuple[int, int]:
        """The number of the source and the row in it, of sample n counted from 0."""
        if self._tree is None:
            epoch, position = divmod(n, self._ends[-1])
            if self._is_shuffled:
                position = permute(position, self._ends[-1], f"{self._seed}/{epoch}")
            source = bisect.bisect_right(self._ends, position)
            return source, position - (self._ends[source - 1] if source else 0)
        source, m = _walk(self._tree, n)
        share = self._shares[source]
        epoch, position = divmod(m, share.num_rows)
        return source, permute(position, share.num_rows, f"{self._seed}/{epoch}/{share.name}")


def count_samples(max_epochs: float, samples_per_epoch: int) -> int:
    """Sample numbers of a training of `max_epochs` epochs; part of a sample is a sample."""
    # As a fraction, because 0.1 x 30 in floats is a little more than 3.
    return math.ceil(Fraction(str(max_epochs)) * samples_per_epoch)


def _weights_problem(is_shuffled: bool) -> Problem:
    """Weights that would have no meaning."""
    if is_shuffled:
        return Problem(
            "data.train gives some sources a weight and others none",
            "data.train",
            "give every source a weight",
        )
    return Problem(
        "data.shuffle = false reads sources one after the other, so weights have no effect",
        "data.shuffle",
        "data.shuffle=true, or leave the weights out",
    )


@dataclass(frozen=True)
class _Split:
    """A node of the tree: of m samples, the nearest integer to m x share go left, the others right."""

    share: Fraction
    left: _Split | int
    right: _Split | int

    def count_left(self, m: int) -> int:
        """How many of the first m samples go left."""
        numerator, denominator = self.share.numerator, self.share.denominator
        return (2 * m * numerator + denominator) // (2 * denominator)


def _build_tree(weights: Sequence[Fraction], first: int) -> _Split | int:
    """A tree over sources first, first + 1, ...; halving keeps it shallow, and rounding errors with it.

    A node is off by half a sample at most and hands its parent's error down in proportion, so that up to four
    sources are never off by a whole sample, and 2^d never by d/2.
    """
    if len(weights) == 1:
        return first
    middle = (len(weights) + 1) // 2
    left, right = weights[:middle], weights[middle:]
    return _Split(
        sum(left, Fraction()) / sum(weights, Fraction()),
        _build_tree(left, first),
        _build_tree(right, first + middle),
    )


def _walk(node: _Split | int, n: int) -> tuple[int, int]:
    """The source of sample n, and how many samples of that source come before it."""
    while isinstance(node, _Split):
        before = node.count_left(n)
        is_left = node.count_left(n + 1) > before
        node, n = (node.left, before) if is_left else (node.right, n - before)
    return node, n


def permute(position: int, size: int, key: str) -> int:
    """The image of `position` under the permutation of [0, size) that `key` names."""
    half_bits = ((size - 1).bit_length() + 1) // 2
    if half_bits == 0:
        return position
    round_keys = _round_keys(key)
    while True:
        position = _feistel(position, half_bits, round_keys)
        if position < size:
            return position


@lru_cache(maxsize=256)
def _round_keys(key: str) -> tuple[int, ...]:
    """One 64-bit key a round."""
    digest = hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS).digest()
    return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_ROUNDS))


def _feistel(value: int, half_bits: int, round_keys: tuple[int, ...]) -> int:
    """A permutation of [0, 4^half_bits)."""
    mask = (1 << half_bits) - 1
    left, right = value >> half_bits, value & mask
    for key in round_keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return left << half_bits | right


def _mix(value: int) -> int:
    """Scramble 64 bits (the finalizer of SplitMix64, Steele et al. 2014)."""
    value &= 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31
