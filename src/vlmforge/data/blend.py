"""Order: which row of which source is the n-th sample.

A pure function of (data config, seed, n), so that ranks, workers and restarts cannot change it, and any n is
reached at once. Nothing of the size of the data is kept in memory.

1. Sources without weights are one list of rows, permuted anew every epoch: each row comes once an epoch.
2. Sources with weights share the stream by a tree of two-way splits, blends inside blends being branches of it; each
   source is permuted by its own epochs.
3. A source with an end is in the tree until it is used up; from there on another tree shares the stream among those
   that are left. There are as many trees as such ends, whatever the length of the stream.
4. `shuffle: false` is file order, sources one after the other.

Permutations are Feistel networks over the next power of four, walked until they land inside (Black and
Rogaway 2002, "Ciphers with arbitrary finite domains").
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

from vlmforge.data.phases import Phase, Share, SourceShare, count_drawn, list_sources, plan_phases, walk
from vlmforge.errors import ConfigError, Problem

__all__ = ["SampleOrder", "SourceShare", "count_samples", "permute"]

_ROUNDS = 6


class SampleOrder:
    """Maps a sample number n to (source, row); sources are numbered as they come, those in groups too."""

    def __init__(
        self, shares: Sequence[Share], seed: int, is_shuffled: bool, samples_per_epoch: int | None = None
    ) -> None:
        """Prepare the order.

        Args:
            shares: the sources, in the order of the recipe.
            seed: `data.seed`.
            is_shuffled: `data.shuffle`.
            samples_per_epoch: of the blend; None: rows of all sources together.

        Raises:
            ConfigError: some sources have a weight and others none, or weights meet file order.
        """
        self._sources = tuple(list_sources(shares))
        self._seed = seed
        self._is_shuffled = is_shuffled
        self._ends = tuple(accumulate(source.num_rows for source in self._sources))
        self.samples_per_epoch = samples_per_epoch or self._ends[-1]
        has_weights = any(share.weight is not None for share in shares)
        if has_weights and (any(share.weight is None for share in shares) or not is_shuffled):
            raise ConfigError(_weights_problem(is_shuffled))
        self._phases = tuple(plan_phases(shares)) if has_weights else ()
        self._phase_starts = tuple(phase.start for phase in self._phases)

    @property
    def num_samples(self) -> int | None:
        """Length of the stream where every source ends; None: it goes on for ever."""
        return self._phases[-1].start if self._phases and self._phases[-1].tree is None else None

    @property
    def samples_per_round(self) -> int:
        """Samples after which rows come again: an epoch of the blend, or of its only source."""
        return self._sources[0].num_rows if len(self._sources) == 1 else self.samples_per_epoch

    def __call__(self, n: int) -> tuple[int, int]:
        """The number of the source and the row in it, of sample n counted from 0."""
        if not self._phases:
            epoch, position = divmod(n, self._ends[-1])
            if self._is_shuffled:
                position = permute(position, self._ends[-1], f"{self._seed}/{epoch}")
            source = bisect.bisect_right(self._ends, position)
            return source, position - (self._ends[source - 1] if source else 0)
        phase = self._phase_of(n)
        assert phase.tree is not None, f"sample {n} is beyond the end of the stream"
        source, m = walk(phase.tree, n - phase.start)
        share = self._sources[source]
        epoch, position = divmod(m + phase.used[source], share.num_rows)
        return source, permute(position, share.num_rows, f"{self._seed}/{epoch}/{share.name}")

    def count(self, n: int) -> tuple[int, ...]:
        """How many of the first n samples come from each source; in a part of a shuffled epoch, about how many."""
        if not self._phases:
            epochs, rest = divmod(n, self._ends[-1])
            return tuple(epochs * source.num_rows + self._count_rest(k, rest) for k, source in enumerate(self._sources))
        phase = self._phase_of(n)
        if phase.tree is None:
            return phase.used
        drawn = dict(count_drawn(phase.tree, n - phase.start))
        return tuple(used + drawn.get(source, 0) for source, used in enumerate(phase.used))

    def _count_rest(self, source: int, rest: int) -> int:
        """Samples of a source among the first `rest` of an epoch without weights."""
        num_rows = self._sources[source].num_rows
        if self._is_shuffled:
            return round(Fraction(rest * num_rows, self._ends[-1]))
        return min(num_rows, max(0, rest - (self._ends[source] - num_rows)))

    def _phase_of(self, n: int) -> Phase:
        return self._phases[bisect.bisect_right(self._phase_starts, n) - 1]


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
