from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmforge.data.blend import SampleOrder, SourceShare, count_samples, permute
from vlmforge.errors import ConfigError

weights = st.floats(0.001, 1000).map(lambda weight: round(weight, 4)).filter(lambda weight: weight > 0)


def order_of(*sizes, weights=None, seed=0, is_shuffled=True):
    weights = weights or [None] * len(sizes)
    shares = [SourceShare(f"s{k}", size, weight) for k, (size, weight) in enumerate(zip(sizes, weights, strict=True))]
    return SampleOrder(shares, seed, is_shuffled)


@settings(max_examples=40)
@given(st.integers(1, 700), st.text(max_size=5))
def test_permute_is_a_permutation_of_any_size(size, key):
    assert sorted(permute(position, size, key) for position in range(size)) == list(range(size))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 9))
def test_every_row_comes_once_an_epoch(sizes, epoch, seed):
    order = order_of(*sizes, seed=seed)
    total = order.samples_per_epoch
    drawn = [order(n) for n in range(epoch * total, (epoch + 1) * total)]
    assert sorted(drawn) == [(source, row) for source, size in enumerate(sizes) for row in range(size)]


def test_epochs_and_seeds_differ():
    order = order_of(100)
    first, second = [order(n) for n in range(100)], [order(n) for n in range(100, 200)]
    assert first != second
    assert first != [order_of(100, seed=1)(n) for n in range(100)]


def test_the_order_is_the_same_in_every_version():
    assert [order_of(10, 7, seed=3)(n) for n in range(6)] == [(1, 4), (1, 1), (0, 2), (1, 0), (0, 7), (0, 6)]


def test_the_order_is_not_visibly_regular():
    order = order_of(1000)
    rows = [order(n)[1] for n in range(1000)]
    neighbours = sum(abs(a - b) == 1 for a, b in pairwise(rows))
    assert neighbours < 10
    assert 450 < sum(rows[:500]) / 500 < 550


def test_a_far_sample_is_reached_without_those_before_it():
    order = order_of(10**12, 10**9)
    assert order(10**15) == order_of(10**12, 10**9)(10**15)


def test_file_order_reads_one_source_after_the_other_in_every_epoch():
    order = order_of(2, 3, is_shuffled=False)
    assert [order(n) for n in range(7)] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (0, 0), (0, 1)]


@settings(max_examples=50)
@given(st.lists(weights, min_size=1, max_size=4), st.integers(1, 400))
def test_up_to_four_sources_are_never_off_their_share_by_a_sample(weights, n):
    order = order_of(*[50] * len(weights), weights=weights)
    counts = Counter(order(k)[0] for k in range(n))
    total = sum(Fraction(str(weight)) for weight in weights)
    assert all(abs(counts[k] - n * Fraction(str(w)) / total) < 1 for k, w in enumerate(weights))


@settings(max_examples=50)
@given(st.lists(weights, min_size=5, max_size=16), st.integers(1, 300))
def test_many_sources_are_never_off_their_share_by_two(weights, n):
    order = order_of(*[50] * len(weights), weights=weights)
    counts = Counter(order(k)[0] for k in range(n))
    total = sum(Fraction(str(weight)) for weight in weights)
    assert all(abs(counts[k] - n * Fraction(str(w)) / total) < 2 for k, w in enumerate(weights))


def test_a_weighted_source_goes_through_all_its_rows_before_any_again():
    order = order_of(10, 20, weights=[3.0, 1.0])
    drawn = [row for source, row in (order(n) for n in range(120)) if source == 0]
    assert len(drawn) == 90
    assert all(sorted(drawn[k : k + 10]) == list(range(10)) for k in range(0, 90, 10))


def test_a_weight_for_some_sources_only_is_refused():
    with pytest.raises(ConfigError, match="others none"):
        order_of(3, 4, weights=[1.0, None])


def test_weights_without_shuffling_are_refused():
    with pytest.raises(ConfigError, match="no effect"):
        order_of(3, 4, weights=[1.0, 2.0], is_shuffled=False)


def test_a_tenth_of_an_epoch_is_exact():
    assert count_samples(0.1, 30) == 3
    assert count_samples(0.5, 7) == 4
